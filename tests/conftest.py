"""Fixtures shared by all tests. The builders themselves are in `random_batches.py`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
# `tests/models` must not hide the package `models`: a regular package on the path wins over a plain folder.
for folder in (TESTS, TESTS.parent):
    if str(folder) not in sys.path:
        sys.path.append(str(folder))


@pytest.fixture(scope="session")
def make_batch() -> Callable[..., tuple]:
    """Factory of random batches: `make_batch(patterns, lengths=..., seed=..., ...)` returns `(Batch, labels)`."""
    import random_batches

    return random_batches.make_batch


@pytest.fixture(scope="session")
def small() -> object:
    """Dimensions small enough for float64 tests of every model; dropout is 0."""
    import random_batches

    return random_batches.SMALL


@pytest.fixture(scope="session")
def randomise() -> Callable:
    """`randomise(module, seed)` gives constant parameters (zero tables, unit norms) noise; returns the module."""
    import random_batches

    return random_batches.randomise
