"""From irregular events to one row an hour, as the public MIMIC benchmark does it.

Hour 0 is the admission to the ICU. Row k covers the hours (k, k + 1], the first row hour 0 too. In a row the last value
of a channel counts and sets its observed-flag; a row without one repeats the channel's last observed value, or its
normal value before the first observation, with the flag at 0. Rows never depend on later events.

`discretise` says it for one stay; `discretise_stays` and `last_rows` do the same for many stays at once.

Axis letters: n events, N rows (hours) of a stay, S stays, R rows of all of them, K cuts, C the 17 channels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

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


def discretise(
    hour: np.ndarray,
    channel: np.ndarray,
    value: np.ndarray,
    end_hours: float,
    normal: np.ndarray = NORMAL_VALUES,
) -> np.ndarray:
    """Hourly array of one stay, (N, 76) float32, not standardised.

    Args:
        hour, channel: as in `last_events`. value: (n,) values, category numbers for categorical channels.
        end_hours: length of the window; it has `bins(end_hours)` rows.
        normal: (C,) values that stand in before the first observation.
    """
    last = last_events(hour, channel, end_hours)  # (N, C)
    carried = np.maximum.accumulate(last, axis=0)
    return _columns(carried, last >= 0, np.asarray(value, dtype=np.float64), normal)


def _columns(carried: np.ndarray, observed: np.ndarray, value: np.ndarray, normal: np.ndarray) -> np.ndarray:
    """Rows of 76 columns from the positions of the values they show (-1: the normal value) and the observed-flags."""
    known = value[np.maximum(carried, 0)] if value.size else np.zeros(carried.shape)
    filled = np.where(carried >= 0, known, normal)  # (R, C)
    out = np.zeros((len(carried), WIDTH), dtype=np.float32)
    out[:, CONTINUOUS_COLUMNS] = filled[:, CONTINUOUS]
    rows = np.arange(len(carried))
    for index, spec in enumerate(CHANNELS):
        if not spec.continuous:
            out[rows, FIRST_COLUMN[index] + filled[:, index].astype(np.int64)] = 1
    out[:, VALUES:] = observed
    return out


@dataclass(frozen=True)
class StayEvents:
    """Events of several stays, stay after stay, those of a stay in time order.

    Attributes:
        start: (S + 1,) position of the first event of each stay, and the number of events.
        hour, channel, value: (n,) as for one stay.
    """

    start: np.ndarray
    hour: np.ndarray
    channel: np.ndarray
    value: np.ndarray

    def __post_init__(self) -> None:
        falls = np.flatnonzero(np.diff(self.hour) < 0) + 1
        if (self.hour < 0).any() or not np.isin(falls, self.start).all():
            raise ValueError("event times must start at 0 or later and not decrease within a stay")


def row_counts(end_hours: np.ndarray) -> np.ndarray:
    """`bins` of many windows, int64."""
    return np.maximum(np.floor(np.asarray(end_hours, dtype=np.float64) + 1 - TOLERANCE), 0).astype(np.int64)


def last_events_of_stays(events: StayEvents, end_hours: np.ndarray) -> np.ndarray:
    """`last_events` of many stays, (R, C): positions in `events`, the rows of one stay after those of another.

    Args:
        end_hours: (S,) length of each stay's window.
    """
    counts = row_counts(end_hours)
    stay = np.repeat(np.arange(len(counts)), np.diff(events.start))  # (n,)
    used = np.flatnonzero((events.hour <= end_hours[stay] + TOLERANCE) & (counts[stay] > 0))
    stay = stay[used]
    row = np.clip(np.floor(events.hour[used] - TOLERANCE).astype(np.int64), 0, counts[stay] - 1)
    row += (np.cumsum(counts) - counts)[stay]
    last = np.full((int(counts.sum()), len(CHANNELS)), -1, dtype=np.int64)
    # Of several events in one cell the last assignment stays, which is that of the latest.
    last[row, events.channel[used]] = used
    return last


def discretise_stays(events: StayEvents, end_hours: np.ndarray, normal: np.ndarray = NORMAL_VALUES) -> np.ndarray:
    """`discretise` of many stays, (R, 76) float32: the rows of one stay after those of another."""
    last = last_events_of_stays(events, end_hours)
    begin = np.repeat(events.start[:-1], row_counts(end_hours))[:, None]  # (R, 1)
    carried = np.maximum.accumulate(last, axis=0)
    carried[carried < begin] = -1  # from the stay before
    return _columns(carried, last >= 0, events.value, normal)


def last_rows(
    events: StayEvents, stay: np.ndarray, cut: np.ndarray, closed: bool, normal: np.ndarray = NORMAL_VALUES
) -> np.ndarray:
    """Last row of each series that ends at a cut, (K, 76) float32.

    Args:
        stay: (K,) stays by their position. cut: (K,) hours, above 0.
        closed: whether an event at the cut itself counts, as in `discretise`; if not, only those strictly before.
    """
    stop = _events_before(events, stay, cut + TOLERANCE if closed else cut, closed)
    carried = np.full((len(stay), len(CHANNELS)), -1, dtype=np.int64)
    for index in range(len(CHANNELS)):
        own = np.flatnonzero(events.channel == index)
        found = np.searchsorted(own, stop) - 1
        if own.size:
            carried[:, index] = np.where(found >= 0, own[np.maximum(found, 0)], -1)
    carried[carried < events.start[stay][:, None]] = -1
    row = row_counts(cut)[:, None] - 1
    hour = events.hour[np.maximum(carried, 0)] if events.hour.size else np.zeros(carried.shape)
    observed = (carried >= 0) & (np.minimum(np.floor(hour - TOLERANCE).clip(0), row) == row)
    return _columns(carried, observed, events.value, normal)


def _events_before(events: StayEvents, stay: np.ndarray, cut: np.ndarray, closed: bool) -> np.ndarray:
    """Position after the last event of its stay before each cut: binary search in all stays at once."""
    low, high = events.start[stay].copy(), events.start[stay + 1].copy()
    while (low < high).any():
        middle = np.minimum((low + high) // 2, max(len(events.hour) - 1, 0))
        earlier = events.hour[middle] <= cut if closed else events.hour[middle] < cut
        earlier &= low < high
        low, high = np.where(earlier, middle + 1, low), np.where(earlier, high, np.minimum(middle, high))
    return low
