"""Rules of stores and labels: finite, in range, complete, and made of the events that the evidence knows."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np
import pandas as pd

from benchmark.data.audit.evidence import rows_of
from benchmark.data.audit.finding import Finding, finding
from benchmark.data.audit.opened import Opened
from benchmark.data.audit.partitions import CHUNK
from benchmark.data.channels import CHANNELS, FIRST_COLUMN, VALUES, WIDTH
from benchmark.tasks import TASKS

PIXELS = (256, 256)

_BITS = np.left_shift(np.int32(1), np.arange(len(CHANNELS), dtype=np.int32))


def findings(opened: Opened) -> Iterator[Finding]:
    """All findings about stores and labels."""
    for task in opened.samples:
        yield _labels(opened, task)
    yield _lengths(opened)
    yield from _values(opened)
    if opened.manifest["modalities"]["cxr"]:
        yield _films(opened)
    if opened.manifest["modalities"]["note"]:
        yield _texts(opened)


def _labels(opened: Opened, task: str) -> Finding:
    frame, kind = opened.samples[task], TASKS[task].kind
    names = [name for name in frame.columns if name[0] == "y" and name[1:].isdigit()]
    labels = frame[names].to_numpy(dtype=float)
    classes = len(opened.classes[task])
    whole = (labels >= 0) & (labels == np.floor(labels))
    fits = whole & (labels < classes if kind == "multiclass" else labels <= 1)
    if task == "dia":  # what a report does not say is blank
        fits |= np.isnan(labels)
        wrong = ~fits.all(axis=1)
        if opened.rules.unlabelled == "drop":
            wrong |= np.isnan(labels).all(axis=1)
    elif TASKS[task].classes is None:  # a class that no training sample has
        fits |= np.isnan(labels) & (frame["split"] != "train").to_numpy()[:, None]
        wrong = ~fits.all(axis=1)
    else:
        wrong = ~fits.all(axis=1)
    wrong |= len(names) != (1 if kind != "multilabel" else classes)
    return finding("labels", "one of the task's classes, or blank where it may be", wrong, frame["sample"].tolist(),
                   task=task)  # fmt: skip


def _lengths(opened: Opened) -> Finding:
    """Each stored series has the hours of its stay, and the evidence has a row for each of them."""
    lengths, stays = opened.series.lengths, opened.stays
    wrong = np.ones(max(len(lengths), len(stays)), dtype=bool)
    common = min(len(lengths), len(stays))
    wrong[:common] = lengths[:common] != rows_of(stays.los_hours.to_numpy()[:common])
    rows = len(opened.series.values)
    wrong |= len(opened.last_event) != rows or len(opened.observed) != rows or opened.series.width != WIDTH
    wrong |= len(opened.tail_values) != len(opened.tails)
    return finding("series lengths", "every stay has one series of its hours", wrong)


def _values(opened: Opened) -> Iterator[Finding]:
    valid, agrees = [], []
    for values, observed in _chunks(opened):
        valid.append(_is_row(values))
        agrees.append((values[:, VALUES:] > 0) @ _BITS == observed)
    about = "finite, flags 0 or 1, one category of each categorical channel"
    yield finding("series values", about, ~np.concatenate(valid))
    about = (
        "a channel is flagged as observed in an hour exactly if an event of that hour, not later than the cut, is known"
    )
    yield finding("observed flags", about, ~np.concatenate(agrees))


def _chunks(opened: Opened) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The rows of the series store, then the tails, with the channels that have an event."""
    for values, observed in (
        (opened.series.values, opened.observed),
        (opened.tail_values, opened.tails.observed.to_numpy()),
    ):
        rows = min(len(values), len(observed))
        for first in range(0, max(rows, 1), CHUNK):
            stop = min(first + CHUNK, rows)
            yield np.asarray(values[first:stop], dtype=np.float32), observed[first:stop]


def _is_row(values: np.ndarray) -> np.ndarray:
    flags = values[:, VALUES:]
    valid = np.isfinite(values).all(1) & ((flags == 0) | (flags == 1)).all(1)
    for first, channel in zip(FIRST_COLUMN, CHANNELS, strict=True):
        if not channel.continuous:
            own = values[:, first : first + channel.width]
            valid &= ((own == 0) | (own == 1)).all(1) & (own.sum(1) == 1)
    return valid


def _films(opened: Opened) -> Finding:
    pixels = np.load(opened.folder / "films" / "pixels.npy", mmap_mode="r")
    listed = opened.films
    wrong = np.full(max(len(pixels), len(listed)), pixels.shape[1:] != PIXELS or pixels.dtype != np.uint8)
    wrong[min(len(pixels), len(listed)) :] = True
    wrong[: len(listed)] |= listed.dicom_id.duplicated().to_numpy() | (listed.film != np.arange(len(listed))).to_numpy()
    return finding("film store", "every stored film has one origin and 256 by 256 grey values", wrong)


def _texts(opened: Opened) -> Finding:
    texts = pd.read_parquet(opened.folder / "notes" / "texts.parquet")
    rows, origin = pd.RangeIndex(max(len(texts), len(opened.notes))), opened.notes
    wrong = texts.note.reindex(rows).ne(origin.note.reindex(rows))
    wrong |= texts.section.reindex(rows).ne(origin.section.reindex(rows))
    digests = texts.text.map(lambda text: hashlib.sha256(text.encode()).hexdigest())
    wrong |= digests.ne(texts.digest).reindex(rows, fill_value=True)
    wrong |= texts.text.str.strip().eq("").reindex(rows, fill_value=True)
    return finding("texts", "every text is the one whose origin is recorded, and not empty", wrong)
