"""Unfavourable outcome after ICU discharge: death on the ward, or return or death within 30 days of going home."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmark.data.rules import Rules
from benchmark.tasks.record import Task

if TYPE_CHECKING:
    import pandas as pd

TASK = Task(
    name="rea",
    title="REA",
    description="death on the ward, or readmission or death within 30 days of discharge, from the whole ICU stay",
    kind="binary",
    classes=("returns or dies",),
    primary="ehr",
    note_section="pmh",
    metrics=("auroc", "auprc", "average_precision"),
    source="Lin et al., PLoS ONE 2019, in the form of FlexCare, KDD 2024",
)

DAYS = 30

COMPONENTS = ("ward_death", "readmitted", "late_death")
"""The three ways to a positive label."""


def components(stays: pd.DataFrame, rules: Rules = Rules()) -> pd.DataFrame:
    """The three ways to a positive label, and the stays that have none because the patient died in the unit.

    Args:
        stays: stay_id, dischtime, next_admittime (of the patient's next admission), dod (date of death, midnight),
            died_in_hospital, died_in_icu.
        rules: with `readmission=published` any admission or death that is not 30 days after discharge counts, those
            before it included, and a day of death begins at midnight.

    Returns:
        `COMPONENTS` (booleans) and dropped, one row a stay. By default the date of death is compared with the day of
        discharge, never with its hour: a date says nothing about hours. A death before the day of discharge of a
        patient discharged alive is an error of the record and no death after discharge.

    >>> import pandas as pd
    >>> day = lambda *days: pd.to_datetime([None if d is None else f"2150-03-{d:02d}" for d in days])
    >>> components(pd.DataFrame({
    ...     "dischtime":        day(1, 1, 1, 1, 1, 5) + pd.Timedelta(hours=14),
    ...     "next_admittime":   day(None, 31, None, None, None, 4),
    ...     "dod":              day(1, None, 31, 1, None, None),
    ...     "died_in_hospital": [True, False, False, True, True, False],
    ...     "died_in_icu":      [False, False, False, True, True, False],
    ... }))
       ward_death  readmitted  late_death  dropped
    0        True       False       False    False
    1       False        True       False    False
    2       False       False        True    False
    3       False       False       False     True
    4       False       False       False     True
    5       False       False       False    False
    """
    gap = (stays.next_admittime - stays.dischtime).dt.total_seconds() / 86400
    table = stays[[]].copy()
    table["ward_death"] = stays.died_in_hospital & ~stays.died_in_icu
    if rules.readmission == "published":
        table["readmitted"] = gap < DAYS
        days_to_death = (stays.dod - stays.dischtime).dt.total_seconds() / 86400
        table["late_death"] = ~stays.died_in_hospital & ~stays.died_in_icu & (days_to_death < DAYS)
    else:
        table["readmitted"] = (gap > 0) & (gap <= DAYS)
        days_to_death = (stays.dod - stays.dischtime.dt.normalize()).dt.days
        table["late_death"] = ~stays.died_in_hospital & days_to_death.between(0, DAYS)
    table["dropped"] = stays.died_in_hospital & stays.died_in_icu
    return table


def samples(stays: pd.DataFrame) -> pd.DataFrame:
    """Stays with events that the patient left alive, and whether one of the three components holds.

    Args:
        stays: stay_id, los_hours, first_event (hours; NaN without events) and the columns of `components`.

    Returns:
        stay_id, hour (end of the input: the whole stay), y0 and the three `COMPONENTS`.
    """
    chosen = stays[stays.first_event.notna() & ~stays.dropped]
    positive = chosen[list(COMPONENTS)].any(axis=1)
    return chosen[["stay_id", *COMPONENTS]].assign(hour=chosen.los_hours, y0=positive.astype("float32"))
