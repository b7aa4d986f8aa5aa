"""The figures that the FlexCare paper (KDD 2024) prints, kept as data under results/published."""

from __future__ import annotations

import pandas as pd

from benchmark.code_version import ROOT
from benchmark.errors import UserError
from benchmark.suggest import unknown

FOLDER = ROOT / "results" / "published"


def published(table: str = "table3") -> pd.DataFrame:
    """A published table in tidy form, one row a figure or task; its columns are those of the CSV file."""
    file = FOLDER / f"{table}.csv"
    if not file.is_file():
        known = sorted(path.stem for path in FOLDER.glob("*.csv"))
        if not known:  # the folder of results that somebody made room in
            raise UserError(
                f"no tables of the paper in {FOLDER}; they belong to the program: `git checkout -- results` brings "
                "them back"
            )
        raise UserError(unknown("published table", table, known))
    return pd.read_csv(file)


def published_cohort() -> dict[str, dict[str, float | None]]:
    """Table 2: by task the number of samples, and percent of samples without each modality (None: not printed).

    >>> published_cohort()["dia"]
    {'samples': 132576, 'ehr': 76.34, 'cxr': 0.0, 'note': 32.56}
    """
    tasks = {}
    for row in published("table2").itertuples():
        rates = {name: getattr(row, f"missing_{name}_percent") for name in ("ehr", "cxr", "note")}
        tasks[row.task] = {"samples": int(row.samples)}
        tasks[row.task] |= {name: None if pd.isna(rate) else float(rate) for name, rate in rates.items()}
    return tasks
