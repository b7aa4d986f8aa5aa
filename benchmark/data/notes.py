"""Sections of discharge summaries, found line by line by their headings.

A heading is a line that holds nothing but one of the known headings, or the heading, a colon and text. Headings that
end a section may go on with a few words before the colon ("Physical Exam on admission:"). The same words in running
text are not a heading, except that a line which opens with those of the hospital course or of the results always is.

Nothing of the hospital course may reach a model through the Past Medical History. So it is used only where it is cut by
a heading that comes before the course in a summary, it never begins after a heading of the course, and a second heading
of a history before the cut starts it anew: the first may stand inside the History of Present Illness.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Literal

Status = Literal["found", "missing", "empty", "truncated"]
STATUSES: tuple[Status, ...] = ("found", "missing", "empty", "truncated")


@dataclass(frozen=True)
class Section:
    """One section of one note.

    Attributes:
        text: the cleaned section, or None if there is nothing to read.
        status: "found"; "missing" (no such heading); "empty" (a heading without words); "truncated" (no
            heading ends the section, or for a history the first that does belongs to the hospital course or later).
        heading: the words that began it, in lower case; None if it is missing.
    """

    text: str | None
    status: Status
    heading: str | None = field(default=None, compare=False, repr=False)


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
_AFTER_COURSE = (
    *_COURSE_ENDS,
    "active issues",
    "acute issues",
    "transitional issues",
    "discharge exam",
    "discharge labs",
    "discharge physical",
    "discharge physical exam",
    "discharge physical examination",
)
_HISTORY_ENDS = (
    "social history",
    "social hx",
    "family history",
    "family hx",
    "physical exam",
    "physical examination",
    "admission exam",
    "admission physical",
    "admission physical exam",
    "admission physical examination",
    "admission labs",
    "pertinent results",
    "labs",
    "imaging",
)


@dataclass(frozen=True)
class _Rule:
    """Headings of a section. `limit`: it never begins after this; `late`: an end that makes a section unusable."""

    start: re.Pattern[str]
    end: re.Pattern[str]
    limit: re.Pattern[str] | None = None
    late: re.Pattern[str] | None = None


_INLINE = r"[ \t]*(?::(?P<inline>.*))?$"
_FURTHER = r"(?:[ \t]*:.*|[ \t]*$|[ \t(/,-][^.;:\n]{0,40}:.*$)"
"""A colon and text, nothing, or a few words of one clause and a colon."""
_ANYTHING = r"(?![\w-]).*$"


def _headings(names: Iterable[str], rest: str) -> str:
    choice = "|".join(re.escape(name).replace(r"\ ", r"[ \t]+") for name in sorted(names, key=len, reverse=True))
    return rf"(?:{choice}){rest}"


def _pattern(*headings: str) -> re.Pattern[str]:
    # A search for the line end before a heading is many times faster than one for a line's beginning.
    return re.compile(rf"\n[ \t]*(?:{'|'.join(headings)})", re.IGNORECASE | re.MULTILINE)


_ANY_COURSE = _headings((*_COURSE_STARTS, "(brief) hospital course"), _ANYTHING)
_LATE = (_ANY_COURSE, _headings(_AFTER_COURSE, _FURTHER))
_EARLY = (_headings(_HISTORY_ENDS, _FURTHER), _headings(["pertinent results"], _ANYTHING))
_RULES = {
    "pmh": _Rule(
        _pattern(_headings(_HISTORY_STARTS, _INLINE)),
        _pattern(*_LATE, *_EARLY),
        limit=_pattern(_ANY_COURSE),
        late=_pattern(*_LATE),
    ),
    "bhc": _Rule(
        _pattern(_headings(_COURSE_STARTS, r"(?:[ \t]+by[ \t]+[^.;:\n]{1,30})?" + _INLINE)),
        _pattern(_headings(_COURSE_ENDS, _FURTHER)),
    ),
}


def clean(text: str) -> str:
    """Text on one line without redaction marks; case and punctuation stay.

    >>> clean("1. HTN\\r\\n2. DM2 (A1c 7.2%), Dr. ___ ")
    '1. HTN 2. DM2 (A1c 7.2%), Dr.'
    """
    return " ".join(re.sub(r"_{3,}", " ", text).split())


def find_section(text: str, name: str) -> Section:
    """The section `name` of a discharge summary, "pmh" (past medical history) or "bhc" (brief hospital course).

    Of several with that heading the first one that holds words; of several histories that no other heading parts, the
    last one.

    >>> find_section("Past Medical History:\\n1. HTN\\n2. DM2\\nSocial History:\\n___", "pmh")
    Section(text='1. HTN 2. DM2', status='found')
    >>> find_section("She has a past medical history: see above.", "pmh")
    Section(text=None, status='missing')
    """
    rule = _RULES[name]
    text = "\n" + text.replace("\r\n", "\n").replace("\r", "\n")
    limit = rule.limit.search(text) if rule.limit else None
    starts = list(rule.start.finditer(text, 0, limit.start() if limit else len(text)))
    status: Status = "missing"
    heading: str | None = None
    for start, following in zip_longest(starts, starts[1:]):
        end = rule.end.search(text, start.end())
        stop = end.start() if end else len(text)
        if rule.late is not None:
            if following is not None and following.start() < stop:
                continue
            if end is None or rule.late.match(text, stop):
                return Section(None, "truncated", _name(start))
        body = clean((start["inline"] or "") + text[start.end() : stop])
        if any(character.isalnum() for character in body):
            return Section(body, "found" if end else "truncated", _name(start))
        status, heading = "empty", _name(start)
    return Section(None, status, heading)


def _name(start: re.Match[str]) -> str:
    """The heading alone, in lower case."""
    return " ".join(start.group().partition(":")[0].lower().split())


def statistics(statuses: Iterable[str]) -> dict[str, int]:
    """How many notes have each status.

    >>> statistics(["found", "found", "empty"])
    {'found': 2, 'missing': 0, 'empty': 1, 'truncated': 0}
    """
    counts = Counter(statuses)
    return {status: counts[status] for status in STATUSES}
