"""The raw MIMIC files as lazy frames, the only place that knows file names.

Columns are always chosen by name, since releases insert columns in the middle of their tables.

Tables of up to some million rows are read whole and checked at once. The long ones (events, and the texts of notes) are
read as streams: what is wrong in them shows when a query runs (`collect`, `batches`), and is then looked for again to
say in which row it stands.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from benchmark.data.columns import FILLED, TIMES, blank_as_null, parsed, require_unique, type_of, typed
from benchmark.data.csv_faults import ends_openly, require_sound, require_whole_last_row
from benchmark.data.csv_tables import BlankError, Guard, has_rows, located, open_csv, scanned, wanted_names
from benchmark.errors import UserError

_CXR_FILES = {name: f"mimic-cxr-2.0.0-{name}" for name in ("metadata", "chexpert", "negbio", "split")}

NEEDED = ("icu/icustays", "hosp/admissions", "hosp/patients", "icu/chartevents")
"""Tables without which there is no data set."""

TABLES = (
    "hosp/patients",
    "hosp/admissions",
    "hosp/diagnoses_icd",
    "hosp/d_icd_diagnoses",
    "hosp/drgcodes",
    "hosp/labevents",
    "hosp/d_labitems",
    "icu/icustays",
    "icu/chartevents",
    "icu/d_items",
    "cxr/metadata",
    "cxr/chexpert",
    "note/discharge",
)
"""Tables whose content enters a data set."""

LONG = ("icu/chartevents", "hosp/labevents")
"""Tables that are never read whole; nor are the texts of notes."""

MARKER = "SIMULATED.json"

_FOLDERS = {"iv": "MIMIC-IV", "cxr": "MIMIC-CXR", "note": "MIMIC-IV-Note"}


class RawMimic:
    """Lazy access to one MIMIC-IV folder and, where given, its MIMIC-CXR-JPG and MIMIC-IV-Note companions.

    Args:
        mimic_iv: folder that holds `hosp/` and `icu/`.
        mimic_cxr: folder that holds `mimic-cxr-2.0.0-metadata.csv[.gz]` and `files/`, or None.
        mimic_note: folder that holds `note/discharge.csv[.gz]`, or None.

    Attributes:
        rows: rows of every table that has been read to its end.

    Raises:
        UserError: a folder is missing, or the table that tells that it is the right one.
    """

    def __init__(self, mimic_iv: Path, mimic_cxr: Path | None = None, mimic_note: Path | None = None) -> None:
        self.roots: dict[str, Path | None] = {"iv": mimic_iv, "cxr": mimic_cxr, "note": mimic_note}
        self.rows: dict[str, int] = {}
        self._filled: dict[str, bool] = {}
        for source, root in self.roots.items():
            if root is not None and not root.is_dir():
                raise UserError(f"--mimic-{source} {root}: no such folder")
        if (mimic_iv / "core").is_dir() and not self.path("hosp/admissions"):
            raise UserError(
                f"--mimic-iv {mimic_iv}: MIMIC-IV 1.0, which has a folder core, cannot be read; take 2.0 or later"
            )
        self._require("icu/icustays")
        if mimic_cxr is not None:
            self._require("cxr/metadata")
        if mimic_note is not None:
            self._require("note/discharge")

    def require_needed(self) -> None:
        """Find out before the long steps whether tables without which there is no data set are absent or empty."""
        for table in NEEDED:
            self._require(table)
            if not self.has(table):
                raise UserError(f"{self.path(table)} has a header but no rows")
        for table in TABLES:
            self.has(table)  # raises for a file without a header

    def path(self, table: str) -> Path | None:
        """The table's file, plain or gzipped, or None if there is none. Of both, the plain one."""
        found = self._candidates(table)
        return found[0] if found else None

    def _candidates(self, table: str) -> list[Path]:
        source, stem = _place(table)
        root = self.roots[source]
        if root is None:
            return []
        paths = [root / f"{stem}{suffix}" for suffix in (".csv", ".csv.gz")]
        for path in paths:
            if path.is_dir():
                raise UserError(f"{path} is a folder; a file is needed")
        return [path for path in paths if path.is_file()]

    def twice(self) -> list[str]:
        """Tables that are there both plain and gzipped."""
        return [table for table in TABLES if len(self._candidates(table)) > 1]

    def ending_openly(self) -> list[str]:
        """Tables whose file does not end with a line end and so may be cut short in its last field."""
        return [table for table in TABLES if (path := self.path(table)) and ends_openly(path)]

    def has(self, table: str) -> bool:
        """Whether the table's file exists and has a row.

        Raises:
            UserError: it exists and has no header either.
        """
        if table not in self._filled:
            path = self.path(table)
            self._filled[table] = path is not None and has_rows(path)
        return self._filled[table]

    def lack(self, table: str) -> str | None:
        """Why a table cannot be used: not given, without the file, without rows; None if it can."""
        if self.has(table):
            return None
        source, stem = _place(table)
        if self.roots[source] is None:
            return f"no {_FOLDERS[source]} folder given"
        if self.path(table) is None:
            return f"{_FOLDERS[source]} folder without {stem + '.csv' if source == 'cxr' else table}"
        return f"{table} has a header but no rows"

    def columns(self, table: str) -> list[str]:
        """Names of the table's columns in file order."""
        return list(open_csv(self._require(table)).collect_schema().names())

    def scan(self, table: str, columns: Sequence[str], optional: Sequence[str] = ()) -> pl.LazyFrame:
        """Lazy frame of the named columns, typed.

        Args:
            table: "hosp/admissions", "icu/chartevents", "cxr/metadata", "cxr/chexpert", "note/discharge", ...
            columns: columns that the file must have, in whatever case.
            optional: columns that are filled with nulls where the file lacks them.

        Raises:
            UserError: the file or a column is missing, or a value does not fit its column. In long tables values show
                only when the frame is collected; `collect` and `batches` turn that into a UserError too.
        """
        path = self._require(table)
        names = wanted_names(self.columns(table), columns, optional, path)
        if table in LONG or "text" in columns:
            frame = self._stream(table, path, names)
        else:
            frame = self._read(table, path, names).lazy()
        absent = [pl.lit(None, dtype=type_of(name)).alias(name) for name in optional if name not in names]
        return frame.with_columns(absent).select(*columns, *optional)

    def _read(self, table: str, path: Path, names: dict[str, str]) -> pl.DataFrame:
        frame = open_csv(path)
        if table == "note/discharge":
            frame = frame.select(names.values())
        last = frame.collect_schema().names()[-1]
        try:
            # All columns, since the reader passes over fields too many where it need not read to the end of rows.
            text = frame.collect(engine="streaming")
        except (pl.exceptions.PolarsError, OSError) as error:
            raise located(path, table, error, padded=True) from error
        # It fills rows that are too short with nulls. They can only be where the last column is null.
        if text[last].null_count() and table != "note/discharge" and require_sound(path) != text.height:
            raise UserError(f"{path}: rows cannot be told apart, probably for quotation marks in the wrong place")
        text = blank_as_null(text.select(pl.col(found).alias(name) for name, found in names.items()))
        read = typed(text, table, path)
        require_unique(read, table, path)
        self.rows[table] = read.height
        return read

    def _stream(self, table: str, path: Path, names: dict[str, str]) -> pl.LazyFrame:
        require_whole_last_row(path)
        numeric = {found: type_of(name) for name, found in names.items() if type_of(name) in (pl.Int64, pl.Float64)}
        blank = {found: "" for name, found in names.items() if name != "text"}
        frame = open_csv(path, schema_overrides=numeric, null_values=blank)
        frame = frame.rename({found: name for name, found in names.items() if name != found})
        guard = Guard(self.rows, table, [name for name in FILLED[table] if name in names])
        return guard.over(frame).select(_value(name) for name in names)

    def count(self, table: str) -> int:
        """Rows of a table; the whole file is read."""
        return collect(open_csv(self._require(table)).select(pl.len()), table).item()

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


def collect(frame: pl.LazyFrame, table: str) -> pl.DataFrame:
    """Run a query on `table` in batches; a value that does not fit its column is a `UserError`."""
    try:
        return frame.collect(engine="streaming")
    except (pl.exceptions.PolarsError, OSError, BlankError) as error:
        raise located(scanned(frame), table, error) from error


def batches(frame: pl.LazyFrame, table: str, size: int | None = None) -> Iterator[pl.DataFrame]:
    """The result of a query on `table`, some rows at a time and in order; errors as in `collect`."""
    try:
        yield from frame.collect_batches(chunk_size=size, engine="streaming")
    except (pl.exceptions.PolarsError, OSError, BlankError) as error:
        raise located(scanned(frame), table, error) from error


def _value(name: str) -> pl.Expr:
    """A column of a long table; words like NaN and inf in place of a number are blanks."""
    if name in TIMES:
        return parsed(name)
    value = pl.col(name)
    return pl.when(value.is_finite()).then(value) if type_of(name) == pl.Float64 else value


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
