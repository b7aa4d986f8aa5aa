"""In-hospital mortality, predicted from the first 48 hours in the ICU."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmark.tasks.record import Task

if TYPE_CHECKING:
    import pandas as pd

TASK = Task(
    name="ihm",
    title="IHM",
    description="death before hospital discharge, from the first 48 hours of the ICU stay",
    kind="binary",
    classes=("dies in hospital",),
    primary="ehr",
    note_section="pmh",
    metrics=("auroc", "auprc", "average_precision"),
    source="Harutyunyan et al., Scientific Data 2019, in the form of FlexCare, KDD 2024",
)

WINDOW = 48.0


def samples(stays: pd.DataFrame) -> pd.DataFrame:
    """Stays of at least 48 hours with an event in the first 48, and whether the patient dies in hospital.

    Args:
        stays: stay_id, los_hours, first_event (hours; NaN without events), died_in_hospital.

    Returns:
        stay_id, hour (end of the input), y0.

    >>> import pandas as pd
    >>> nan = float("nan")
    >>> samples(pd.DataFrame({
    ...     "stay_id":          [    1,    2,    3,    4,    5,     6],
    ...     "los_hours":        [ 47.9, 48.0, 90.0, 90.0, 90.0, 300.0],
    ...     "first_event":      [  0.1,  0.1,  0.0, 48.5,  nan,  48.0],
    ...     "died_in_hospital": [ True, True,False, True, True, False],
    ... }))
       stay_id  hour   y0
    1        2  48.0  1.0
    2        3  48.0  0.0
    5        6  48.0  0.0
    """
    chosen = stays[(stays.los_hours >= WINDOW - 1e-6) & (stays.first_event <= WINDOW)]
    return chosen[["stay_id"]].assign(hour=WINDOW, y0=chosen.died_in_hospital.astype("float32"))
