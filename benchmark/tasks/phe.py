"""The 25 acute-care phenotypes of the admission, from the whole ICU stay."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from benchmark.data.phenotypes import PHENOTYPES, phenotypes_of
from benchmark.data.rules import Rules
from benchmark.tasks.record import Task

if TYPE_CHECKING:
    import pandas as pd

TASK = Task(
    name="phe",
    title="PHE",
    description="25 groups of diagnoses coded for the admission, from the whole ICU stay",
    kind="multilabel",
    classes=tuple(phenotype.name for phenotype in PHENOTYPES),
    primary="ehr",
    note_section="pmh",
    metrics=("macro_auroc", "micro_auroc", "macro_average_precision"),
    source="Harutyunyan et al., Scientific Data 2019; groups: AHRQ Clinical Classifications Software, single level",
    retrospective=True,
)


def samples(stays: pd.DataFrame, diagnoses: pd.DataFrame, rules: Rules = Rules()) -> pd.DataFrame:
    """Stays with events whose admission has coded diagnoses, and which of the 25 groups these touch.

    Args:
        stays: stay_id, hadm_id, los_hours, first_event (hours; NaN without events).
        diagnoses: hadm_id, icd_code, icd_version; any order, duplicates allowed. rules: which codes make a group.

    Returns:
        stay_id, hour (end of the input: the whole stay), y0 .. y24.

    >>> import pandas as pd
    >>> table = samples(
    ...     pd.DataFrame({"stay_id": [1, 2, 3, 4], "hadm_id": [10, 20, 30, 40],
    ...                   "los_hours": [30.5, 9.0, 50.0, 8.0], "first_event": [0.1, float("nan"), 0.5, 0.2]}),
    ...     pd.DataFrame({"hadm_id":     [     10,      10,      10,     20,     30,     30],
    ...                   "icd_code":    ["R6521", "41071", "R6521", "4019", "4019", "V707"],
    ...                   "icd_version": [     10,       9,      10,      9,     10,      9]}))
    >>> table[["stay_id", "hour", "y2", "y13", "y23", "y24"]]
       stay_id  hour   y2  y13  y23  y24
    0        1  30.5  1.0  0.0  1.0  1.0
    2        3  50.0  0.0  0.0  0.0  0.0
    """
    chosen = stays[stays.first_event.notna() & stays.hadm_id.isin(diagnoses.hadm_id)]
    row = {hadm: index for index, hadm in enumerate(chosen.hadm_id)}
    labels = np.zeros((len(chosen), len(PHENOTYPES)), dtype="float32")
    columns = ["hadm_id", "icd_code", "icd_version"]
    relevant = diagnoses.loc[diagnoses.hadm_id.isin(row.keys()), columns].drop_duplicates()
    for hadm, code, version in relevant.itertuples(index=False):
        labels[row[hadm], list(phenotypes_of(code, version, rules))] = 1.0
    table = chosen[["stay_id"]].assign(hour=chosen.los_hours)
    return table.assign(**{f"y{index}": labels[:, index] for index in range(labels.shape[1])})
