"""The coded diagnoses of the cohort: which rows of diagnoses_icd count, and what became of the others."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pandas as pd
import polars as pl

from benchmark.data.owners import with_fault
from benchmark.data.phenotypes import listing, phenotypes_of
from benchmark.data.raw import RawMimic, collect
from benchmark.data.rules import Rules

TABLE, DICTIONARY = "hosp/diagnoses_icd", "hosp/d_icd_diagnoses"

COUNTS = "counts"
"""What became of a row that is used."""

SHOWN = 10
"""Most frequent unlisted codes that the report names."""

_CODE = pl.col("icd_code").str.strip_chars()


def read_diagnoses(
    raw: RawMimic, stays: pd.DataFrame, admissions: pd.DataFrame, rules: Rules = Rules()
) -> tuple[pd.DataFrame, dict[str, int]]:
    """Coded diagnoses of the stays' admissions, each once, and what became of all rows of the table.

    Args:
        stays: subject_id, hadm_id. admissions: all of them: subject_id, hadm_id. rules: with
            `diagnoses=joined_with_dictionary` only codes that the dictionary has, in whatever version.

    Returns:
        hadm_id, icd_code (stripped), icd_version; and numbers of rows, which add up to those of the table.
    """
    frame = raw.scan(TABLE, ["subject_id", "hadm_id", "icd_code", "icd_version"])
    frame = frame.with_columns(_CODE)
    cohort = pl.Series(stays.hadm_id.to_numpy(), dtype=pl.Int64).unique().implode()
    fate = (
        pl.when(pl.col("icd_code").fill_null("") == "")
        .then(pl.lit("without a code"))
        .when(pl.col("fault").is_not_null())
        .then(pl.col("fault"))
        .when(~pl.col("hadm_id").is_in(cohort))
        .then(pl.lit("of an admission without a stay of the cohort"))
    )
    if rules.diagnoses == "joined_with_dictionary":
        dictionary = collect(raw.scan(DICTIONARY, ["icd_code"]).select(_CODE).unique(), DICTIONARY)["icd_code"]
        fate = fate.when(~pl.col("icd_code").is_in(dictionary.implode())).then(pl.lit(f"not in {DICTIONARY}"))
    judged = with_fault(frame, admissions).with_columns(fate.otherwise(pl.lit(COUNTS)).alias("fate"))
    rows = dict(collect(judged.group_by("fate").len().sort("len", descending=True), TABLE).rows())
    used = judged.filter(pl.col("fate") == COUNTS).select("hadm_id", "icd_code", "icd_version").unique()
    table = collect(used.sort("hadm_id", "icd_version", "icd_code"), TABLE).to_pandas()
    repeated = rows.pop(COUNTS, 0) - len(table)
    return table, {COUNTS: len(table), "repeats another of its admission": repeated} | rows


def code_report(diagnoses: pd.DataFrame, rules: Rules = Rules()) -> dict[str, Any]:
    """How many of the diagnoses make a phenotype, and how many codes the tables behind them do not know.

    Args:
        diagnoses: as `read_diagnoses` gives them.

    Returns:
        "phenotype": number of diagnoses of one of the 25; of the others: by `benchmark.data.phenotypes.listing`;
        "unlisted codes": the most frequent of those that no table has, with their numbers.
    """
    counts: Counter[str] = Counter()
    unlisted: Counter[str] = Counter()
    for (version, code), number in diagnoses.groupby(["icd_version", "icd_code"]).size().items():
        known = listing(code, version, rules)
        counts["phenotype" if phenotypes_of(code, version, rules) else known] += int(number)
        if known == "unlisted":
            unlisted[f"ICD-{version} {code}"] += int(number)
    ordered = sorted(unlisted.items(), key=lambda entry: (-entry[1], entry[0]))
    kinds = {kind: counts[kind] for kind in ("phenotype", "listed", "begins alike", "unlisted")}
    return kinds | {"unlisted codes": dict(ordered[:SHOWN])}
