"""One hash for the content of a prepared data set, by which runs name what they were trained on."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmark.errors import UserError

FORMAT = 1
"""Layout of a data set's folder; raised when older ones can no longer be read."""

CONTENT = ("samples", "redraw", "series", "films", "notes/texts.parquet", "standardiser.json", "truth")
"""What counts: samples, stores and texts. Reports, links, key and embeddings (they follow from texts) do not."""


def fingerprint(folder: Path, content: Sequence[str] = CONTENT) -> str:
    """SHA-256 over names and hashes of the content files."""
    total = hashlib.sha256()
    for file in _files(folder, content):
        with file.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        total.update(f"{file.relative_to(folder).as_posix()}\0{digest}\n".encode())
    return total.hexdigest()


def sizes(folder: Path, content: Sequence[str] = CONTENT) -> dict[str, int]:
    """Bytes of the content files, by name."""
    return {file.relative_to(folder).as_posix(): file.stat().st_size for file in _files(folder, content)}


def _files(folder: Path, content: Sequence[str]) -> Iterator[Path]:
    for entry in content:
        path = folder / entry
        yield from (file for file in (sorted(path.rglob("*")) if path.is_dir() else [path]) if file.is_file())


def check_fingerprint(folder: Path, written: str) -> None:
    """Compare a data set's content with the fingerprint it was written with.

    Raises:
        UserError: the content has changed.
    """
    found = fingerprint(folder)
    if found != written:
        raise UserError(
            f"{folder}: its samples, stores or texts have changed since it was prepared (fingerprint {found[:12]}, "
            f"written as {written[:12]}); prepare the data set again"
        )
