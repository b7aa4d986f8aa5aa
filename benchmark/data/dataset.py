"""A prepared data set, opened for reading: samples, labels and memory-mapped stores."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from benchmark.data.fingerprint import FORMAT
from benchmark.data.stores import RaggedStore
from benchmark.errors import UserError
from benchmark.random import stream
from benchmark.suggest import unknown
from benchmark.tasks import TASKS
from benchmark.tasks.record import Task

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Samples:
    """The samples of one task and one partition, n of them; -1 stands for "has none".

    Attributes:
        sample: (n,) number of the sample, unique in the data set. patient: (n,) number of the patient.
        series: (n,) row of the series store. hours: (n,) rows of that series that the sample may see; of more than a
            model takes, batches keep the last, so that position 0 is then not hour 0.
        tail: (n,) row of the tail store that replaces the last seen hour. film: (n,) row of the film store.
        note: (n,) row of the text table.
        labels: (n, C) float32, NaN where masked; (n, 1) class index for multiclass tasks.
    """

    sample: np.ndarray
    patient: np.ndarray
    series: np.ndarray
    hours: np.ndarray
    tail: np.ndarray
    film: np.ndarray
    note: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.sample)

    def take(self, chosen: np.ndarray) -> Samples:
        """The samples at positions `chosen`."""
        return Samples(**{field.name: getattr(self, field.name)[chosen] for field in fields(self)})


@dataclass(frozen=True)
class TaskData:
    """A task of a data set: its record, its class names and the samples of each partition that was asked for."""

    task: Task
    classes: tuple[str, ...]
    partitions: dict[str, Samples]

    def with_label_fraction(self, fraction: float) -> TaskData:
        """The task with a share of its training samples, at least one; validation and test stay whole.

        The samples do not depend on model or seed, and those of a smaller share are among those of a larger one.
        """
        if fraction == 1:
            return self
        training = self.partitions["train"]
        order = stream(0, "label fraction", self.task.name).permutation(len(training))
        chosen = np.sort(order[: max(1, round(fraction * len(training)))])
        return replace(self, partitions=self.partitions | {"train": training.take(chosen)})


class PreparedData:
    """A folder that `bench prepare` wrote; arrays are memory-mapped, so that opening costs nothing."""

    def __init__(self, folder: Path, manifest: dict) -> None:
        self.folder, self.manifest = folder, manifest

    @classmethod
    def open(cls, folder: Path) -> PreparedData:
        """Opens a prepared data set.

        Raises:
            UserError: the folder is no prepared data set, or one of another format.
        """
        file = Path(folder) / "manifest.json"
        if not file.is_file():
            raise UserError(f"{folder} is not a prepared data set (no manifest.json); write one with `bench prepare`")
        manifest = json.loads(file.read_text())
        if manifest.get("format") != FORMAT:
            raise UserError(
                f"{file}: format {manifest.get('format')!r}; this version reads format {FORMAT}. Prepare the data again"
            )
        return cls(Path(folder), manifest)

    @property
    def name(self) -> str:
        return self.manifest["name"]

    @property
    def fingerprint(self) -> str:
        return self.manifest["fingerprint"]

    @property
    def simulated(self) -> bool:
        return self.manifest["simulated"]

    def classes(self, name: str) -> tuple[str, ...]:
        return tuple(self._entry(name)["classes"])

    def task(self, name: str, splits: Sequence[str] = SPLITS) -> TaskData:
        """Samples and labels of a task, of the partitions `splits` alone.

        Raises:
            UserError: the data set does not have the task.
        """
        entry = self._entry(name)
        file = self.folder / "samples" / f"{name}.parquet"
        frame = pd.read_parquet(file, filters=[("split", "in", list(splits))])
        partitions = {split: _samples(frame[frame["split"] == split]) for split in splits}
        for part in partitions.values():
            _require_labels(part.labels, TASKS[name], len(entry["classes"]), file)
        return TaskData(TASKS[name], tuple(entry["classes"]), partitions)

    def truth(self, name: str) -> pd.DataFrame | None:
        """True outcome probabilities of a simulated data set, columns sample, p0, p1, ...; None on real data."""
        file = self.folder / "truth" / f"{name}.parquet"
        return pd.read_parquet(file) if file.is_file() else None

    @cached_property
    def series(self) -> RaggedStore:
        return RaggedStore.open(self.folder / "series")

    @cached_property
    def tails(self) -> np.ndarray:
        """(K, 76) last hours of series that are cut within an hour."""
        return np.load(self.folder / "series" / "tails.npy", mmap_mode="r")

    @cached_property
    def films(self) -> np.ndarray:
        """(n, 256, 256) uint8; none of a data set that was prepared without films."""
        if self.manifest.get("modalities", {}).get("cxr") is False:
            return np.zeros((0, 256, 256), dtype=np.uint8)
        return np.load(self.films_file, mmap_mode="r")

    @property
    def films_file(self) -> Path:
        return self.folder / "films" / "pixels.npy"

    def notes(self, encoder: str, draw: int | None = None) -> RaggedStore:
        """Token embeddings of all texts by the encoder of that key; length 0 where a text is not encoded.

        With a number of `draw` they have the noise of the encoder's own dropout, and are of training texts alone.
        """
        return RaggedStore.open(embeddings_folder(self.folder, encoder, draw))

    def _entry(self, name: str) -> dict:
        tasks = self.manifest["tasks"]
        if name in tasks:
            return tasks[name]
        if name in self.manifest.get("impossible", {}):
            raise UserError(f"task {name} is impossible on {self.name}: {self.manifest['impossible'][name]}")
        raise UserError(unknown("task", name, list(tasks)))


def embeddings_folder(data: Path, encoder: str, draw: int | None = None) -> Path:
    """Where the data set at `data` has the embeddings of its texts; see `PreparedData.notes`."""
    if draw is None:
        return data / "notes" / "embeddings" / encoder
    return data / "notes" / "embeddings_with_dropout" / encoder / str(draw)


def _samples(frame: pd.DataFrame) -> Samples:
    columns = {
        name: frame[name].to_numpy(copy=True)
        for name in ("sample", "patient", "series", "hours", "tail", "film", "note")
    }
    labels = [name for name in frame.columns if name[0] == "y" and name[1:].isdigit()]
    labels.sort(key=lambda name: int(name[1:]))
    return Samples(**columns, labels=frame[labels].to_numpy(np.float32, copy=True))


def _require_labels(labels: np.ndarray, task: Task, classes: int, file: Path) -> None:
    known = labels[~np.isnan(labels)]
    top = classes - 1 if task.kind == "multiclass" else 1
    wrong = known[(known < 0) | (known > top) | (known != np.floor(known))]
    if len(wrong):
        raise UserError(f"{file}: a label is {wrong[0]:g}; allowed are 0 to {top}, or none: prepare the data set again")
