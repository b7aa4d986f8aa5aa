"""The raw MIMIC files as lazy frames, the only place that knows file names, column types and time formats.

Columns are always chosen by name, since releases insert columns in the middle of their tables. Text stays text: the
word "None" is a value of the coma scale, and codes such as "0389" lose their meaning as numbers. Only a blank field is
missing.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

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
"""Columns that `scan` gives as Datetime("us"). Dates without a time of day (`dod`) become midnight."""

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

_CXR_FILES = {name: f"mimic-cxr-2.0.0-{name}" for name in ("metadata", "chexpert", "negbio", "split")}

TABLES = (
    "hosp/patients",
    "hosp/admissions",
    "hosp/diagnoses_icd",
    "hosp/drgcodes",
    "hosp/labevents",
    "icu/icustays",
    "icu/chartevents",
    "cxr/metadata",
    "cxr/chexpert",
    "note/discharge",
)
"""Tables whose content enters a data set."""

MARKER = "SIMULATED.json"


class RawMimic:
    """Lazy access to one MIMIC-IV folder and, where given, its MIMIC-CXR-JPG and MIMIC-IV-Note companions.

    Args:
        mimic_iv: folder that holds `hosp/` and `icu/`.
        mimic_cxr: folder that holds `mimic-cxr-2.0.0-metadata.csv[.gz]` and `files/`, or None.
        mimic_note: folder that holds `note/discharge.csv[.gz]`, or None.
    """

    def __init__(self, mimic_iv: Path, mimic_cxr: Path | None = None, mimic_note: Path | None = None) -> None:
        self.roots: dict[str, Path | None] = {"iv": mimic_iv, "cxr": mimic_cxr, "note": mimic_note}
        for source, root in self.roots.items():
            if root is not None and not root.is_dir():
                raise UserError(f"--mimic-{source} {root}: no such folder")
        self._require("icu/icustays")
        if mimic_cxr is not None:
            self._require("cxr/metadata")
        if mimic_note is not None:
            self._require("note/discharge")

    def path(self, table: str) -> Path | None:
        """The table's file, plain or gzipped, or None if there is none."""
        source, stem = _place(table)
        root = self.roots[source]
        if root is None:
            return None
        found = (root / f"{stem}{suffix}" for suffix in (".csv", ".csv.gz"))
        return next((path for path in found if path.is_file()), None)

    def has(self, table: str) -> bool:
        """Whether the table's file exists."""
        return self.path(table) is not None

    def columns(self, table: str) -> list[str]:
        """Names of the table's columns in file order."""
        return self._open(table).collect_schema().names()

    def scan(self, table: str, columns: Sequence[str], optional: Sequence[str] = ()) -> pl.LazyFrame:
        """Lazy frame of the named columns, typed.

        Args:
            table: "hosp/admissions", "icu/chartevents", "cxr/metadata", "cxr/chexpert", "note/discharge", ...
            columns: columns that the file must have.
            optional: columns that are filled with nulls where the file lacks them.

        Raises:
            UserError: the file or a column is missing. Values of a wrong type show only when the frame is collected;
                `collect` turns that into a UserError too.
        """
        present = self.columns(table)
        missing = [name for name in columns if name not in present]
        if missing:
            raise UserError(f"{self.path(table)}: no column {', '.join(missing)}; the file has {', '.join(present)}")
        wanted = [*columns, *optional]
        numeric = {name: _type(name) for name in wanted if name in present and _type(name) != pl.String}
        blank = {name: "" for name in wanted if name in present and (name in TIMES or name in numeric)}
        frame = self._open(table, schema_overrides=numeric, null_values=blank)
        return frame.select(_column(name, name in present) for name in wanted)

    def sizes(self) -> dict[str, int]:
        """Bytes of every table that can be read, by name; they tell releases apart."""
        paths = {table: self.path(table) for table in TABLES}
        return {table: path.stat().st_size for table, path in paths.items() if path is not None}

    def film_path(self, subject_id: int, study_id: int, dicom_id: str) -> Path:
        """Where the image of one film lies."""
        root = self.roots["cxr"]
        if root is None:
            raise ValueError("film_path needs a MIMIC-CXR folder")
        return root / "files" / f"p{str(subject_id)[:2]}" / f"p{subject_id}" / f"s{study_id}" / f"{dicom_id}.jpg"

    def marker(self) -> dict[str, Any] | None:
        """What the simulator left about its data, with `truth` as a full path; None for real data."""
        roots = [root for root in self.roots.values() if root is not None]
        marked = [root for root in roots if (root / MARKER).is_file()]
        if not marked:
            return None
        if len(marked) < len(roots):
            real = next(root for root in roots if root not in marked)
            raise UserError(f"{marked[0]} is simulated and {real} is not; simulated and real files cannot be mixed")
        notes = [json.loads((root / MARKER).read_text(encoding="utf-8")) for root in marked]
        if any(note != notes[0] for note in notes):
            raise UserError(f"{' and '.join(map(str, marked))} come from different simulations")
        marker = dict(notes[0])
        if "truth" in marker:
            marker["truth"] = (marked[0] / marker["truth"]).resolve()
        return marker

    def _require(self, table: str) -> Path:
        path = self.path(table)
        if path is None:
            source, stem = _place(table)
            root = self.roots[source]
            where = f"--mimic-{source} {root}: neither {stem}.csv nor {stem}.csv.gz" if root else f"no --mimic-{source}"
            raise UserError(f"table {table} not found ({where})")
        return path

    def _open(self, table: str, **options: Any) -> pl.LazyFrame:
        path = self._require(table)
        try:
            frame = pl.scan_csv(path, infer_schema=False, **options)
            frame.collect_schema()
        except (pl.exceptions.PolarsError, OSError) as error:
            raise UserError(f"{path} cannot be read as CSV: {error}") from error
        return frame


def collect(frame: pl.LazyFrame, table: str) -> pl.DataFrame:
    """Run a query on `table` in batches; a value that does not fit its column is a `UserError`."""
    try:
        return frame.collect(engine="streaming")
    except (pl.exceptions.PolarsError, OSError) as error:
        raise UserError(f"table {table} has a value that cannot be read: {str(error).splitlines()[0]}") from error


def _place(table: str) -> tuple[str, str]:
    """Source and file stem of a table name.

    >>> _place("icu/icustays"), _place("cxr/metadata"), _place("note/discharge")
    (('iv', 'icu/icustays'), ('cxr', 'mimic-cxr-2.0.0-metadata'), ('note', 'note/discharge'))
    """
    module, _, name = table.partition("/")
    if module == "cxr" and name in _CXR_FILES:
        return "cxr", _CXR_FILES[name]
    if module == "note":
        return "note", table
    if module in ("hosp", "icu"):
        return "iv", table
    raise ValueError(
        f"unknown table {table!r}; names look like hosp/admissions, icu/icustays, cxr/metadata, note/discharge"
    )


def _type(name: str) -> pl.DataType:
    if name in _INTEGERS:
        return pl.Int64()
    return pl.Float64() if name in _NUMBERS else pl.String()


def _column(name: str, present: bool) -> pl.Expr:
    if name in TIMES:
        if not present:
            return pl.lit(None, dtype=pl.Datetime("us")).alias(name)
        text = pl.col(name)
        if name == "dod":
            text = text.str.slice(0, 10) + " 00:00:00"
        return text.str.to_datetime(_FORMAT, time_unit="us")
    return pl.col(name) if present else pl.lit(None, dtype=_type(name)).alias(name)
