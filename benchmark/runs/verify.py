"""Repeats a finished run and says whether the same numbers come out."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmark.code_version import code_version
from benchmark.errors import UserError
from benchmark.files import unfinished_prefix
from benchmark.manifest import DataInfo
from benchmark.runs.collect import read_run
from benchmark.runs.companies import execute_company
from benchmark.runs.execute import Context, RunResult, execute, read_state
from benchmark.runs.folder import finished_runs, is_done, runs_folder
from benchmark.runs.job import Job, job_of

_COURSE_OF_TRAINING = (("epochs before an interruption", "resumed_after", 0), ("parts of a batch", "parts", 1))
"""Name, key in a record's `info`, value of a record without it. Before an interruption a run may have shared its steps
with other seeds than after it, and parts of a batch have other random numbers than the whole."""


@dataclass(frozen=True)
class Verdict:
    """How a repetition compares with the run.

    Attributes:
        same_bytes: whether the files of predictions and the kept state are equal.
        largest_gap: largest difference of a predicted probability. metrics: differences by task/metric, repeated minus
            stored; NaN where one of them is not defined.
        elsewhere: what of form, interruptions, parts of batches, device, threads and packages was otherwise, as
            "name: old then, new now".
    """

    run: str
    same_bytes: bool
    largest_gap: float
    metrics: dict[str, float]
    elsewhere: tuple[str, ...]


def find_run(out: Path, start: str) -> str:
    """The finished run whose folder begins with `start`."""
    found = [folder.name for folder in finished_runs(out) if folder.suffix != ".failed"]
    matches = [name for name in found if name == start] or [name for name in found if name.startswith(start)]
    if len(matches) != 1:
        said = "no finished run" if not matches else f"{len(matches)} finished runs"
        there = ", ".join(matches or found) or "none yet"
        raise UserError(f"{said} in {out} with a name that begins with {start!r}. Allowed: {there}")
    return matches[0]


def verify(
    out: Path, run: str, data: DataInfo, device: str | None = None, notify: Callable[[Any], None] = lambda _: None
) -> Verdict:
    """Repeats a finished run in a folder of its own, which is removed, and compares.

    The run is trained as it was: in the same form, with the same kind of algorithms, and side by side with the same
    seeds. A sum over a product of several seeds may be made in another order than that of one, so that on a GPU a seed
    repeated alone need not give the same bytes. The other seeds are not compared.

    Args:
        device: "cpu" or "cuda"; that of the run by default. notify: told after every epoch of this run.

    Raises:
        UserError: code or data are not those of the run, the device or what the run or a seed beside it starts from is
            not there, or the repetition fails.
    """
    record = read_run(runs_folder(out) / run)
    job = job_of(record["job"])
    _require_same_ground(record, job, data)
    then = record["environment"]
    device = device or then["device"]
    _require_device(device)
    seeds = _side_by_side(record)
    company = _company(out, job, seeds)
    with tempfile.TemporaryDirectory(prefix=unfinished_prefix(), dir=out) as place:
        repeated = Path(place)
        runs_folder(repeated).mkdir()
        for initial in {one.initial for one in company if one.initial is not None}:
            (runs_folder(repeated) / initial).symlink_to(runs_folder(out).resolve() / initial)
        form = "fixed" if seeds else "packed"
        deterministic = bool(then.get("deterministic"))
        context = Context(data.path, repeated, device, threads=1, deterministic=deterministic, form=form)
        result = _repeat(job, company, context, notify)
        if result.status != "done":
            raise UserError(f"{run} could not be repeated: {result.error}")
        return _compared(out, repeated, run, record)


def _require_same_ground(record: dict[str, Any], job: Job, data: DataInfo) -> None:
    if job.data != data.fingerprint:
        raise UserError(f"{record['run']} was made from other data than {data.name} in {data.path}")
    if job.code != code_version():
        commit = record.get("code", {}).get("commit")
        hint = f"; it was made at commit {commit}" if commit else ""
        raise UserError(
            f"{record['run']} was made by code of version {job.code[:8]}, this is {code_version()[:8]}: that alone "
            f"may change its numbers{hint}"
        )


def _require_device(device: str) -> None:
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("the repetition is to run on cuda, and torch sees no CUDA device; --device cpu is possible")


def _side_by_side(record: dict[str, Any]) -> tuple[int, ...]:
    """Seeds that shared the run's steps, in their order; none if it was trained in the packed form.

    Raises:
        UserError: an older version wrote the record, and noted how many seeds they were but not which.
    """
    if "form" in record:
        return tuple(record["side_by_side"])
    count = record["info"].get("seeds_together", 0)  # older versions kept this alone, and only of the fixed form
    if count > 1:
        raise UserError(
            f"{record['run']} was trained side by side with other seeds, {count} in all; its record is of an older "
            "version and does not say with which, so that it cannot be repeated as it was"
        )
    return (record["job"]["seed"],) * count


def _company(out: Path, job: Job, seeds: Sequence[int]) -> list[Job]:
    """The jobs to train so that `job` is trained as it was: one of each of `seeds`, or it alone.

    Raises:
        UserError: what one of them starts from has not finished in `out`.
    """
    if job.initial is not None and not is_done(out, job.initial):
        raise UserError(f"{job.id} starts from {job.initial}, which is no finished run in {out}")
    company = [job if seed == job.seed else _with_seed(out, job, seed) for seed in seeds] or [job]
    for one in company:
        if one.initial is not None and not is_done(out, one.initial):
            raise UserError(
                f"{job.id} was trained side by side with seed {one.seed}, which starts from {one.initial}; that is no "
                f"finished run in {out}, so that the steps they shared cannot be repeated"
            )
    return company


def _with_seed(out: Path, job: Job, seed: int) -> Job:
    """The job that differs from `job` in the seed alone; what it starts from differs in the same way."""
    if job.initial is None:
        return replace(job, seed=seed)
    first = job_of(read_run(runs_folder(out) / job.initial)["job"])
    return replace(job, seed=seed, initial=_with_seed(out, first, seed).id)


def _repeat(job: Job, company: Sequence[Job], context: Context, notify: Callable[[Any], None]) -> RunResult:
    """Trains the jobs of `company` as the context's form says; the result of `job`, which is one of them."""
    if context.form == "packed":
        return execute(job, context, notify)

    def tell(one: Job, report: Any) -> None:
        if one == job:
            notify(report)

    (result,) = (result for result in execute_company(company, context, tell) if result.job == job)
    return result


