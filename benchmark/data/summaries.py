"""The sections of discharge summaries that samples read, one summary an admission."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import pandas as pd
import polars as pl

from benchmark.data.notes import find_section, one_per_admission, statistics
from benchmark.data.raw import RawMimic, collect
from benchmark.data.series import Progress

BATCH = 5_000
"""Summaries that are in memory at a time."""


@dataclass(frozen=True)
class Summaries:
    """Sections found.

    Attributes:
        texts: text by section, then admission.
        status: by section and admission: "found", "missing", "empty" or "truncated"; admissions without a summary are
            not listed.
    """

    texts: dict[str, dict[int, str]]
    status: dict[str, dict[int, str]]

    def counts(self, section: str, hadm_ids: pd.Series) -> dict[str, int]:
        """How many of the admissions have each status, "no summary" first."""
        known = self.status.get(section, {})
        asked = hadm_ids[hadm_ids >= 0]
        seen = [known[hadm] for hadm in asked if hadm in known]
        outside = {"no admission": len(hadm_ids) - len(asked), "no summary": len(asked) - len(seen)}
        return outside | statistics(seen)


def read_summaries(raw: RawMimic, wanted: dict[str, set[int]], progress: Progress | None = None) -> Summaries:
    """Extract sections; notes are read a batch at a time and forgotten.

    Args:
        wanted: admissions by section ("pmh", "bhc").
    """
    notify = progress or (lambda *_: None)
    frame = raw.scan("note/discharge", ["note_id", "hadm_id", "note_type", "note_seq", "charttime"])
    frame = frame.filter(_among("hadm_id", set().union(*wanted.values()), pl.Int64))
    chosen = one_per_admission(collect(frame, "note/discharge").to_pandas().sort_values("note_id", ignore_index=True))
    texts = raw.scan("note/discharge", ["note_id", "hadm_id", "text"])
    texts = texts.filter(_among("note_id", set(chosen.note_id), pl.String))
    found = Summaries({name: {} for name in wanted}, {name: {} for name in wanted})
    done = 0
    for batch in texts.collect_batches(chunk_size=BATCH, engine="streaming"):
        for hadm, text in zip(batch["hadm_id"].to_list(), batch["text"].to_list(), strict=True):
            for name, admissions in wanted.items():
                if hadm in admissions:
                    section = find_section(text or "", name)
                    found.status[name][hadm] = section.status
                    if section.text is not None:
                        found.texts[name][hadm] = section.text
        done += batch.height
        notify("notes", done, len(chosen))
    return found


def number_texts(texts: dict[str, dict[int, str]], used: dict[str, set[int]]) -> tuple[pd.DataFrame, dict]:
    """Table of the texts that samples refer to, and the row of each by (section, admission).

    >>> table, rows = number_texts({"pmh": {7: "HTN", 5: "CAD", 6: "DM"}}, {"pmh": {5, 7}})
    >>> table[["note", "section", "text"]].values.tolist(), rows
    ([[0, 'pmh', 'CAD'], [1, 'pmh', 'HTN']], {('pmh', 5): 0, ('pmh', 7): 1})
    """
    keys = [(name, hadm) for name in texts for hadm in sorted(used.get(name, ())) if hadm in texts[name]]
    content = [texts[name][hadm] for name, hadm in keys]
    table = pd.DataFrame(
        {
            "note": pd.Series(range(len(keys)), dtype="int64"),
            "section": pd.Series([name for name, _ in keys], dtype="object"),
            "text": pd.Series(content, dtype="object"),
            "digest": pd.Series([hashlib.sha256(text.encode()).hexdigest() for text in content], dtype="object"),
        }
    )
    return table, {key: row for row, key in enumerate(keys)}


def _among(column: str, values: set, dtype: type[pl.DataType]) -> pl.Expr:
    return pl.col(column).is_in(pl.Series(sorted(values), dtype=dtype).implode())
