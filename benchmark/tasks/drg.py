"""The diagnosis-related group of an admission, read off its hospital course."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

import numpy as np

from benchmark.data.rules import Rules
from benchmark.tasks.record import Task

if TYPE_CHECKING:
    import pandas as pd

TASK = Task(
    name="drg",
    title="DRG",
    description="billing group of the admission, from the hospital course of its discharge summary",
    kind="multiclass",
    classes=None,
    primary="note",
    note_section="bhc",
    metrics=("macro_f1", "micro_f1", "macro_f1_all_classes"),
    source="FlexCare, KDD 2024; groups: HCFA (Medicare severity) rows of MIMIC-IV's drgcodes",
    in_table3=False,
    retrospective=True,
)


def codes(rows: pd.DataFrame, rules: Rules = Rules()) -> tuple[pd.DataFrame, int]:
    """One three-digit HCFA code an admission, and the number of further HCFA rows that were left out.

    Args:
        rows: hadm_id, drg_type, drg_code (text), in file order; the first HCFA row of an admission counts, or the last
            with `drg_classes=all_partitions`. rules: a setting of every switch.

    >>> import pandas as pd
    >>> table, more = codes(pd.DataFrame({
    ...     "hadm_id":  [     1,       1,       2,       2,       3,     4],
    ...     "drg_type": ["APR ", "HCFA ",  "HCFA",  "HCFA",  "HCFA", "APR"],
    ...     "drg_code": [ "720",   "871",    "64",   "065",  " 39 ", "720"],
    ... }))
    >>> table.values.tolist(), more
    ([[1, '871'], [2, '064'], [3, '039']], 1)
    """
    hcfa = rows[(rows.drg_type.str.strip() == "HCFA") & rows.drg_code.notna()]
    keep = "first" if rules.drg_classes == "training" else "last"
    table = hcfa.drop_duplicates("hadm_id", keep=keep)[["hadm_id"]].copy()
    table["code"] = hcfa.drg_code.loc[table.index].str.strip().str.zfill(3)
    return table, len(hcfa) - len(table)


def classes(codes: Sequence[str], training: Collection[bool], rules: Rules = Rules()) -> tuple[str, ...]:
    """The codes that occur among training samples (with `drg_classes=all_partitions`: among all), sorted.

    >>> classes(["871", "039", "871", "064"], [True, True, True, False])
    ('039', '871')
    """
    everyone = rules.drg_classes == "all_partitions"
    return tuple(sorted({code for code, train in zip(codes, training, strict=True) if train or everyone}))


def labels(codes: Sequence[str], classes: Sequence[str]) -> np.ndarray:
    """Class index of each code; NaN for a code that no training sample has.

    >>> labels(["871", "064", "039"], ("039", "871"))
    array([ 1., nan,  0.], dtype=float32)
    """
    index = {code: number for number, code in enumerate(classes)}
    return np.array([index.get(code, np.nan) for code in codes], dtype="float32")
