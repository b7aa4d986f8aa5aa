"""The figures that the FlexCare paper prints, kept as data under results/published."""

from __future__ import annotations

import pandas as pd

from benchmark.code_version import ROOT
from benchmark.errors import UserError
from benchmark.suggest import unknown

FOLDER = ROOT / "results" / "published"


def published(table: str = "table3") -> pd.DataFrame:
    """A published table in tidy form: one row a figure, with columns table, task, metric, model, mean, std."""
    file = FOLDER / f"{table}.csv"
    if not file.is_file():
        raise UserError(unknown("published table", table, sorted(path.stem for path in FOLDER.glob("*.csv"))))
    return pd.read_csv(file)
