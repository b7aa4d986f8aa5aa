"""Repeats a finished run and says whether the same numbers come out."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmark.code_version import code_version
from benchmark.errors import UserError
from benchmark.files import unfinished_prefix
from benchmark.manifest import DataInfo
from benchmark.runs.collect import read_run
from benchmark.runs.environment import environment
from benchmark.runs.execute import Context, execute, read_state
from benchmark.runs.folder import finished_runs, runs_folder
from benchmark.runs.job import Job, job_of


@dataclass(frozen=True)
class Verdict:
    """How a repetition compares with the run.

    Attributes:
        same_bytes: whether the files of predictions and the kept state are equal.
        largest_gap: largest difference of a predicted probability. metrics: differences by task/metric, repeated minus
            stored; NaN where one of them is not defined.
        elsewhere: what of device, threads and packages was otherwise, as "name: then, now".
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
        raise UserError(f"{said} in {out} begin with {start!r}. Allowed: {', '.join(matches or found) or 'none yet'}")
    return matches[0]


def verify(
    out: Path, run: str, data: DataInfo, device: str | None = None, notify: Callable[[Any], None] = lambda _: None
) -> Verdict:
    """Repeats a finished run in a folder of its own, which is removed, and compares.

    Args:
        device: "cpu" or "cuda"; that of the run by default. notify: told after every epoch.

    Raises:
        UserError: code or data are not those of the run, or the repetition fails.
    """
    record = read_run(runs_folder(out) / run)
    job = job_of(record["job"])
    _require_same_ground(record, job, data)
    then = record["environment"]
    device = device or then["device"]
    with tempfile.TemporaryDirectory(prefix=unfinished_prefix(), dir=out) as place:
        repeated = Path(place)
        runs_folder(repeated).mkdir()
        if job.initial is not None:
            (runs_folder(repeated) / job.initial).symlink_to(runs_folder(out).resolve() / job.initial)
        context = Context(data.path, repeated, device, threads=1)
        result = execute(job, context, notify)
        if result.status != "done":
            raise UserError(f"{run} could not be repeated: {result.error}")
        return _compared(out, repeated, run, record, environment(device, 1))


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


def _compared(out: Path, repeated: Path, run: str, record: dict[str, Any], now: dict[str, Any]) -> Verdict:
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
    again = read_run(folders[1])["metrics"]
    metrics = {
        f"{task}/{name}": (again[task][name] if again[task][name] is not None else np.nan)
        - (value if value is not None else np.nan)
        for task, values in record["metrics"].items()
        for name, value in values.items()
    }
    same = files[0].read_bytes() == files[1].read_bytes() and same_state
    return Verdict(run, same, gap, metrics, _elsewhere(record["environment"], now))


def _elsewhere(then: dict[str, Any], now: dict[str, Any]) -> tuple[str, ...]:
    names = [name for name in ("device", "device_name", "threads", "python", "platform", "cuda") if name in now]
    pairs = [(name, then.get(name), now[name]) for name in names]
    pairs += [(name, then["packages"].get(name), value) for name, value in now["packages"].items()]
    return tuple(f"{name}: {old} then, {new} now" for name, old, new in pairs if old != new)
