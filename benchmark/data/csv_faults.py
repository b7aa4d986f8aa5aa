"""Finds the place where a CSV file is broken.

The reader that is used for speed stops at a broken file without saying where. This one goes through the file row by
row; it is slow and runs only when something is wrong already, or where rows look short.
"""

from __future__ import annotations

import csv
import gzip
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from benchmark.errors import UserError

LONGEST = 10_000_000
"""A field longer than this was opened by a quotation mark that is never closed."""

_TAIL = 65_536

_GZIP = b"\x1f\x8b"


def require_sound(path: Path) -> int:
    """Read a file, plain or gzipped, to its end.

    Returns:
        The number of rows below the header.

    Raises:
        UserError: the file is broken; says in which row.
    """
    limit = csv.field_size_limit(LONGEST)
    try:
        with path.open("rb") as file:
            compressed = file.read(2) == _GZIP
        with gzip.open(path) if compressed else path.open("rb") as stream:
            return _count_rows(stream, path)
    except OSError as fault:
        raise UserError(f"{path} cannot be read: {fault.strerror or fault}") from fault
    finally:
        csv.field_size_limit(limit)


def ends_openly(path: Path) -> bool:
    """Whether a plain file ends without a line end, as one does that was cut short while it was copied."""
    with path.open("rb") as file:
        if file.read(2) == _GZIP or not file.seek(0, os.SEEK_END):
            return False
        file.seek(-1, os.SEEK_END)
        return file.read(1) not in (b"\n", b"\r")


def require_whole_last_row(path: Path) -> None:
    """Compare the last row of a plain file that ends openly with its header.

    Raises:
        UserError: it has fewer fields.
    """
    if not ends_openly(path):
        return
    with path.open("rb") as file:
        header = file.readline().decode("utf-8", errors="replace")
        file.seek(-min(_TAIL, path.stat().st_size), os.SEEK_END)
        last = file.read().decode("utf-8", errors="replace").splitlines()[-1]
    if last.endswith('"'):  # the end of a field, maybe of many lines, of which this is the last; an open one is found
        return
    names, fields = next(csv.reader([header])), next(csv.reader([last]))
    if len(fields) < len(names):
        raise UserError(f"{path} is cut short: its last row has {len(fields)} of {len(names)} fields and no line end")


class _Lines:
    """Lines of a stream as text; bytes that are no UTF-8 survive as surrogates, and quotation marks are counted."""

    def __init__(self, stream: BinaryIO) -> None:
        self.stream, self.quotes, self.bytes = stream, 0, b""

    def __iter__(self) -> Iterator[str]:
        for line in self.stream:
            self.quotes += line.count(b'"')
            yield line.decode("utf-8", errors="surrogateescape")


def _count_rows(stream: BinaryIO, path: Path) -> int:
    lines, header, row = _Lines(stream), None, -1
    reader = csv.reader(iter(lines), strict=True)
    while True:
        place = "header" if header is None else f"row {row + 1}"
        lines.quotes = 0
        try:
            fields = next(reader, None)
        except csv.Error as fault:
            raise UserError(f"{path}: {place}: {_quoting(fault)}") from fault
        except EOFError as fault:
            raise UserError(f"{path} is cut short: its gzip data end in the middle of {place}") from fault
        except (gzip.BadGzipFile, zlib.error) as fault:
            raise UserError(f"{path} is damaged: its gzip data cannot be unpacked beyond {place} ({fault})") from fault
        if fields is None:
            return row
        row += 1
        if header is None:
            header = fields = [name.lstrip("\ufeff").strip() for name in fields]
        _check_row(fields, header, lines.quotes, f"{path}: {place}")


def _check_row(fields: list[str], header: list[str], quotes: int, place: str) -> None:
    if len(fields) != len(header):
        found = f"{len(fields)} field{'s' * (len(fields) != 1)}" if fields else "an empty line"
        raise UserError(f"{place}: {found}, where the header has {len(header)} (rows count from 1 below the header)")
    for name, field in zip(header, fields, strict=True):
        if not field.isascii() and any("\udc80" <= character <= "\udcff" for character in field):
            code = next(ord(character) - 0xDC00 for character in field if "\udc80" <= character <= "\udcff")
            column = "" if fields is header else f", column {name}"  # a name with such a byte cannot be shown
            raise UserError(f"{place}{column}: byte 0x{code:02x} is no UTF-8 text; convert the file to UTF-8")
    if quotes % 2:
        raise UserError(f"{place}: a quotation mark without a partner")


def _quoting(fault: csv.Error) -> str:
    text = str(fault)
    if "field limit" in text or "unexpected end" in text:
        return "a quoted field begins here that is never closed"
    return f"not CSV: {text}"
