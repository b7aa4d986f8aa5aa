"""The billing group of each admission: the rows of drgcodes that give one, and what became of the others."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd
import polars as pl

from benchmark.data.owners import OTHER_PATIENT, UNKNOWN_ADMISSION, oddities, with_fault
from benchmark.data.raw import RawMimic, collect
from benchmark.data.rules import Rules
from benchmark.tasks import drg

TABLE = "hosp/drgcodes"

NO_CODE, NO_NUMBER = "without a code", "with a code that is not one to three digits"

LOSSES = {
    NO_CODE: pl.col("drg_code").is_null(),
    NO_NUMBER: ~pl.col("drg_code").str.contains("^[0-9]{1,3}$"),  # would be a class of its own
    UNKNOWN_ADMISSION: pl.col("fault").eq_missing(UNKNOWN_ADMISSION),
    OTHER_PATIENT: pl.col("fault").eq_missing(OTHER_PATIENT),
}
"""Why an HCFA row gives no group, and when."""

MOST_TYPES = 5
"""Other types of code that are counted by name."""


@dataclass(frozen=True)
class Billing:
    """What drgcodes says.

    Attributes:
        codes: hadm_id, code (three digits); one row an admission.
        admissions: how many have an HCFA row. lost: how many of these have none but such rows, by reason and after the
            reasons before.
        rows: all rows of the table, by what became of them. oddities: those that contradict others or themselves.
    """

    codes: pd.DataFrame
    admissions: int
    lost: dict[str, int]
    rows: dict[str, int]
    oddities: dict[str, int]


def read_billing(raw: RawMimic, admissions: pd.DataFrame, rules: Rules = Rules()) -> Billing:
    """The HCFA codes of known admissions.

    Args:
        admissions: all of them: subject_id, hadm_id. rules: which of several codes of an admission counts.
    """
    everything = _rows(raw, admissions)
    hcfa = everything.filter(pl.col("drg_type") == "HCFA")
    left, lost, rows = hcfa, {}, {}
    for reason, holds in LOSSES.items():
        kept = left.filter(~holds)
        lost[reason] = left["hadm_id"].n_unique() - kept["hadm_id"].n_unique()
        rows[f"HCFA, {reason}"] = len(left) - len(kept)
        left = kept
    codes = drg.codes(left.select("hadm_id", "drg_code").to_pandas(), rules)
    used = {"HCFA, the code of its admission": len(codes), "HCFA, a further code of it": len(left) - len(codes)}
    odd = {"billing codes that are blank": rows[f"HCFA, {NO_CODE}"]}
    odd |= {"billing codes that are not one to three digits": rows[f"HCFA, {NO_NUMBER}"]}
    odd |= oddities("billing codes", hcfa.filter(pl.col("drg_code").is_not_null())["fault"])
    return Billing(codes, hcfa["hadm_id"].n_unique(), lost, used | rows | _other_types(everything), odd)


def _rows(raw: RawMimic, admissions: pd.DataFrame) -> pl.DataFrame:
    """The table in its order, types and codes without blanks, types in capitals, with `row` and `fault`."""
    scanned = raw.scan(TABLE, ["subject_id", "hadm_id", "drg_type", "drg_code"]).with_row_index("row")
    code = pl.col("drg_code").str.strip_chars()
    plain = scanned.with_columns(
        pl.col("drg_type").str.strip_chars().str.to_uppercase(), pl.when(code != "").then(code).alias("drg_code")
    )
    return collect(with_fault(plain, admissions).sort("row"), TABLE)


def _other_types(rows: pl.DataFrame) -> dict[str, int]:
    others = rows.filter(pl.col("drg_type") != "HCFA")["drg_type"].value_counts()
    counts = others.sort(["count", "drg_type"], descending=[True, False]).rows()
    named = {f"of type {kind or 'blank'}": count for kind, count in counts[:MOST_TYPES]}
    rest = sum(count for _, count in counts[MOST_TYPES:])
    return named | ({"of other types": rest} if rest else {})
