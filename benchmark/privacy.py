"""Looks through results for what must not leave with them: identifiers of the raw data and text of notes.

What identifiers and texts there are is read from the prepared data set. Signs that need no data set are found as well:
columns named like MIMIC's identifiers, film ids, and the gap marks of MIMIC's notes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from benchmark.errors import UserError

WORDS = 8
"""So many words in a row that also stand in a note are taken for text of it."""

TEXTS = frozenset({".json", ".md", ".csv", ".tex", ".txt", ".html", ".svg", ".yaml", ".yml", ".log", ".journal"})
TABLES = frozenset({".parquet"})
NUMBERS = frozenset({".npz", ".safetensors", ".pdf", ".png"})
"""Files that hold arrays or drawings alone, without names or text of samples."""

_ID_COLUMNS = frozenset({"subject_id", "hadm_id", "stay_id", "study_id", "dicom_id", "note_id", "text"})
_ID_NUMBER = re.compile(r"(?<![\w.])[123]\d{7}(?![\w.])")
_FILM = re.compile(r"\b[0-9a-f]{8}(?:-[0-9a-f]{8}){4}\b")
_GAP = re.compile(r"(?<![\w_])___(?![\w_])")
_HEAD = re.compile(r"(?m)(?:^|[,|;\t\"])\s*(subject_id|hadm_id|stay_id|study_id|dicom_id|note_id)\s*(?=[,|;\t\"]|$)")
_WORD = re.compile(r"[a-z0-9]+")
_TAG = re.compile(r"<[^>]*>|data:[\w/;+-]+,[A-Za-z0-9+/=]+")


@dataclass(frozen=True)
class Finding:
    """Something in a file; `what` never repeats an identifier or a text."""

    file: Path
    what: str


@dataclass(frozen=True)
class Secrets:
    """What a prepared data set knows.

    Attributes:
        numbers, names: identifiers. texts: of notes.
    """

    numbers: frozenset[int] = frozenset()
    names: frozenset[str] = frozenset()
    texts: tuple[str, ...] = ()

    @classmethod
    def of(cls, folders: Iterable[Path]) -> Secrets:
        """Of prepared data sets."""
        numbers: set[int] = set()
        names: set[str] = set()
        texts: list[str] = []
        for folder in folders:
            if not (folder / "private").is_dir():
                raise UserError(f"{folder} is no prepared data set: it has no folder `private`")
            for file in sorted((folder / "private").glob("*.parquet")):
                frame = pd.read_parquet(file)
                for column in (name for name in frame.columns if name.endswith("_id")):
                    values = frame[column].dropna()
                    if pd.api.types.is_numeric_dtype(values):
                        numbers.update(values.astype("int64").tolist())
                    else:
                        names.update(values.astype(str))
            notes = folder / "notes" / "texts.parquet"
            if notes.is_file():
                texts += pd.read_parquet(notes, columns=["text"])["text"].tolist()
        return cls(frozenset(numbers), frozenset(names), tuple(texts))


def scan(folder: Path, secrets: Secrets) -> Iterator[Finding]:
    """Findings in all files below `folder`, but for data sets and hidden files that are being written.

    Raises:
        UserError: there is no such folder.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder of results")
    rows: dict[tuple[str, ...], set[Path]] = {}
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        if _of_a_data_set(file, folder):
            continue
        if file.suffix in TABLES:
            content = yield from _table(file, secrets)
        elif file.suffix in TEXTS:
            content = file.read_text(encoding="utf-8", errors="replace")
        elif file.suffix in NUMBERS:
            continue
        else:
            yield Finding(file, "a kind of file that results do not have; look at it before you share it")
            continue
        plain = _TAG.sub(" ", content)
        yield from (Finding(file, what) for what in _signs(plain, secrets))
        for run in _runs(plain):
            rows.setdefault(run, set()).add(file)
    yield from _quoted(rows, secrets.texts)


def _of_a_data_set(file: Path, folder: Path) -> bool:
    """Prepared data are patients' data throughout; they are never results."""
    parents = [place for place in file.parents if folder in place.parents]
    return any((place / "manifest.json").is_file() and (place / "samples").is_dir() for place in parents)


def _table(file: Path, secrets: Secrets) -> Iterator[Finding]:
    """Findings in the columns of a table; returns its texts."""
    frame = pd.read_parquet(file)
    for column in sorted(_ID_COLUMNS & set(frame.columns)):
        yield Finding(file, f"a column {column}")
    texts = []
    for column in frame.columns:
        values = frame[column]
        if pd.api.types.is_integer_dtype(values) and (found := len(secrets.numbers & set(values.tolist()))):
            yield Finding(file, f"{found} identifiers of the raw data in column {column}")
        if pd.api.types.is_string_dtype(values):
            texts += [text for text in values.dropna().unique() if isinstance(text, str)]
    return "\n".join(texts)


def _signs(content: str, secrets: Secrets) -> Iterator[str]:
    found = {int(number) for number in _ID_NUMBER.findall(content)} & secrets.numbers
    if found:
        yield f"{len(found)} numbers that are identifiers of the raw data"
    if _FILM.search(content) or any(name in content for name in secrets.names):
        yield "an id of a film, note or other record of the raw data"
    if _GAP.search(content):
        yield "three underscores alone, as MIMIC's notes have them for what was taken out"
    named = {
        name for name in _ID_COLUMNS - {"text"} if re.search(rf"(?m)^(?:.*[,|;\t\"])?{name}(?:[,|;\t\"]|$)", content)
    }
    if named:
        yield f"a column {', '.join(sorted(named))}"


def _runs(content: str) -> Iterator[tuple[str, ...]]:
    """All runs of so many words within a line."""
    for line in content.lower().splitlines():
        words = _WORD.findall(line)
        yield from (tuple(words[start : start + WORDS]) for start in range(len(words) - WORDS + 1))


def _quoted(rows: dict[tuple[str, ...], set[Path]], texts: Iterable[str]) -> Iterator[Finding]:
    told: set[Path] = set()
    for text in texts:
        words = _WORD.findall(text.lower())
        for start in range(len(words) - WORDS + 1):
            for file in sorted(rows.get(tuple(words[start : start + WORDS]), set()) - told):
                told.add(file)
                yield Finding(file, f"{WORDS} words in a row that stand in a note")
