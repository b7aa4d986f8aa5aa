"""The generator's constants: small CSV tables beside this file, read once.

A table's ``terms`` column is a linear form over a patient's latent features, written ``name:weight name:weight``, so
that what drives what can be read (and changed) in one place.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from importlib import resources

import numpy as np

FACTORS = ("cardiac", "respiratory", "renal", "hepatic", "septic", "neurological", "metabolic", "bleeding")
"""Continuous organ factors of an admission, each with mean 0 and variance 1 before selection; higher is sicker."""

PERSON = ("age", "male")
COURSE = ("early", "settled")
"""Severity at ICU admission and the level it settles to."""


@cache
def rows(table: str) -> tuple[dict[str, str], ...]:
    """Return the rows of a packaged CSV."""
    text = resources.files(__package__).joinpath(f"{table}.csv").read_text(encoding="utf-8")
    return tuple(csv.DictReader(text.splitlines()))


@cache
def history_items() -> tuple[str, ...]:
    """Return the names of the chronic history items."""
    return tuple(row["item"] for row in rows("history"))


@cache
def features() -> tuple[str, ...]:
    """Return the names of all latent features, in the order of a feature vector."""
    return FACTORS + PERSON + COURSE + history_items()


@dataclass(frozen=True)
class Linear:
    """Named linear forms over the latent features.

    Attributes:
        names: one per form. weights: (forms, features). intercept: (forms,).
    """

    names: tuple[str, ...]
    weights: np.ndarray
    intercept: np.ndarray

    def __call__(self, latent: np.ndarray) -> np.ndarray:
        """Return the value of every form; ``latent`` is a feature vector."""
        return self.intercept + self.weights @ latent

    def index(self, name: str) -> int:
        """Return the position of a form."""
        return self.names.index(name)


@cache
def linear(table: str) -> Linear:
    """Read a table's linear forms; the first column names them, ``intercept`` may be absent."""
    table_rows = rows(table)
    order = {name: position for position, name in enumerate(features())}
    weights = np.zeros((len(table_rows), len(order)))
    for line, row in enumerate(table_rows):
        for term in row["terms"].split():
            name, weight = term.split(":")
            weights[line, order[name]] = float(weight)
    first = next(iter(table_rows[0]))
    intercept = np.array([float(row.get("intercept", 0) or 0) for row in table_rows])
    return Linear(tuple(row[first] for row in table_rows), weights, intercept)


@cache
def column(table: str, name: str) -> np.ndarray:
    """Return a numeric column of a table."""
    return np.array([float(row[name]) for row in rows(table)])
