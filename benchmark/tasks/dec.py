"""Decompensation: death within 24 hours of one random hour of each stay."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from benchmark.tasks.draw import draw_hour, first_hour, last_hour
from benchmark.tasks.record import Task

if TYPE_CHECKING:
    import pandas as pd

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
)

HORIZON = 24.0


def samples(stays: pd.DataFrame) -> pd.DataFrame:
    """One hour of each stay, before death, and whether the patient dies in hospital within 24 hours of it.

    Args:
        stays: stay_id, los_hours, first_event (hours; NaN without events), death_hour (hours from ICU admission to
            death in hospital; NaN for survivors).

    Returns:
        stay_id, hour (of the prediction, the end of the input), y0.

    >>> import pandas as pd
    >>> nan = float("nan")
    >>> samples(pd.DataFrame({
    ...     "stay_id":     [  1,   2,    3,    4,     5,     6],
    ...     "los_hours":   [5.5, 5.5,  5.5, 90.0,  90.0, 400.0],
    ...     "first_event": [0.1, 0.1,  0.1,  nan,   0.1,   0.1],
    ...     "death_hour":  [nan, 4.0, 28.9, 80.0, 500.0,  29.0],
    ... }))
       stay_id  hour   y0
    0        1   5.0  0.0
    2        3   5.0  1.0
    4        5  41.0  0.0
    5        6  10.0  1.0
    """
    chosen = stays[stays.first_event.notna()]
    ends = np.fmin(chosen.los_hours, chosen.death_hour)
    rows = zip(chosen.stay_id, chosen.first_event, ends, strict=True)
    hours = [draw_hour("dec", stay, first_hour(event), last_hour(end)) for stay, event, end in rows]
    drawn = chosen[["stay_id"]].assign(hour=np.array(hours, dtype=float))
    drawn["y0"] = (chosen.death_hour - drawn.hour < HORIZON).astype("float32")
    return drawn[drawn.hour.notna()]
