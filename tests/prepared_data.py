"""Writes small prepared data sets with labels that can be learned, for tests that need no raw files."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from benchmark.data.stores import RaggedWriter
from benchmark.tasks import TASKS
from models.contract import Dimensions

ENCODER = "random"
NOTE_WIDTH = 6


def write_prepared(folder: Path, tasks: tuple[str, ...] = ("ihm", "los", "dia"), size: int = 90, seed: int = 0) -> Path:
    """A prepared data set of `size` samples a task: labels follow the first column of every modality a sample owns."""
    rng = np.random.default_rng(seed)
    signal = rng.normal(size=size)
    hours, tokens = rng.integers(3, 20, size), rng.integers(0, 8, size)
    series = RaggedWriter(folder / "series", hours, 76)
    notes = RaggedWriter(folder / "notes" / "embeddings" / ENCODER, tokens, NOTE_WIDTH)
    for row in range(size):
        series.write(row, rng.normal(signal[row], 0.5, (hours[row], 76)).astype(np.float16))
        notes.write(row, rng.normal(signal[row], 0.5, (tokens[row], NOTE_WIDTH)).astype(np.float16))
    series.close()
    notes.close()
    np.save(folder / "series" / "tails.npy", np.full((size, 76), 9.0, np.float16))
    (folder / "films").mkdir()
    coarse = np.clip(128 + 40 * signal[:, None, None] + rng.normal(0, 60, (size, 32, 32)), 0, 255).astype(np.uint8)
    np.save(folder / "films" / "pixels.npy", coarse.repeat(8, axis=1).repeat(8, axis=2))
    manifest = {"format": 1, "name": "test data", "simulated": True, "fingerprint": f"test-{size}-{seed}", "tasks": {}}
    (folder / "samples").mkdir()
    for number, name in enumerate(tasks):
        frame = _samples(name, number * size, hours, tokens, signal, rng)
        frame.to_parquet(folder / "samples" / f"{name}.parquet", index=False)
        manifest["tasks"][name] = {"classes": list(_classes(name)), "samples": frame["split"].value_counts().to_dict()}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def overwrite_unseen(folder: Path, task: str, dimensions: Dimensions, filler: float) -> Path:
    """Replaces all stored content that no sample of `task` may see: other hours, texts, tokens, films and tails."""
    frame = pd.read_parquet(folder / "samples" / f"{task}.parquet")
    _overwrite(folder / "films" / "pixels.npy", frame["film"][frame["film"] >= 0], np.clip(filler, 0, 255))
    _overwrite(folder / "series" / "tails.npy", frame["tail"][frame["tail"] >= 0], filler)
    stay = frame[frame["series"] >= 0]
    starts = np.load(folder / "series" / "offsets.npy")[stay["series"]]
    stops = starts + stay["hours"]
    last = stops - (stay["tail"] >= 0)  # a tail stands in for the last hour
    _overwrite(folder / "series" / "values.npy", _ranges(np.maximum(starts, stops - dimensions.hours), last), filler)
    texts = folder / "notes" / "embeddings" / ENCODER
    offsets, note = np.load(texts / "offsets.npy"), frame["note"][frame["note"] >= 0].to_numpy()
    ends = np.minimum(offsets[note + 1], offsets[note] + dimensions.note_tokens)
    _overwrite(texts / "values.npy", _ranges(offsets[note], ends), filler)
    return folder


def _ranges(starts: Iterable[int], stops: Iterable[int]) -> np.ndarray:
    return np.concatenate([np.arange(a, b) for a, b in zip(starts, stops, strict=True)])


def _overwrite(file: Path, seen: Iterable[int], filler: float) -> None:
    values = np.load(file, mmap_mode="r+")
    values[np.setdiff1d(np.arange(len(values)), seen)] = filler
    values.flush()


def _classes(name: str) -> tuple[str, ...]:
    return TASKS[name].classes or ("a", "b", "c")


def _samples(
    name: str, first: int, hours: np.ndarray, tokens: np.ndarray, signal: np.ndarray, rng: np.random.Generator
) -> pd.DataFrame:
    size, task = len(hours), TASKS[name]
    has_film = np.ones(size, bool) if task.primary == "cxr" else rng.random(size) < 0.3
    has_series = rng.random(size) < 0.4 if task.primary == "cxr" else np.ones(size, bool)
    frame = pd.DataFrame({"sample": first + np.arange(size), "patient": np.arange(size)})
    frame["split"] = np.resize(["train"] * 7 + ["val"] + ["test"] * 2, size)
    frame["series"] = np.where(has_series, np.arange(size), -1)
    frame["hours"] = np.where(has_series, np.maximum(hours - 1, 1), 0).astype(np.int32)
    frame["tail"] = np.where(has_series & (task.primary == "cxr"), np.arange(size), -1)
    frame["film"] = np.where(has_film, np.arange(size), -1)
    frame["note"] = np.where((tokens > 0) & (rng.random(size) < 0.8), np.arange(size), -1)
    classes = len(_classes(name))
    if task.kind == "multiclass":
        frame["y0"] = np.clip(np.floor((signal + 2) / 4 * classes), 0, classes - 1).astype(np.float32)
        return frame
    for c in range(1 if task.kind == "binary" else classes):
        labels = (signal + rng.normal(0, 0.3, size) > 0.1 * c).astype(np.float32)
        masked = rng.random(size) < (0.3 if task.kind == "multilabel" else 0.0)
        frame[f"y{c}"] = np.where(masked, np.nan, labels)
    return frame


def spoil_test_samples(folder: Path) -> Path:
    """Makes the test samples of all tasks of no use: labels out of range, inputs at rows that no store has."""
    for file in (folder / "samples").glob("*.parquet"):
        frame = pd.read_parquet(file)
        chosen = frame["split"] == "test"
        frame.loc[chosen, [name for name in frame.columns if name[0] == "y"]] = 99.0
        frame.loc[chosen, ["series", "film", "note", "tail"]] = 10**6
        frame.to_parquet(file, index=False)
    return folder
