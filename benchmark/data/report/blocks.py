"""The pieces that a report is made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Table:
    """A table of texts; the columns named in `words` hold words, the others numbers."""

    headers: Sequence[str]
    rows: Sequence[Sequence[str]]
    words: Sequence[int] = (0,)


@dataclass(frozen=True)
class Figure:
    """A place for a figure of `benchmark.data.report.figures`; text forms leave it out."""

    name: str
    caption: str


Block = str | Table | Figure


@dataclass(frozen=True)
class Section:
    """A heading, its short form for lists of contents, and what stands below it."""

    title: str
    short: str
    blocks: Sequence[Block]
