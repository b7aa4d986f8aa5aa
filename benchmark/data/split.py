"""Which partition a patient belongs to.

A hash of the patient number decides, so that it is the same for every task, every table and every release.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np

SPLITS = ("train", "val", "test")

SEED = 42


def split_of(subject_id: int) -> str:
    """Partition of one patient: seven in ten train, one validates, two test.

    >>> [split_of(subject) for subject in (10000032, 10000048, 10000068, 10000084, 10000102)]
    ['train', 'test', 'train', 'train', 'train']
    """
    digest = hashlib.sha256(f"{SEED}:{subject_id}".encode()).digest()
    tenth = int.from_bytes(digest, "big") % 10
    return "train" if tenth < 7 else "val" if tenth == 7 else "test"


def split_all(subjects: Iterable[int]) -> np.ndarray:
    """Partition of each of many patients, as an array of text."""
    known: dict[int, str] = {}
    return np.array([known.setdefault(subject, split_of(subject)) for subject in map(int, subjects)], dtype=object)
