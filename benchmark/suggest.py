"""Answers to a misspelt name: what was typed, what comes near it, what is allowed."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(name: str, allowed: Iterable[str], count: int = 3) -> list[str]:
    """The allowed names most like `name`, best first; empty if none is like it.

    >>> nearest("flexcar", ["medfuse", "flexcare", "flexcare-st"])
    ['flexcare', 'flexcare-st']
    >>> nearest("LOS", ["ihm", "los"])
    ['los']
    """
    by_folded = {option.casefold(): option for option in allowed}
    close = difflib.get_close_matches(str(name).casefold(), by_folded, n=count, cutoff=0.55)
    return [by_folded[folded] for folded in close]


def unknown(kind: str, name: object, allowed: Iterable[str]) -> str:
    """One sentence that refuses `name` and helps to find the right one.

    >>> unknown("task", "ihn", ["ihm", "los"])
    "unknown task 'ihn'; did you mean 'ihm'? Allowed: ihm, los"
    >>> unknown("task", "xyz", ["ihm", "los"])
    "unknown task 'xyz'. Allowed: ihm, los"
    """
    names = list(allowed)
    close = nearest(str(name), names)
    hint = f"; did you mean {' or '.join(repr(match) for match in close)}?" if close else "."
    return f"unknown {kind} {name!r}{hint} Allowed: {', '.join(names)}"
