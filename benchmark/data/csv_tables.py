"""CSV files as lazy frames of text: opening them, watching them stream by, and saying where they are at fault."""

from __future__ import annotations

import re
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl

from benchmark.data.columns import CHECKED, blank_as_null, typed
from benchmark.data.csv_faults import require_sound
from benchmark.errors import UserError


def open_csv(path: Path, **options: Any) -> pl.LazyFrame:
    """A file, plain or gzipped, with columns of text unless `options` of polars say otherwise.

    Raises:
        UserError: it has no header or cannot be opened.
    """
    try:
        frame = pl.scan_csv(path, infer_schema=False, glob=False, **options)
        header = "".join(frame.collect_schema().names())
    except pl.exceptions.NoDataError as error:
        raise UserError(f"{path} has no header: it is empty") from error
    except (pl.exceptions.PolarsError, OSError) as error:
        require_sound(path)
        raise UserError(f"{path} cannot be read as CSV: {str(error).splitlines()[0]}") from error
    if "\r" in header:
        raise UserError(f"{path}: its lines end in carriage returns alone; convert them to line feeds")
    if not all(letter.isprintable() or letter.isspace() for letter in header.removeprefix("\ufeff")):
        raise UserError(f"{path} is no CSV file: its first line holds what is no text")
    return frame


def has_rows(path: Path) -> bool:
    """Whether anything follows the header."""
    frame = open_csv(path)
    try:
        return frame.head(1).collect().height > 0
    except (pl.exceptions.PolarsError, OSError):
        return True  # it has something; what is wrong with it is said when it is read


def wanted_names(present: Sequence[str], columns: Sequence[str], optional: Sequence[str], path: Path) -> dict[str, str]:
    """Names in the file of the wanted columns that are there, found without regard to case.

    Args:
        present: the file's columns. columns: those it must have. optional: those it may have.

    Raises:
        UserError: a column is missing, or several have its name.
    """
    by_plain: dict[str, list[str]] = {}
    for name in present:
        by_plain.setdefault(_plain(name.split("_duplicated_")[0]), []).append(name)
    names = {}
    for name in (*columns, *optional):
        found = by_plain.get(_plain(name), [])
        if len(found) > 1:
            raise UserError(f"{path}: {len(found)} columns are called {name}")
        if found:
            names[name] = found[0]
    missing = [name for name in columns if name not in names]
    if missing:
        raise UserError(f"{path}: no column {', '.join(missing)}; the file has {', '.join(present)}")
    return names


class BlankError(Exception):
    """A column that is never blank has a blank."""


class Guard:
    """Looks at a table while it streams by, and counts its rows.

    The reader fills a row that has too few fields with nulls: those are looked for in columns that are never blank. It
    passes over fields too many unless all columns are read: so all are.

    Args:
        rows: gets the number of rows seen so far, by table. filled: columns that are blank in no row.
    """

    def __init__(self, rows: dict[str, int], table: str, filled: Sequence[str]) -> None:
        self.rows, self.table, self.columns, self.count = rows, table, filled, 0
        self._lock = threading.Lock()

    def over(self, frame: pl.LazyFrame) -> pl.LazyFrame:
        """The same frame; nothing that is done with it is done to rows that have not been looked at."""
        return frame.map_batches(
            self._look,
            predicate_pushdown=False,
            projection_pushdown=False,
            slice_pushdown=False,
            streamable=True,
            schema=frame.collect_schema(),
        )

    def _look(self, batch: pl.DataFrame) -> pl.DataFrame:
        with self._lock:  # the reader's threads call at the same time
            self.count += batch.height
            self.rows[self.table] = self.count
        for name in self.columns:
            if batch[name].null_count():
                raise BlankError(f"column {name} is blank in a row")
        return batch


def scanned(frame: pl.LazyFrame) -> Path | None:
    """The file that a query reads, by its plan."""
    found = re.findall(r"Csv SCAN \[(.+)\]", frame.explain(optimized=False))
    return Path(found[0]) if found else None


def located(path: Path | None, table: str, error: Exception, padded: bool = False) -> UserError:
    """The reason of a failed query, with the row if it can be found.

    Args:
        padded: numbers may stand between blanks, which the reader of streams does not take.
    """
    if path is None:
        return UserError(f"table {table} cannot be read: {str(error).splitlines()[0]}")
    try:
        _search(path, table, padded)
    except UserError as fault:
        return fault
    return UserError(f"{path} cannot be read: {str(error).splitlines()[0]}")


def _search(path: Path, table: str, padded: bool) -> None:
    """Raise a UserError for the first value that does not fit its column, or for the row where the file is broken."""
    before = 0
    frame = open_csv(path)
    names = {found: name for found in frame.collect_schema().names() if (name := CHECKED.get(_plain(found)))}
    try:
        for text in frame.select(pl.col(found).alias(name) for found, name in names.items()).collect_batches():
            typed(blank_as_null(text), table, path, before, padded)
            before += text.height
    except (pl.exceptions.PolarsError, OSError):
        pass  # the file itself is broken
    require_sound(path)


def _plain(name: str) -> str:
    return name.strip().lower()
