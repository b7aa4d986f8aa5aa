"""The columns of MIMIC's tables that are read: their types, and what must hold of their values.

Text stays text: the word "None" is a value of the coma scale, and codes such as "0389" lose their meaning as numbers.
Only a blank field is missing.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import polars as pl

from benchmark.errors import UserError
from benchmark.tasks.dia import FINDINGS

TIMES = frozenset(
    {
        "admittime",
        "dischtime",
        "deathtime",
        "edregtime",
        "edouttime",
        "intime",
        "outtime",
        "charttime",
        "storetime",
        "dod",
    }
)
"""Columns of type Datetime("us"). Dates without a time of day (`dod`) become midnight."""

_INTEGERS = frozenset(
    {
        "subject_id",
        "hadm_id",
        "stay_id",
        "study_id",
        "itemid",
        "labevent_id",
        "specimen_id",
        "seq_num",
        "icd_version",
        "anchor_age",
        "anchor_year",
        "hospital_expire_flag",
        "note_seq",
        "StudyDate",
        "Rows",
        "Columns",
    }
)

_NUMBERS = frozenset({"valuenum", "los", "StudyTime", "ref_range_lower", "ref_range_upper", *FINDINGS})

_FORMAT = "%Y-%m-%d %H:%M:%S"

YEARS = (1900, 2399)
"""Years of a time of a patient or stay. MIMIC shifts all into 2100 to 2220; a year like 1 or 9999 means nothing."""

KEYS = {
    "hosp/patients": "subject_id",
    "hosp/admissions": "hadm_id",
    "icu/icustays": "stay_id",
    "icu/d_items": "itemid",
    "hosp/d_labitems": "itemid",
    "cxr/metadata": "dicom_id",
    "cxr/chexpert": "study_id",
    "note/discharge": "note_id",
}
"""The column of each table that no two rows share."""

FILLED = {
    "hosp/patients": ("subject_id", "anchor_age", "anchor_year"),
    "hosp/admissions": ("subject_id", "hadm_id", "admittime", "dischtime", "hospital_expire_flag"),
    "hosp/diagnoses_icd": ("hadm_id", "icd_version"),
    "hosp/drgcodes": ("hadm_id", "drg_type"),
    "hosp/labevents": ("subject_id", "itemid"),
    "hosp/d_labitems": ("itemid",),
    "icu/icustays": ("subject_id", "hadm_id", "stay_id", "intime"),
    "icu/chartevents": ("stay_id", "itemid", "charttime"),
    "icu/d_items": ("itemid",),
    "cxr/metadata": ("dicom_id", "subject_id", "study_id"),
    "cxr/chexpert": ("subject_id", "study_id"),
    "note/discharge": ("note_id",),
}
"""Columns that are blank in no row of a table."""

ALLOWED = {"icd_version": (9, 10), "hospital_expire_flag": (0, 1), **dict.fromkeys(FINDINGS, (-1, 0, 1))}
"""Values of columns that take few."""

BELOW = {"los": 3650}
"""Numbers that are wrong from here on: days of a stay."""

CHECKED = {
    name.lower(): name
    for name in (*sorted(TIMES | _INTEGERS | _NUMBERS), *sorted({name for names in FILLED.values() for name in names}))
}
"""All columns of which something must hold, by lower-cased name."""


def type_of(name: str) -> pl.DataType:
    """Type of a column by its name."""
    if name in TIMES:
        return pl.Datetime("us")
    if name in _INTEGERS:
        return pl.Int64()
    return pl.Float64() if name in _NUMBERS else pl.String()


def parsed(name: str, strict: bool = True, padded: bool = True) -> pl.Expr:
    """A column of text as its type. What does not fit raises, or becomes null if not `strict`.

    Args:
        padded: numbers may stand between blanks.
    """
    text, kind = pl.col(name), type_of(name)
    if name in TIMES:
        if name == "dod":  # a date, or one with a time of day, which means nothing
            text = text.str.replace(r"^(\d{4}-\d\d-\d\d)( \d\d:\d\d:\d\d)?$", "${1} 00:00:00")
        return text.str.to_datetime(_FORMAT, time_unit="us", strict=strict)
    if kind == pl.String:
        return text
    return (text.str.strip_chars() if padded else text).cast(kind, strict=strict)


def blank_as_null(frame: pl.DataFrame) -> pl.DataFrame:
    """Fields without a character, quoted or not, as null."""
    return frame.with_columns(pl.when(pl.col(pl.String) != "").then(pl.col(pl.String)).name.keep())


def typed(frame: pl.DataFrame, table: str, path: Path, before: int = 0, padded: bool = True) -> pl.DataFrame:
    """A table's text as typed columns.

    Args:
        frame: text, blank fields null. before: rows of the file before this frame. padded: as in `parsed`.

    Raises:
        UserError: a value that does not fit its column, with file, row (1 is the first below the header) and column.
    """
    frame_typed = frame.select(parsed(name, strict=False, padded=padded) for name in frame.columns)
    filled, checks = FILLED.get(table, ()), []
    for name in frame.columns:
        text, value = frame[name], frame_typed[name]
        checks.append((name, text.is_not_null() & value.is_null(), f"is {_kind(name)}"))
        if name in filled:
            checks.append((name, text.is_null(), "must not be blank"))
        if name in ALLOWED:
            allowed = value.is_in(pl.Series(ALLOWED[name], dtype=value.dtype).implode()) | value.is_null()
            checks.append((name, ~allowed, f"must be {', '.join(map(str, ALLOWED[name]))}"))
        if type_of(name) == pl.Float64:
            checks.append((name, ~value.is_finite().fill_null(True), "is no finite number"))
        if name in BELOW:
            checks.append((name, (value >= BELOW[name]).fill_null(False), f"must be below {BELOW[name]:,}"))
        if name == "StudyDate":
            date = value.cast(pl.String).str.to_date("%Y%m%d", strict=False)
            checks.append((name, value.is_not_null() & date.is_null(), "is no date YYYYMMDD"))
            checks.append(_of_other_years(name, date.dt.year()))
        if name == "StudyTime":
            seconds, minutes = value % 100, value // 100 % 100
            wrong = (value < 0) | (value >= 240_000) | (minutes >= 60) | (seconds >= 60)
            checks.append((name, wrong.fill_null(False), "is no time of day HHMMSS"))
        if name == "anchor_year":
            checks.append(_of_other_years(name, value))
        if name in TIMES and table in KEYS:
            checks.append(_of_other_years(name, value.dt.year()))
    _raise_first(frame, checks, path, before)
    return frame_typed


def _of_other_years(name: str, year: pl.Series) -> tuple[str, pl.Series, str]:
    """Check of the year of a time."""
    wrong = (year < YEARS[0]) | (year > YEARS[1])
    return name, wrong.fill_null(False), f"must lie in the years {YEARS[0]} to {YEARS[1]}"


def _kind(name: str) -> str:
    if name == "dod":
        return "no date YYYY-MM-DD"
    if name in TIMES:
        return "no time YYYY-MM-DD HH:MM:SS"
    return "no whole number" if name in _INTEGERS else "no number"


def _raise_first(frame: pl.DataFrame, checks: Iterable[tuple[str, pl.Series, str]], path: Path, before: int) -> None:
    """Report the fault that stands highest in the file."""
    faults = [(int(wrong.arg_max()), name, reason, int(wrong.sum())) for name, wrong, reason in checks if wrong.any()]
    if not faults:
        return
    row, name, reason, count = min(faults)
    value = frame[name][row]
    found = "blank" if value is None else repr(value if len(value) <= 60 else value[:57] + "...")
    more = f"; {count - 1} more rows like it" if count > 1 else ""
    raise UserError(
        f"{path}: row {before + row + 1}, column {name}: {found} {reason}{more} (rows count from 1 below the header)"
    )


def require_unique(frame: pl.DataFrame, table: str, path: Path) -> None:
    """Check the key of a whole table.

    Raises:
        UserError: two rows share it.
    """
    key = KEYS.get(table)
    if key not in frame.columns or not frame[key].is_duplicated().any():
        return
    repeated = frame[key].is_duplicated()
    value = frame[key].filter(repeated)[0]
    rows = [str(row + 1) for row in (frame[key] == value).arg_true().to_list()]
    keys = frame[key].filter(repeated).n_unique()
    more = f"; {keys - 1} more values occur several times" if keys > 1 else ""
    raise UserError(
        f"{path}: column {key}: {value} occurs in rows {' and '.join(rows[:2])}{more}; every row must have its own "
        "(rows count from 1 below the header)"
    )
