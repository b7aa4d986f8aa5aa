"""Trainings that end with validation: the reference's, and the best settings' over seeds. Kept by job, and shared."""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from benchmark.errors import UserError
from benchmark.files import replace_text
from benchmark.runs.collect import read_run
from benchmark.runs.execute import Context, RunResult, store_failure, threads_of, training_plan
from benchmark.runs.folder import is_done, json_text, runs_folder
from benchmark.runs.job import Job
from benchmark.tuning.objective import Metrics

if TYPE_CHECKING:
    from benchmark.data.dataset import PreparedData
    from benchmark.training import EpochReport, Validated


def known_metrics(out: Path, job: Job) -> Metrics | None:
    """Selection metrics of a job in its kept epoch, from an earlier validation or from a finished run of `bench run`,
    of which the history alone is read; None if there is neither."""
    from benchmark.training import kept_metrics

    if is_done(out, job.id):
        folder = runs_folder(out) / job.id
        return kept_metrics(pd.read_parquet(folder / "history.parquet"), read_run(folder)["info"]["best_epoch"])
    file = _file(out, job)
    if not file.is_file():
        return None
    try:
        metrics = json.loads(file.read_text(encoding="utf-8"))["metrics"]
    except (ValueError, KeyError) as fault:
        raise UserError(f"{file} is damaged ({fault}); delete it to have the training repeated") from fault
    return {task: {name: _number(value) for name, value in values.items()} for task, values in metrics.items()}


def validate_job(
    job: Job,
    context: Context,
    notify: Callable[[EpochReport], None] = lambda report: None,
    data: PreparedData | None = None,
) -> RunResult:
    """Trains a job on validation and keeps the result; what executors take in place of `benchmark.runs.execute`.

    The folder `context.out` is that of tuning: records of failures go there and are no runs of `bench run`.
    """
    started, clock = datetime.now(UTC), time.perf_counter()
    try:
        validated = run_validation(job, context, notify, data)
    except Exception as fault:  # as for runs: whatever a model raises is its result
        text = str(fault) if isinstance(fault, UserError) else f"{type(fault).__name__}: {fault}"
        seconds = time.perf_counter() - clock
        store_failure(job, context, started, seconds, text, traceback.format_exc())
        return RunResult(job, "failed", seconds=seconds, error=text)
    record = {"job": asdict(job), "metrics": validated.metrics, "best_epoch": validated.best_epoch}
    history = validated.history.to_dict("list")
    replace_text(_file(context.out.parent, job), json_text({**record, "history": history}))
    return RunResult(job, "done", validated.metrics, validated.seconds)


def run_validation(
    job: Job, context: Context, notify: Callable[[EpochReport], None], data: PreparedData | None = None
) -> Validated:
    """Trains a job on validation, with the threads and the kind of algorithms that jobs have."""
    import torch

    from benchmark.data.dataset import PreparedData
    from benchmark.training import validate

    opened = data or PreparedData.open(context.data)
    with threads_of(context):
        return validate(training_plan(job), opened, torch.device(context.device), notify)


def missing(out: Path, jobs: Sequence[Job]) -> list[Job]:
    """Those of `jobs` whose metrics are not known yet."""
    return [job for job in jobs if known_metrics(out, job) is None]


def _file(out: Path, job: Job) -> Path:
    return out / "tuning" / "validated" / f"{job.id}.json"


def _number(value: float | None) -> float:
    return float("nan") if value is None else float(value)
