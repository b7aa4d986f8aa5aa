"""What one rule of the audit found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd

EXAMPLES = 5
"""Violations that a finding names."""


@dataclass(frozen=True)
class Finding:
    """What one rule found.

    Attributes:
        rule: short name. about: what must hold, or what is stated. task: None where the rule is about all.
        kind: "check"; "retrospective": an input that is known only later, by design; "stated": nothing to check, and
            why.
        checked: how many samples, patients, rows ... were looked at. found: how many of them break the rule, or have
            the retrospective input. examples: some of them: sample numbers, rows, names; no numbers of MIMIC.
    """

    rule: str
    about: str
    checked: int
    found: int
    task: str | None = None
    kind: Literal["check", "retrospective", "stated"] = "check"
    examples: tuple[str, ...] = ()

    @property
    def violated(self) -> bool:
        return self.kind == "check" and self.found > 0

    def __str__(self) -> str:
        where = f"{self.task}: " if self.task else ""
        named = f" (e.g. {', '.join(self.examples)})" if self.examples and self.violated else ""
        return f"{where}{self.rule}: {self.found:,} of {self.checked:,}{named}; {self.about}"


def finding(
    rule: str, about: str, broken: np.ndarray | pd.Series, names: Sequence[Any] | None = None, **facts: Any
) -> Finding:
    """A finding from one truth value a thing that was looked at; `names` says what the things are called."""
    broken = np.asarray(broken, dtype=bool)
    places = np.flatnonzero(broken)[:EXAMPLES]
    examples = tuple(str(place if names is None else names[place]) for place in places.tolist())
    return Finding(rule, about, len(broken), int(broken.sum()), examples=examples, **facts)
