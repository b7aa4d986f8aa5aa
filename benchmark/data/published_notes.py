"""Sections of discharge summaries as the pipeline that was published with FlexCare finds them.

Everything between two fixed phrases, wherever they stand in the lower-cased text. Its second way to a hospital course,
up to the discharge medications, looks for a phrase with capitals in lower-cased text, so it finds nothing and is not
here: a course without the phrase "medications on admission" behind it is missing.
"""

from __future__ import annotations

import re
import string

from benchmark.data.notes import Section

_PHRASES = {
    "pmh": ("past medical history:", re.compile(r"past medical history:(.*?)social history", re.DOTALL)),
    "bhc": ("brief hospital course:", re.compile(r"brief hospital course:(.*?)medications on admission", re.DOTALL)),
}

_DELETED = str.maketrans("", "", "\r\n" + string.punctuation)

_BLANK_WHEN_READ = ("nan", "null")
"""Sections were kept in a CSV file, and a cell of this word alone is read from one as a blank."""


def find_published_section(text: str, name: str) -> Section:
    """The section "pmh" or "bhc" of a discharge summary.

    Line ends are deleted, not replaced, so the words around them grow together. A text without letters and digits is no
    text; "truncated" is never said, since a section without its last phrase counts as missing.

    >>> find_published_section("Past Medical History:\\n1. HTN\\n2. DM2 (7.2%)\\n\\nSocial History:", "pmh")
    Section(text='1 htn2 dm2 72', status='found')
    """
    start, phrases = _PHRASES[name]
    lowered = text.lower()
    found = phrases.search(lowered) if start in lowered else None
    if found is None:
        return Section(None, "missing")
    body = found[1].strip().translate(_DELETED)
    readable = body.strip() and body not in _BLANK_WHEN_READ
    return Section(body, "found", start[:-1]) if readable else Section(None, "empty", start[:-1])
