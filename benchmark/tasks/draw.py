"""Which hour of a stay a prediction is made at, for the tasks that predict at one random hour.

By default the draw hashes task and stay number, so that it neither depends on the order of rows nor on which other
stays exist. The published pipeline instead shuffles the hours of all stays together and keeps the first of each.
"""

from __future__ import annotations

import hashlib

import numpy as np
import pandas as pd

from benchmark.data.rules import Rules

SEED = 42
FIRST_HOUR = 5
"""Earliest hour of a prediction: the first whole hour after the fourth."""

CANDIDATES = ("first_hour", "last_hour", "los_hours", "death_hour")
"""What drawing another hour of a stay, and its label, needs: the hours to draw from, the length of stay, and the hour
of a death in hospital (NaN for survivors)."""


def last_hour(hours: float | np.ndarray) -> np.ndarray:
    """Last whole hour within `hours`; a length that misses a whole number by rounding alone reaches it.

    >>> last_hour(np.array([71.9999999999, 71.9, 72.0]))
    array([72, 71, 72])
    """
    return np.floor(np.asarray(hours) + 1e-6).astype(np.int64)


def first_hour(first_event: float | np.ndarray) -> np.ndarray:
    """First whole hour after the fourth that is strictly later than the stay's first event.

    >>> first_hour(np.array([0.2, 5.0, 7.4]))
    array([5, 6, 8])
    """
    return np.maximum(FIRST_HOUR, np.floor(np.asarray(first_event)).astype(np.int64) + 1)


def draw_hour(task: str, stay_id: int, first: int, last: int) -> int | None:
    """One of the hours first..last by hash, each as likely; None if there is none.

    >>> draw_hour("los", 30000001, 5, 29), draw_hour("dec", 30000001, 5, 29), draw_hour("los", 30000001, 5, 4)
    (24, 27, None)
    """
    if last < first:
        return None
    digest = hashlib.sha256(f"{SEED}:{task}:{stay_id}".encode()).digest()
    return first + int.from_bytes(digest[:8], "big") % (last - first + 1)


def shuffled_hours(stays: pd.DataFrame) -> np.ndarray:
    """One hour of each stay: the first that comes up when the hours of all stays are shuffled together.

    The hours are listed by patient number (as text), stay number and hour, and shuffled by the permutation that
    `DataFrame.sample(frac=1, random_state=42)` applies.

    Args:
        stays: subject_id, stay_id, first_hour, last_hour.

    Returns:
        One hour a stay, NaN where there is none.

    >>> shuffled_hours(pd.DataFrame({
    ...     "subject_id": [9, 10, 10], "stay_id": [3, 2, 1], "first_hour": [5, 5, 6], "last_hour": [9, 4, 8]}))
    array([ 7., nan,  7.])
    """
    order = np.lexsort((stays.stay_id.to_numpy(), stays.subject_id.astype(str).to_numpy(dtype=str)))
    first = stays.first_hour.to_numpy()[order]
    counts = np.maximum(stays.last_hour.to_numpy()[order] - first + 1, 0)
    # pandas draws without replacement by permuting row numbers, with the generator of NumPy's older kind.
    shuffled = np.random.RandomState(SEED).permutation(counts.sum())
    owner = np.repeat(np.arange(len(order)), counts)
    drawn, place = np.unique(owner[shuffled], return_index=True)
    before = np.cumsum(counts) - counts
    hours = np.full(len(order), np.nan)
    hours[order[drawn]] = first[drawn] + shuffled[place] - before[drawn]
    return hours


def drawn_hours(task: str, stays: pd.DataFrame, ends: pd.Series, rules: Rules) -> pd.DataFrame:
    """One hour of each stay that has any, with the `CANDIDATES` it was drawn from.

    Args:
        task: "los" or "dec". ends: hours until which predictions are made, one a stay. rules: how to draw.
        stays: stay_id, los_hours, first_event (hours; NaN without events), died_in_hospital, death_hour and, to
            shuffle, subject_id.

    Returns:
        stay_id, hour and `CANDIDATES`, with the index of the stays.
    """
    chosen = stays[stays.first_event.notna()]
    drawn = chosen.assign(first_hour=first_hour(chosen.first_event), last_hour=last_hour(ends[chosen.index]))
    if rules.hours == "shuffled":
        drawn["hour"] = shuffled_hours(drawn)
    else:
        rows = zip(drawn.stay_id, drawn.first_hour, drawn.last_hour, strict=True)
        drawn["hour"] = np.array([draw_hour(task, *row) for row in rows], dtype=float)
    drawn["death_hour"] = drawn.death_hour.where(drawn.died_in_hospital)
    return drawn.loc[drawn.hour.notna(), ["stay_id", "hour", *CANDIDATES]]
