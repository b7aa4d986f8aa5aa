"""The sections of discharge summaries that samples read, one summary an admission."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field

import pandas as pd
import polars as pl

from benchmark.data.notes import Section, find_section, statistics
from benchmark.data.owners import oddities, with_fault
from benchmark.data.published_notes import find_published_section
from benchmark.data.raw import RawMimic, batches, collect
from benchmark.data.rules import Rules
from benchmark.data.series import Progress

BATCH = 2_000
"""Summaries that are in memory at a time."""

FINDERS: dict[str, Callable[[str, str], Section]] = {
    "by_headings": find_section,
    "published": find_published_section,
}
"""Search by setting of the rule `sections`."""

_SCHEMA = {
    "section": pl.String,
    "hadm_id": pl.Int64,
    "subject_id": pl.Int64,
    "status": pl.String,
    "heading": pl.String,
    "text": pl.String,
}


@dataclass(frozen=True)
class Summaries:
    """Sections found.

    Attributes:
        sections: one row for each wanted section of each admission with a summary: section, hadm_id, subject_id (both
            as they stand beside the text), status ("found", "missing", "empty" or "truncated"), heading (null if
            missing), text (null if there is nothing to read).
        times: when the summary was charted, by section and admission; NaT where that is not known.
    """

    sections: pl.DataFrame
    times: dict[tuple[str, int], pd.Timestamp] = field(default_factory=dict)

    def patients(self) -> pl.DataFrame:
        """The patient that the file names beside each text that can be read: section, hadm_id, subject_id."""
        return self.sections.filter(pl.col("text").is_not_null()).select("section", "hadm_id", "subject_id")

    def readable(self, section: str) -> set[int]:
        """The admissions whose section has a text."""
        chosen = self.sections.filter((pl.col("section") == section) & pl.col("text").is_not_null())
        return set(chosen["hadm_id"].to_list())

    def counts(self, section: str, hadm_ids: pd.Series) -> dict[str, int]:
        """How many of the admissions have each status, "no admission" (below 0) and "no summary" first."""
        known = self.sections.filter(pl.col("section") == section)
        status = dict(zip(known["hadm_id"].to_list(), known["status"].to_list(), strict=True))
        asked = hadm_ids[hadm_ids >= 0]
        seen = [status[hadm] for hadm in asked if hadm in status]
        outside = {"no admission": len(hadm_ids) - len(asked), "no summary": len(asked) - len(seen)}
        return outside | statistics(seen)

    def report(self) -> dict[str, dict[str, dict[str, int]]]:
        """By section: number of summaries by status, and by the heading that was met, the commonest first."""
        report = {}
        for section in self.sections["section"].unique(maintain_order=True).to_list():
            own = self.sections.filter(pl.col("section") == section)
            headings = own["heading"].drop_nulls().value_counts().sort(["count", "heading"], descending=[True, False])
            report[section] = {"status": statistics(own["status"].to_list()), "headings": dict(headings.rows())}
        return report


def list_summaries(raw: RawMimic, admissions: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, int]]:
    """All summaries of an admission and its patient, without texts, and the numbers of the others by fault.

    Args:
        admissions: all of them: subject_id, hadm_id.

    Returns:
        row, note_id, subject_id, hadm_id, note_type, note_seq, charttime.
    """
    columns = ["note_id", "subject_id", "hadm_id", "note_type", "note_seq", "charttime"]
    frame = with_fault(raw.scan("note/discharge", columns).with_row_index("row"), admissions)
    listed = collect(frame.sort("row"), "note/discharge")
    counts = oddities("summaries", listed["fault"])
    return listed.filter(pl.col("fault").is_null()).drop("fault").to_pandas(), counts


def one_per_admission(notes: pd.DataFrame, rules: Rules = Rules()) -> pd.DataFrame:
    """One discharge summary an admission, sorted by admission.

    By the rule `several_notes` type "DS" before others, then the latest, then the highest sequence number, then the
    last row; or simply the last row.

    Args:
        notes: columns `row, hadm_id, note_type, charttime, note_seq` and any others; every row has an admission.
    """
    keys = ["hadm_id", "row"]
    if rules.several_notes == "latest":
        summary = notes["note_type"].astype("string").str.strip().eq("DS").fillna(False).astype(bool)
        notes = notes.assign(_summary=summary)
        keys = ["hadm_id", "_summary", "charttime", "note_seq", "row"]
    ordered = notes.sort_values(keys, na_position="first").drop_duplicates("hadm_id", keep="last")
    return ordered.drop(columns="_summary", errors="ignore").reset_index(drop=True)


def one_with_history(notes: pd.DataFrame, rules: Rules = Rules()) -> pd.DataFrame:
    """The discharge summary of each admission whose history is read; arguments as for `one_per_admission`.

    Where histories are those of an earlier admission, it is the first that was charted: were it the latest, one charted
    after a prediction could take the place of the one that was known by then.
    """
    if rules.note_source == "same_admission":
        return one_per_admission(notes, rules)
    summary = notes["note_type"].astype("string").str.strip().eq("DS").fillna(False).astype(bool)
    ordered = notes.assign(_other=~summary).sort_values(["hadm_id", "_other", "charttime", "note_seq", "row"])
    return ordered.drop_duplicates("hadm_id").drop(columns="_other").reset_index(drop=True)


def read_summaries(
    raw: RawMimic,
    listed: pd.DataFrame,
    wanted: dict[str, set[int]],
    progress: Progress | None = None,
    rules: Rules = Rules(),
) -> Summaries:
    """Extract sections; notes are read a batch at a time, while the one before is searched, and forgotten.

    Args:
        listed: as `list_summaries` gives them; no other is read. wanted: admissions by section ("pmh", "bhc").
        rules: `sections` and `several_notes`.
    """
    notify = progress or (lambda *_: None)
    find = FINDERS[rules.sections]
    listed = listed[listed.hadm_id.isin(set().union(*wanted.values()))]
    chosen = {
        name: (one_with_history if name == "pmh" else one_per_admission)(
            listed[listed.hadm_id.isin(wanted[name])], rules
        )
        for name in wanted
    }
    searched = {name: set(frame.note_id) for name, frame in chosen.items()}
    if rules.several_notes == "last_in_file":  # the last course of an admission need not stand in its last summary
        searched["bhc"] = set(listed.note_id[listed.hadm_id.isin(wanted.get("bhc", ()))])
    asked = set().union(*searched.values())
    columns = ["note_id", "hadm_id", "subject_id", "text"]
    texts = raw.scan("note/discharge", columns)
    texts = texts.filter(pl.col("note_id").is_in(pl.Series(sorted(asked), dtype=pl.String).implode()))
    frames, done = [pl.DataFrame(schema=_SCHEMA)], 0
    for batch in batches(texts.select(columns), "note/discharge", BATCH):
        found = [
            (name, hadm, subject, find(text or "", name))
            for note, hadm, subject, text in batch.iter_rows()
            for name, notes in searched.items()
            if note in notes
        ]
        records = [(*keys, section.status, section.heading, section.text) for *keys, section in found]
        frames.append(pl.DataFrame(records, schema=_SCHEMA, orient="row"))
        done += batch.height
        notify("notes", done, len(asked))
    sections = pl.concat(frames)
    if rules.several_notes == "last_in_file":
        preferred = (pl.col("section") == "bhc") & pl.col("text").is_not_null()
        sections = sections.sort(preferred, maintain_order=True)
        sections = sections.unique(["section", "hadm_id"], keep="last", maintain_order=True)
    times = {
        (name, hadm): time
        for name, frame in chosen.items()
        for hadm, time in zip(frame.hadm_id.tolist(), frame.charttime, strict=True)
    }
    return Summaries(sections, times)


def number_texts(summaries: Summaries, used: dict[str, set[int]]) -> tuple[pl.DataFrame, dict[tuple[str, int], int]]:
    """Table of the texts that samples refer to, and the row of each by (section, admission).

    Args:
        used: admissions by section.

    >>> found = [("pmh", 7, "HTN"), ("pmh", 5, "CAD"), ("pmh", 6, "DM"), ("pmh", 4, None)]
    >>> sections = pl.DataFrame(found, schema=["section", "hadm_id", "text"], orient="row")
    >>> table, rows = number_texts(Summaries(sections), {"pmh": {4, 5, 7}})
    >>> table.drop("digest").rows(), rows
    ([(0, 'pmh', 'CAD'), (1, 'pmh', 'HTN')], {('pmh', 5): 0, ('pmh', 7): 1})
    """
    keys = pl.DataFrame(
        [(order, name, hadm) for order, name in enumerate(sorted(used)) for hadm in sorted(used[name])],
        schema={"order": pl.Int64, "section": pl.String, "hadm_id": pl.Int64},
        orient="row",
    )
    texts = summaries.sections.filter(pl.col("text").is_not_null())
    joined = keys.join(texts, on=["section", "hadm_id"]).sort("order", "hadm_id").with_row_index("note")
    digests = [hashlib.sha256(text.encode()).hexdigest() for text in joined["text"]]
    table = joined.select(pl.col("note").cast(pl.Int64), "section", "text", digest=pl.Series(digests, dtype=pl.String))
    return table, {key: row for row, key in enumerate(joined.select("section", "hadm_id").iter_rows())}
