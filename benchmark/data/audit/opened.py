"""A prepared folder, opened for the audit with the evidence that it keeps."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmark.data.rules import Rules
from benchmark.data.stores import RaggedStore
from benchmark.errors import UserError


@dataclass(frozen=True)
class Opened:
    """A prepared folder with the evidence that it keeps.

    Attributes:
        manifest: as written. rules: those in force. samples: per task the samples, each with its unit and moment of
            prediction (`links.parquet`). patients, stays, tails, films, notes: see `benchmark.data.evidence`; films
            and notes are empty without that source.
    """

    folder: Path
    manifest: dict[str, Any]
    rules: Rules
    samples: dict[str, pd.DataFrame]
    links: pd.DataFrame
    patients: pd.DataFrame
    stays: pd.DataFrame
    tails: pd.DataFrame
    films: pd.DataFrame
    notes: pd.DataFrame

    @cached_property
    def series(self) -> RaggedStore:
        return RaggedStore.open(self.folder / "series")

    @cached_property
    def last_event(self) -> np.ndarray:
        return np.load(self.folder / "private" / "last_event.npy")

    @cached_property
    def observed(self) -> np.ndarray:
        return np.load(self.folder / "private" / "observed.npy")

    @cached_property
    def tail_values(self) -> np.ndarray:
        return np.load(self.folder / "series" / "tails.npy")

    @property
    def classes(self) -> dict[str, list[str]]:
        return {task: entry["classes"] for task, entry in self.manifest["tasks"].items()}

    def rows(self, task: str, store: str) -> pd.DataFrame:
        """The evidence behind each sample's series, tail, film or note; blank where the sample has none."""
        table = {"series": self.stays, "tail": self.tails, "film": self.films, "note": self.notes}[store]
        frame = self.samples[task]
        return table.reindex(frame[store]).set_axis(frame.index)


_NO_FILMS = {
    "film": "int64",
    "dicom_id": "object",
    "subject_id": "int64",
    "study_id": "int64",
    "time": "datetime64[us]",
}
_NO_NOTES = {
    "note": "int64",
    "section": "object",
    "subject_id": "int64",
    "hadm_id": "int64",
    "charttime": "datetime64[us]",
}


def open_folder(folder: Path) -> Opened:
    """Open a prepared folder for an audit.

    Raises:
        UserError: a file is missing or unreadable.
    """
    folder, private = Path(folder), Path(folder) / "private"
    try:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        tables = {name: pd.read_parquet(private / f"{name}.parquet") for name in ("patients", "stays", "tails")}
        for name, columns in (("films", _NO_FILMS), ("notes", _NO_NOTES)):
            path, empty = private / f"{name}.parquet", pd.DataFrame(columns=list(columns)).astype(columns)
            tables[name] = pd.read_parquet(path) if path.is_file() else empty
        links = pd.read_parquet(private / "links.parquet")
        samples = {task: pd.read_parquet(folder / "samples" / f"{task}.parquet") for task in manifest["tasks"]}
    except (OSError, ValueError, KeyError) as fault:
        raise UserError(f"{folder} cannot be audited: {fault}; prepare the data again") from fault
    own = links.drop_duplicates("sample")
    joined = {task: _linked(frame, own) for task, frame in samples.items()}
    return Opened(folder, manifest, Rules(**manifest["rules"]), joined, links, **tables)


def _linked(frame: pd.DataFrame, links: pd.DataFrame) -> pd.DataFrame:
    linked = links.drop(columns=["task"]).set_index("sample").reindex(frame["sample"])
    return frame.join(linked.set_axis(frame.index))
