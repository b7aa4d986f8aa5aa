"""Remaining length of stay in ten buckets, predicted at one random hour of each stay."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from benchmark.data.rules import Rules
from benchmark.tasks.draw import CANDIDATES, drawn_hours
from benchmark.tasks.record import Task

if TYPE_CHECKING:
    import pandas as pd

EDGES = (1, 2, 3, 4, 5, 6, 7, 8, 14)
"""Days at which the next bucket begins."""


def bucket(remaining_hours: np.ndarray) -> np.ndarray:
    """Bucket of each remaining time; a time below zero by rounding counts as zero.

    >>> bucket(np.array([-1e-9, 0.0, 23.999, 24.0, 191.999, 192.0, 335.999, 336.0]))
    array([0, 0, 0, 1, 7, 8, 8, 9])
    """
    return np.searchsorted(np.array(EDGES) * 24.0, np.maximum(remaining_hours, 0.0), side="right")


def label_at(hour: np.ndarray, los_hours: np.ndarray, death_hour: np.ndarray) -> np.ndarray:
    """Bucket of the time that remains at each hour."""
    return bucket(los_hours - hour).astype("float32")


TASK = Task(
    name="los",
    title="LOS",
    description="days left in the ICU (0 to 7, 8 to 13, 14 and more), at a random hour of the stay",
    kind="multiclass",
    classes=("<1", "1", "2", "3", "4", "5", "6", "7", "8-13", ">=14"),
    primary="ehr",
    note_section="pmh",
    metrics=("macro_f1", "micro_f1", "macro_f1_all_classes"),
    source="Harutyunyan et al., Scientific Data 2019, in the form of FlexCare, KDD 2024",
    label_at=label_at,
)


def samples(stays: pd.DataFrame, rules: Rules = Rules()) -> pd.DataFrame:
    """One hour of each stay that is at least five hours long and has an event before that hour.

    Args:
        stays: as for `benchmark.tasks.draw.drawn_hours`. rules: how to draw.

    Returns:
        stay_id, hour (of the prediction, the end of the input), y0 (bucket of the time that remains) and what other
        hours could be drawn (`benchmark.tasks.draw.CANDIDATES`).

    >>> import pandas as pd
    >>> nan = float("nan")
    >>> table = samples(pd.DataFrame({
    ...     "stay_id":     [  1,   2,     3,    4,    5,     6],
    ...     "los_hours":   [4.9, 5.0,   6.0, 30.0, 90.0, 400.0],
    ...     "first_event": [0.1, 0.1,   5.0, 29.0,  nan,   0.1],
    ... }).assign(died_in_hospital=False, death_hour=nan))
    >>> table[["stay_id", "hour", "y0"]]
       stay_id   hour   y0
    1        2    5.0  0.0
    2        3    6.0  0.0
    3        4   30.0  0.0
    5        6  374.0  1.0
    """
    drawn = drawn_hours("los", stays, stays.los_hours, rules)
    labels = label_at(*drawn[["hour", "los_hours", "death_hour"]].to_numpy().T)
    return drawn.assign(y0=labels)[["stay_id", "hour", "y0", *CANDIDATES]]
