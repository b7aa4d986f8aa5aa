"""The pieces that the report page is made of."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure as Drawing


@dataclass(frozen=True)
class Cell:
    """One cell: its text, what it is sorted by, and whether it is the best ("best") or second best ("second")."""

    text: str
    key: str = ""
    mark: str = ""


@dataclass(frozen=True)
class Table:
    """A table that readers can sort; the columns numbered in `words`, from 0, hold words, the others numbers."""

    headers: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    words: Collection[int] = (0,)
    caption: str = ""


@dataclass(frozen=True)
class Picture:
    """A drawing with its caption."""

    drawing: Drawing
    caption: str


@dataclass(frozen=True)
class Listing:
    """Text that is shown as it is, behind a heading that opens it."""

    title: str
    text: str


Block = str | Table | Picture | Listing


@dataclass(frozen=True)
class Part:
    """A heading and what stands below it."""

    title: str
    blocks: Sequence[Block]
