"""Decompensation: death within 24 hours of one random hour of each stay."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from benchmark.data.rules import Rules
from benchmark.tasks.draw import CANDIDATES, drawn_hours
from benchmark.tasks.record import Task

if TYPE_CHECKING:
    import pandas as pd

HORIZON = 24.0
"""Hours within which a death counts."""


def label_at(hour: np.ndarray, los_hours: np.ndarray, death_hour: np.ndarray) -> np.ndarray:
    """Whether the patient dies in hospital within 24 hours of each hour."""
    return (death_hour - hour < HORIZON).astype("float32")


TASK = Task(
    name="dec",
    title="DEC",
    description="death within the next 24 hours, at a random hour of the stay",
    kind="binary",
    classes=("dies within 24 h",),
    primary="ehr",
    note_section="pmh",
    metrics=("auroc", "auprc", "average_precision"),
    source="Harutyunyan et al., Scientific Data 2019, in the form of FlexCare, KDD 2024",
    label_at=label_at,
)


def samples(stays: pd.DataFrame, rules: Rules = Rules()) -> pd.DataFrame:
    """One hour of each stay, before death, and whether the patient dies in hospital within 24 hours of it.

    Args:
        stays: as for `benchmark.tasks.draw.drawn_hours`. No hour is drawn after `death_hour`, whether or not the death
            counts as one in hospital. rules: how to draw.

    Returns:
        stay_id, hour (of the prediction, the end of the input), y0 and what other hours could be drawn
        (`benchmark.tasks.draw.CANDIDATES`).

    >>> import pandas as pd
    >>> nan = float("nan")
    >>> stays = pd.DataFrame({
    ...     "stay_id":     [  1,   2,    3,    4,     5,     6],
    ...     "los_hours":   [5.5, 5.5,  5.5, 90.0,  90.0, 400.0],
    ...     "first_event": [0.1, 0.1,  0.1,  nan,   0.1,   0.1],
    ...     "death_hour":  [nan, 4.0, 28.9, 80.0, 500.0,  29.0],
    ... })
    >>> samples(stays.assign(died_in_hospital=stays.death_hour.notna()))[["stay_id", "hour", "y0"]]
       stay_id  hour   y0
    0        1   5.0  0.0
    2        3   5.0  1.0
    4        5  41.0  0.0
    5        6  10.0  1.0
    """
    drawn = drawn_hours("dec", stays, np.fmin(stays.los_hours, stays.death_hour), rules)
    labels = label_at(*drawn[["hour", "los_hours", "death_hour"]].to_numpy().T)
    return drawn.assign(y0=labels)[["stay_id", "hour", "y0", *CANDIDATES]]
