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


def codes(rows: pd.DataFrame, rules: Rules = Rules()) -> pd.DataFrame:
    """One code of three digits an admission: hadm_id, code.

    Args:
        rows: hadm_id, drg_code (one to three digits, as text) of HCFA rows, in file order; the first of an admission
            counts, or the last with `drg_classes=all_partitions`. rules: a setting of every switch.

    >>> import pandas as pd
    >>> codes(pd.DataFrame({"hadm_id": [1, 2, 2, 3], "drg_code": ["871", "64", "065", "39"]})).values.tolist()
    [[1, '871'], [2, '064'], [3, '039']]
    """
    keep = "first" if rules.drg_classes == "training" else "last"
    table = rows.drop_duplicates("hadm_id", keep=keep)
    return table[["hadm_id"]].assign(code=table.drg_code.str.zfill(3))


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