def _compared(out: Path, repeated: Path, run: str, record: dict[str, Any]) -> Verdict:
    folders = [runs_folder(place) / run for place in (out, repeated)]
    files = [folder / "predictions.parquet" for folder in folders]
    before, after = (pd.read_parquet(file) for file in files)
    if not before["sample"].equals(after["sample"]):
        raise UserError(f"{run}: the repetition predicts other samples")
    gap = max(float(np.abs(a - b).max()) for a, b in zip(before["p"], after["p"], strict=True))
    states = [read_state(place, run) for place in (out, repeated)]
    same_state = states[0].keys() == states[1].keys() and all(
        value.equal(states[1][name]) for name, value in states[0].items()
    )
    again = read_run(folders[1])
    scores = again["metrics"]
    metrics = {
        f"{task}/{name}": (scores[task][name] if scores[task][name] is not None else np.nan)
        - (value if value is not None else np.nan)
        for task, values in record["metrics"].items()
        for name, value in values.items()
    }
    same = files[0].read_bytes() == files[1].read_bytes() and same_state
    return Verdict(run, same, gap, metrics, _elsewhere(record, again))


def _elsewhere(record: dict[str, Any], again: dict[str, Any]) -> tuple[str, ...]:
    then, now = record["environment"], again["environment"]
    names = [name for name in ("device", "device_name", "threads", "python", "platform", "cuda") if name in now]
    pairs = [("form", _form_in_words(record), _form_in_words(again))]
    pairs += [
        (words, *(one["info"].get(name, usual) for one in (record, again)))
        for words, name, usual in _COURSE_OF_TRAINING
    ]
    pairs += [(name, then.get(name), now[name]) for name in names]
    pairs += [(name, then["packages"].get(name), value) for name, value in now["packages"].items()]
    return tuple(f"{name}: {old} then, {new} now" for name, old, new in pairs if old != new)


def _form_in_words(record: dict[str, Any]) -> str:
    seeds = _side_by_side(record)
    if len(seeds) < 2:
        return "fixed with one seed" if seeds else "packed"
    return f"fixed with seeds {', '.join(map(str, seeds))} side by side"
