"""A prepared data set of made-up samples: for measurements that read from stores, as runs do."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from benchmark.data.dataset import embeddings_folder
from benchmark.data.fingerprint import FORMAT
from benchmark.data.stores import RaggedWriter
from benchmark.random import stream
from benchmark.throughput.mixes import Mix
from models.contract import Dimensions

ENCODER, NOTE_FEATURES = "made-up", 768
"""Key of the embeddings of made-up notes, and the width of a BERT-base-sized encoder's."""


def write_made_up(folder: Path, mixes: Mapping[str, Mix], counts: Mapping[str, int], dimensions: Dimensions) -> None:
    """Of each mix as many samples of each partition as `counts` says."""
    store, entries = _Store(dimensions), {}
    (folder / "samples").mkdir(parents=True)
    for name, mix in mixes.items():
        frame = store.add(mix, counts)
        frame.to_parquet(folder / "samples" / f"{name}.parquet", index=False)
        entries[name] = {"classes": list(mix.task.classes or ()), "samples": dict(counts)}
    store.write(folder)
    manifest = {"format": FORMAT, "name": "made-up samples", "simulated": True, "fingerprint": ENCODER}
    (folder / "manifest.json").write_text(json.dumps(manifest | {"tasks": entries}), encoding="utf-8")


class _Store:
    """Lengths of the contents of samples, and then the contents: random numbers."""

    def __init__(self, dimensions: Dimensions) -> None:
        self.dimensions = dimensions
        self.hours, self.tokens = np.zeros(0, np.int64), np.zeros(0, np.int64)
        self.films = self.samples = 0

    def add(self, mix: Mix, counts: Mapping[str, int]) -> pd.DataFrame:
        """Samples of a task; of each partition as many as `counts` says."""
        size, rng = sum(counts.values()), stream(0, "made-up samples", mix.task.name)
        present, hours, tokens = mix.shapes(rng, size, self.dimensions)
        y, known = mix.labels(rng, size)
        frame = pd.DataFrame({"sample": self.samples + np.arange(size)})
        frame["patient"], frame["tail"] = frame["sample"], -1
        frame["split"] = np.repeat(list(counts), list(counts.values()))
        frame["series"] = _rows(present[:, 0], len(self.hours))
        frame["hours"] = 0
        frame.loc[present[:, 0], "hours"] = hours
        frame["film"] = _rows(present[:, 1], self.films)
        frame["note"] = _rows(present[:, 2], len(self.tokens))
        labels = np.where(known, y, np.nan).reshape(size, -1).astype(np.float32)
        frame = pd.concat([frame, pd.DataFrame(labels).add_prefix("y")], axis=1)
        self.hours, self.tokens = np.append(self.hours, hours), np.append(self.tokens, tokens)
        self.films, self.samples = self.films + int(present[:, 1].sum()), self.samples + size
        return frame

    def write(self, folder: Path) -> None:
        """The stores that the samples' rows are of."""
        rng, d = stream(0, "made-up contents"), self.dimensions
        longest = max(d.hours * d.series_features, d.note_tokens * d.note_features)
        numbers = rng.standard_normal(4 * longest, dtype=np.float32).astype(np.float16)
        series = (folder / "series", self.hours, d.series_features)
        notes = (embeddings_folder(folder, ENCODER), self.tokens, d.note_features)
        for place, lengths, width in (series, notes):
            writer = RaggedWriter(place, lengths, width)
            # Pieces of one long row of random numbers: to draw all of them would take longer than to train on them.
            last = len(numbers) - int(lengths.max(initial=0)) * width
            for row, (start, length) in enumerate(zip(rng.integers(0, last + 1, len(lengths)), lengths, strict=True)):
                writer.write(row, numbers[start : start + length * width].reshape(length, width))
            writer.close()
        np.save(folder / "series" / "tails.npy", np.zeros((0, d.series_features), np.float16))
        (folder / "films").mkdir()
        np.save(folder / "films" / "pixels.npy", rng.integers(0, 256, (self.films, 256, 256), dtype=np.uint8))


def _rows(owned: np.ndarray, first: int) -> np.ndarray:
    """Numbers from `first` for those that own something, -1 for the others."""
    return np.where(owned, first + np.cumsum(owned) - 1, -1)
