"""A sample as one row of numbers: summaries of its ICU series, film and note, NaN where there is nothing to summarise.

Everything is computed on the host in double precision, row by row, so that a sample's numbers depend neither on the
device nor on the batch it came in.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

from models.contract import MODALITIES, Batch, Films, Packed

CHANNEL_WIDTHS = (2, 1, 1, 8, 12, 13, 12, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1)
"""Value columns of each channel of the hourly series, in order; one observed-flag a channel follows them all."""

CHANNEL_OF_COLUMN = np.repeat(np.arange(len(CHANNEL_WIDTHS)), CHANNEL_WIDTHS)
CONTINUOUS = np.flatnonzero(np.asarray(CHANNEL_WIDTHS)[CHANNEL_OF_COLUMN] == 1)
"""Columns of the channels that hold a number; the others are one-hot."""

SERIES_FEATURES = len(CHANNEL_OF_COLUMN) + len(CHANNEL_WIDTHS)
SERIES_SUMMARIES = 2 * len(CHANNEL_OF_COLUMN) + 4 * len(CONTINUOUS) + len(CHANNEL_WIDTHS) + 1
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
REGIONS = 4
"""Film regions a side."""

FILM_SUMMARIES = 2 + len(QUANTILES) + REGIONS * REGIONS


def summarise_series(packed: Packed) -> np.ndarray:
    """Packed hours (N, 76) -> (n, SERIES_SUMMARIES).

    Over the hours at which a channel was observed: last value and mean of every column; minimum, maximum, standard
    deviation and slope an hour of the continuous ones; number of such hours a channel. And the number of all hours.
    """
    hours = _host(packed.values)
    if hours.shape[1] != SERIES_FEATURES:
        raise ValueError(f"a series of {hours.shape[1]} columns; its summary knows the {SERIES_FEATURES} of MIMIC")
    starts, lengths = np.asarray(packed.layout.offsets), np.asarray(packed.layout.lengths)
    owner = np.repeat(np.arange(len(lengths)), lengths)  # (N,)
    time = (np.arange(len(hours)) - starts[owner])[:, None].astype(np.float64)  # (N, 1)
    value, seen_channel = hours[:, : len(CHANNEL_OF_COLUMN)], hours[:, len(CHANNEL_OF_COLUMN) :] > 0  # (N, 59), (N, 17)
    seen = seen_channel[:, CHANNEL_OF_COLUMN]  # (N, 59)

    def total(part: np.ndarray) -> np.ndarray:
        return np.add.reduceat(part, starts, axis=0)

    count = total(seen.astype(np.float64))  # (n, 59)
    with np.errstate(invalid="ignore", divide="ignore"):  # 0 / 0: never observed, or too rarely for a slope
        mean = total(np.where(seen, value, 0)) / count
        latest = np.maximum.reduceat(np.where(seen, time, -1), starts, axis=0).astype(np.int64)
        last = np.take_along_axis(value, starts[:, None] + np.maximum(latest, 0), axis=0)
        some = CONTINUOUS
        x, at = value[:, some], seen[:, some]
        apart = np.where(at, x - mean[owner][:, some], 0)
        middle = total(np.where(at, time, 0)) / count[:, some]
        since = np.where(at, time - middle[owner], 0)
        spread = np.sqrt(total(apart * apart) / count[:, some])
        slope = total(apart * since) / total(since * since)
        lowest = np.minimum.reduceat(np.where(at, x, np.inf), starts, axis=0)
        highest = np.maximum.reduceat(np.where(at, x, -np.inf), starts, axis=0)
    parts = [np.where(count > 0, last, np.nan), mean]
    parts += [np.where(count[:, some] > 0, part, np.nan) for part in (lowest, highest)]
    return np.hstack([*parts, spread, slope, total(seen_channel.astype(np.float64)), lengths[:, None]])


def summarise_films(films: Films) -> np.ndarray:
    """Films (n, H, W) -> (n, FILM_SUMMARIES): mean, deviation, quantiles and region means of the grey values."""
    pixels = _host(films.pixels)
    n, height, width = pixels.shape
    flat = pixels.reshape(n, -1)
    rows, columns = (np.linspace(0, side, REGIONS + 1).astype(int)[:-1] for side in (height, width))
    sums = np.add.reduceat(np.add.reduceat(pixels, rows, axis=1), columns, axis=2)
    sizes = np.diff([*rows, height])[:, None] * np.diff([*columns, width])
    regions = (sums / sizes).reshape(n, -1)
    return np.hstack([flat.mean(1)[:, None], flat.std(1)[:, None], np.quantile(flat, QUANTILES, axis=1).T, regions])


def summarise_notes(packed: Packed) -> np.ndarray:
    """Packed token embeddings (N, F) -> (n, F + 1): their mean, and their number."""
    lengths = np.asarray(packed.layout.lengths)[:, None]
    return np.hstack([np.add.reduceat(_host(packed.values), packed.layout.offsets, axis=0) / lengths, lengths])


def summarise(batch: Batch) -> np.ndarray:
    """(B, 3 + SERIES_SUMMARIES + FILM_SUMMARIES + F + 1 if anybody has a note): presence, then the three summaries.

    Where nobody in the batch owns a note, the last part is a single column of NaN, as F is unknown.
    """
    parts = [batch.present.cpu().numpy().astype(np.float64)]
    contents = (batch.ehr, batch.cxr, batch.note)
    ways = (summarise_series, summarise_films, summarise_notes)
    widths = (SERIES_SUMMARIES, FILM_SUMMARIES, 1)
    for way, content, width in zip(ways, contents, widths, strict=True):
        found = None if content is None else way(content)
        part = np.full((batch.size, width if found is None else found.shape[1]), np.nan)
        if found is not None:
            part[list(content.rows if isinstance(content, Films) else content.layout.rows)] = found
        parts.append(part)
    return np.hstack(parts)


NOTES_FROM = len(MODALITIES) + SERIES_SUMMARIES + FILM_SUMMARIES
"""First column of the note's summary among those of `summarise`."""


def _host(values: Tensor) -> np.ndarray:
    return values.detach().cpu().numpy().astype(np.float64)
