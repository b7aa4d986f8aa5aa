"""From irregular events to one row an hour, as the public MIMIC benchmark does it.

Hour 0 is the admission to the ICU. Row k covers the hours (k, k + 1], the first row hour 0 too. In a row the last value
of a channel counts and sets its observed-flag; a row without one repeats the channel's last observed value, or its
normal value before the first observation, with the flag at 0. Rows never depend on later events.

Axis letters: n events, N rows (hours), C the 17 channels.
"""

from __future__ import annotations

import math

import numpy as np

from benchmark.data.channels import CHANNELS, CONTINUOUS, CONTINUOUS_COLUMNS, FIRST_COLUMN, NORMAL_VALUES, VALUES, WIDTH

TOLERANCE = 1e-6
"""Hours by which times may be off through rounding."""


def bins(end_hours: float) -> int:
    """Number of rows for the hours up to `end_hours`.

    >>> [bins(end) for end in (0.5, 1, 5, 5.3, 48)]
    [1, 1, 5, 6, 48]
    """
    return max(0, math.floor(end_hours + 1 - TOLERANCE))


def last_events(hour: np.ndarray, channel: np.ndarray, end_hours: float) -> np.ndarray:
    """Position of the last event of each channel in each row, (N, C) int64, -1 where there is none.

    Args:
        hour: (n,) times in hours, not decreasing, not negative. channel: (n,) channel numbers.
        end_hours: later events are ignored.
    """
    hour = np.asarray(hour, dtype=np.float64)
    if hour.size and (hour[0] < 0 or (np.diff(hour) < 0).any()):
        raise ValueError(f"event times must start at 0 or later and not decrease; the first is {hour[0]}")
    last = np.full((bins(end_hours), len(CHANNELS)), -1, dtype=np.int64)
    n = min(int(np.searchsorted(hour, end_hours + TOLERANCE, side="right")), hour.size if len(last) else 0)
    row = np.clip(np.floor(hour[:n] - TOLERANCE).astype(np.int64), 0, max(len(last) - 1, 0))
    # Events come in time order, so of several in one cell the highest position is the latest.
    np.maximum.at(last, (row, np.asarray(channel)[:n]), np.arange(n))
    return last


def discretise(hour: np.ndarray, channel: np.ndarray, value: np.ndarray, end_hours: float) -> np.ndarray:
    """Hourly array of one stay, (N, 76) float32, not standardised.

    Args:
        hour, channel: as in `last_events`. value: (n,) values, category numbers for categorical channels.
        end_hours: length of the window; it has `bins(end_hours)` rows.
    """
    last = last_events(hour, channel, end_hours)  # (N, C)
    carried = np.maximum.accumulate(last, axis=0)
    value = np.asarray(value, dtype=np.float64)
    known = value[np.maximum(carried, 0)] if value.size else np.zeros(carried.shape)
    filled = np.where(carried >= 0, known, NORMAL_VALUES)  # (N, C)

    out = np.zeros((len(last), WIDTH), dtype=np.float32)
    out[:, CONTINUOUS_COLUMNS] = filled[:, CONTINUOUS]
    rows = np.arange(len(last))
    for index, spec in enumerate(CHANNELS):
        if not spec.continuous:
            out[rows, FIRST_COLUMN[index] + filled[:, index].astype(np.int64)] = 1
    out[:, VALUES:] = last >= 0
    return out
