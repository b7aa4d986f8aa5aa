"""Sections of discharge summaries, found line by line by their headings.

A heading is a line that holds nothing but one of the known headings, or the heading, a colon and text. The same words
in running text are not a heading. Past Medical History is cut at the first heading that follows it, so that nothing of
the hospital course can reach a model through it; without such a heading it is not used.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import pandas as pd

Status = Literal["found", "missing", "empty", "truncated"]
STATUSES: tuple[Status, ...] = ("found", "missing", "empty", "truncated")


@dataclass(frozen=True)
class Section:
    """One section of one note.

    Attributes:
        text: the cleaned section, or None if there is nothing to read.
        status: "found"; "missing" (no such heading); "empty" (a heading without words); "truncated" (the note stops
            before any heading that ends the section).
    """

    text: str | None
    status: Status


_HISTORY_STARTS = (
    "past medical history",
    "past medical/surgical history",
    "past medical and surgical history",
    "past medical & surgical history",
    "pmh",
    "pmhx",
    "pmh/psh",
)
_COURSE_STARTS = ("brief hospital course", "hospital course", "summary of hospital course")
_COURSE_ENDS = (
    "medications on admission",
    "admission medications",
    "discharge medications",
    "discharge disposition",
    "facility",
    "discharge diagnosis",
    "discharge diagnoses",
    "discharge condition",
    "discharge instructions",
    "followup instructions",
    "follow-up instructions",
)
_HISTORY_ENDS = (
    "social history",
    "family history",
    "physical exam",
    "physical examination",
    "admission exam",
    "admission physical exam",
    "admission physical examination",
    "discharge exam",
    "discharge physical exam",
    "pertinent results",
    "labs",
    "imaging",
    *_COURSE_STARTS,
    *_COURSE_ENDS,
)


@dataclass(frozen=True)
class _Rule:
    start: re.Pattern[str]
    end: re.Pattern[str]
    to_end_of_note: bool


def _headings(names: Iterable[str]) -> re.Pattern[str]:
    choice = "|".join(re.escape(name).replace(r"\ ", r"[ \t]+") for name in sorted(names, key=len, reverse=True))
    return re.compile(rf"^[ \t]*(?:{choice})[ \t]*(?::(?P<inline>.*))?$", re.IGNORECASE | re.MULTILINE)


_RULES = {
    "pmh": _Rule(_headings(_HISTORY_STARTS), _headings(_HISTORY_ENDS), to_end_of_note=False),
    "bhc": _Rule(_headings(_COURSE_STARTS), _headings(_COURSE_ENDS), to_end_of_note=True),
}


def clean(text: str) -> str:
    """Text on one line without redaction marks; case and punctuation stay.

    >>> clean("1. HTN\\r\\n2. DM2 (A1c 7.2%), Dr. ___ ")
    '1. HTN 2. DM2 (A1c 7.2%), Dr.'
    """
    return " ".join(re.sub(r"_{3,}", " ", text).split())


def find_section(text: str, name: str) -> Section:
    """The section `name` of a discharge summary, "pmh" (past medical history) or "bhc" (brief hospital course).

    Of several with that heading the first one that holds words.

    >>> find_section("Past Medical History:\\n1. HTN\\n2. DM2\\nSocial History:\\n___", "pmh")
    Section(text='1. HTN 2. DM2', status='found')
    >>> find_section("She has a past medical history: see above.", "pmh")
    Section(text=None, status='missing')
    """
    rule = _RULES[name]
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    status: Status = "missing"
    for start in rule.start.finditer(text):
        end = rule.end.search(text, start.end())
        if end is None and not rule.to_end_of_note:
            return Section(None, "truncated")
        body = clean((start["inline"] or "") + text[start.end() : end.start() if end else len(text)])
        if any(character.isalnum() for character in body):
            return Section(body, "found" if end else "truncated")
        status = "empty"
    return Section(None, status)


def statistics(statuses: Iterable[str]) -> dict[str, int]:
    """How many notes have each status.

    >>> statistics(["found", "found", "empty"])
    {'found': 2, 'missing': 0, 'empty': 1, 'truncated': 0}
    """
    counts = Counter(statuses)
    return {status: counts[status] for status in STATUSES}


def one_per_admission(notes: pd.DataFrame) -> pd.DataFrame:
    """One discharge summary an admission: type "DS" before others, then the latest, then the highest sequence number.

    Args:
        notes: columns `hadm_id, note_type, charttime, note_seq` and any others. Rows without an admission are left out.
    """
    ordered = notes[notes["hadm_id"].notna()].copy()
    ordered["_summary"] = ordered["note_type"].astype("string").str.strip().eq("DS").fillna(False).astype(bool)
    ordered = ordered.sort_values(["hadm_id", "_summary", "charttime", "note_seq"], na_position="first", kind="stable")
    return ordered.drop_duplicates("hadm_id", keep="last").drop(columns="_summary").reset_index(drop=True)
