"""Scores of stored runs on resampled test patients, computed from their predictions once and kept.

OUT/resampled/<run id>.npz   one array (resamples + 1) a task and metric, and what it was made with

A task's test patients are drawn by their number and order alone, so that all runs on a task share the draws, here and
wherever else its scores are resampled. If the number of resamples or the predictions change (a run that is repeated
keeps its id), the scores are computed again.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import pandas as pd

from benchmark.errors import UserError
from benchmark.evaluation.resampling import patient_weights, resampled
from benchmark.files import replacing
from benchmark.runs.folder import runs_folder
from benchmark.runs.groups import RunGroup
from benchmark.tasks import TASKS

RESAMPLES = 1000
_MADE_WITH = "made_with"

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Predictions:
    """Test predictions of one run on one task, n samples in the order of their names.

    Attributes:
        sample, patient: (n,) keyed hashes. present: (n, M) bool. y, known, probability: as for
            `benchmark.evaluation.metrics.compute`.
    """

    sample: np.ndarray
    patient: np.ndarray
    present: np.ndarray
    y: np.ndarray
    known: np.ndarray
    probability: np.ndarray


def read_predictions(out: Path, run: str, task: str) -> Predictions:
    """What `run` predicted for the test samples of `task`.

    Raises:
        UserError: there is no such run, or its file cannot be read or lacks the task.
    """
    file = runs_folder(out) / run / "predictions.parquet"
    try:
        frame = pd.read_parquet(file, filters=[("task", "==", task)])
    except (OSError, ValueError, KeyError) as fault:
        raise UserError(f"cannot read {file}: {fault}; delete its folder to have the run repeated") from fault
    if frame.empty:
        raise UserError(f"{file} has no predictions for {task}")
    frame = frame.sort_values("sample", ignore_index=True)
    y = np.stack(frame["y"].to_list()).astype(np.float64)
    known = np.isfinite(y)
    y = np.where(known, y, 0.0)
    if TASKS[task].kind == "multiclass":
        y, known = y[:, 0].astype(np.int64), known[:, 0]
    return Predictions(
        frame["sample"].to_numpy(str),
        frame["patient"].to_numpy(str),
        frame[["present_ehr", "present_cxr", "present_note"]].to_numpy(bool),
        y,
        known,
        np.stack(frame["p"].to_list()).astype(np.float64),
    )


def predictions_digest(out: Path, run: str) -> str:
    """SHA-256 (hex) of the stored predictions of a run."""
    with open(runs_folder(out) / run / "predictions.parquet", "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Resamples:
    """Resampled scores of some runs.

    Args:
        out: folder of the results. runs: the tasks of each run, by its id. resamples: number of draws.
    """

    def __init__(self, out: Path, runs: Mapping[str, Sequence[str]], resamples: int = RESAMPLES) -> None:
        self.out, self.runs, self.resamples = out, dict(runs), resamples
        self._read: dict[str, dict[str, np.ndarray]] = {}  # tables ask for the same runs again and again

    def compute(self, progress: Progress = lambda *_: None, processes: int | None = None) -> None:
        """Makes what is missing; several processes share the work."""
        missing = [run for run in self.runs if not self._is_made(run)]
        if not missing:
            return
        self._read.clear()
        if processes is None:  # starting a process costs as much as some thousand samples
            small = sum((runs_folder(self.out) / run / "predictions.parquet").stat().st_size for run in missing) < 2**25
            processes = 1 if small else min(len(missing), os.cpu_count() or 1)
        work = [(self.out, run, tuple(self.runs[run]), self.resamples, self._made_with(run)) for run in missing]
        progress("intervals", 0, len(missing))
        if processes == 1:
            for done, parts in enumerate(work, 1):
                _compute(*parts)
                progress("intervals", done, len(missing))
            return
        with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
            for done, _ in enumerate(pool.map(_compute, *zip(*work, strict=True)), 1):
                progress("intervals", done, len(missing))

    def scores(self, runs: Iterable[str], task: str, metric: str) -> np.ndarray:
        """Scores (S, resamples + 1) of some runs, one a seed; column 0 is the data as they are."""
        return np.stack([self._scores_of(run)[f"{task}/{metric}"] for run in runs])

    def _scores_of(self, run: str) -> dict[str, np.ndarray]:
        if run not in self._read:
            self._read[run] = _arrays(_file(self.out, run))
        return self._read[run]

    def _made_with(self, run: str) -> str:
        return f"{self.resamples} of each task's patients, {predictions_digest(self.out, run)}"

    def _is_made(self, run: str) -> bool:
        try:
            return str(_arrays(_file(self.out, run))[_MADE_WITH]) == self._made_with(run)
        except (OSError, ValueError, KeyError, BadZipFile):
            return False


def resamples_of(out: Path, runs: pd.DataFrame, group: RunGroup, resamples: int = RESAMPLES) -> Resamples:
    """Of the finished runs of a group; `runs` as `collect` gives them."""
    members = runs[runs["run"].isin(group.runs) & (runs["status"] == "done")]
    return Resamples(out, dict(zip(members["run"], members["tasks"], strict=True)), resamples)


def _file(out: Path, run: str) -> Path:
    return out / "resampled" / f"{run}.npz"


def _arrays(file: Path) -> dict[str, np.ndarray]:
    with np.load(file, allow_pickle=False) as stored:
        return dict(stored)


@lru_cache(2)
def _weights(patients: int, resamples: int) -> np.ndarray:
    return patient_weights(patients, resamples)


def _compute(out: Path, run: str, tasks: Sequence[str], resamples: int, made_with: str) -> None:
    """Scores of one run on all its tasks, written to its file."""
    arrays = {_MADE_WITH: np.array(made_with)}
    for name in tasks:
        task, found = TASKS[name], read_predictions(out, run, name)
        patients, rows = np.unique(found.patient, return_inverse=True)
        weights = _weights(len(patients), resamples)
        classes = task.classes or tuple(map(str, range(found.probability.shape[1])))
        results = resampled(task.metrics, task.kind, classes, found.y, found.known, found.probability, rows, weights)
        arrays |= {f"{name}/{metric}": values for metric, values in results.items()}
    with replacing(_file(out, run)) as stream:
        np.savez(stream, **arrays)
