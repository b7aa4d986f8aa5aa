"""Rows that name both a patient and an admission: whether the two belong together.

Summaries and codes are joined with admissions on both numbers. A row whose admission is another patient's is nobody's:
one of its numbers is wrong, and there is no telling which.
"""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd
import polars as pl

NO_ADMISSION = "without an admission"
UNKNOWN_ADMISSION = "of an unknown admission"
OTHER_PATIENT = "of another patient than their admission's"

REASONS = (NO_ADMISSION, UNKNOWN_ADMISSION, OTHER_PATIENT)
"""Why a row is nobody's."""


def with_fault(rows: pl.LazyFrame, admissions: pd.DataFrame) -> pl.LazyFrame:
    """The rows, in their order, with `fault`: one of `REASONS`, null where patient and admission belong together.

    Args:
        rows: subject_id, hadm_id (both may be blank) and any others. admissions: all of them: subject_id, hadm_id.

    >>> admissions = pd.DataFrame({"subject_id": [1, 2], "hadm_id": [10, 20]})
    >>> rows = pl.LazyFrame({"subject_id": [1, 1, 2, None, 2], "hadm_id": [10, 20, 30, 20, None]})
    >>> for fault in with_fault(rows, admissions).collect()["fault"]:
    ...     print(fault)
    None
    of another patient than their admission's
    of an unknown admission
    of another patient than their admission's
    without an admission
    """
    owners = pl.DataFrame(
        {"hadm_id": admissions.hadm_id.to_numpy(), "owner": admissions.subject_id.to_numpy()},
        schema={"hadm_id": pl.Int64, "owner": pl.Int64},
    )
    joined = rows.join(owners.lazy(), on="hadm_id", how="left", maintain_order="left")
    fault = (
        pl.when(pl.col("hadm_id").is_null())
        .then(pl.lit(NO_ADMISSION))
        .when(pl.col("owner").is_null())
        .then(pl.lit(UNKNOWN_ADMISSION))
        .when(pl.col("owner").ne_missing(pl.col("subject_id")))
        .then(pl.lit(OTHER_PATIENT))
    )
    return joined.with_columns(fault.alias("fault")).drop("owner")


def oddities(what: str, faults: Iterable[str | None]) -> dict[str, int]:
    """How many rows have each fault, for the report.

    >>> oddities("summaries", [None, NO_ADMISSION, None])["summaries without an admission"]
    1
    """
    faults = list(faults)
    return {f"{what} {reason}": faults.count(reason) for reason in REASONS}
