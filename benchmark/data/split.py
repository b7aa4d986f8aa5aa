"""Which partition a patient belongs to, for every task and every table.

By default a hash of the patient number decides, so that the partition depends neither on the release nor on the order
of rows. The other way, one shuffle over the patients of the admissions table, is that of the published pipeline; it
knows only patients with an admission.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
import polars as pl

from benchmark.data.raw import RawMimic, collect
from benchmark.data.rules import Rules

SPLITS = ("train", "val", "test")

SEED = 42

TEST_SHARE, VAL_SHARE = 0.2, 0.1


def split_of(subject_id: int) -> str:
    """Partition of one patient by hash: seven in ten train, one validates, two test.

    >>> [split_of(subject) for subject in (10000032, 10000048, 10000068, 10000084, 10000102)]
    ['train', 'test', 'train', 'train', 'train']
    """
    digest = hashlib.sha256(f"{SEED}:{subject_id}".encode()).digest()
    tenth = int.from_bytes(digest, "big") % 10
    return "train" if tenth < 7 else "val" if tenth == 7 else "test"


@dataclass(frozen=True)
class Split:
    """The partition of every patient.

    Attributes:
        assigned: partition by patient number; None: the hash decides, for any number.
    """

    assigned: Mapping[int, str] | None = None

    @classmethod
    def hashed(cls) -> Split:
        """Partitions by hash of the patient number."""
        return cls()

    @classmethod
    def file_order(cls, subjects: Iterable[int]) -> Split:
        """Partitions by one shuffle over the patients in the order in which they first appear.

        Args:
            subjects: the patient of each row of the admissions table, in the order of the file.

        >>> split = Split.file_order([7, 7, 3, 9, 1, 8, 2, 4, 6, 5, 3, 10])
        >>> {subject: split.of(subject) for subject in (7, 3, 9, 1, 11)}
        {7: 'train', 3: 'train', 9: 'val', 1: 'train', 11: None}
        """
        known = list(dict.fromkeys(int(subject) for subject in subjects))
        test, val = int(len(known) * TEST_SHARE), int(len(known) * VAL_SHARE)
        partitions = ["test"] * test + ["val"] * val + ["train"] * (len(known) - test - val)
        random.Random(SEED).shuffle(partitions)
        return cls(dict(zip(known, partitions, strict=True)))

    def of(self, subject_id: int) -> str | None:
        """Partition of one patient, None if it has none."""
        return split_of(subject_id) if self.assigned is None else self.assigned.get(int(subject_id))

    def all(self, subjects: Iterable[int]) -> np.ndarray:
        """Partition of each of many patients, as an array of text (None where there is none)."""
        known: dict[int, str | None] = {}
        found = [known[s] if s in known else known.setdefault(s, self.of(s)) for s in map(int, subjects)]
        return np.array(found, dtype=object)

    def table(self, subjects: Iterable[int]) -> pd.DataFrame:
        """The partition of patients as a table: subject_id, split, sorted; patients without partition are left out."""
        numbers = np.unique(np.fromiter(subjects, dtype=np.int64))
        table = pd.DataFrame({"subject_id": numbers, "split": pd.Series(self.all(numbers), dtype="object")})
        return table[table["split"].notna()].reset_index(drop=True)


def read_split(raw: RawMimic, rules: Rules = Rules()) -> Split:
    """The partitions under the given rules."""
    return Split.hashed() if rules.split == "hashed" else Split.file_order(_admission_subjects(raw))


def read_assignment(raw: RawMimic, split: Split) -> pd.DataFrame:
    """Partition of every patient of the raw files, those of MIMIC-CXR included: subject_id, split."""
    subjects = [_admission_subjects(raw)]
    if raw.has("cxr/metadata"):
        frame = raw.scan("cxr/metadata", ["subject_id"]).unique()
        subjects.append(collect(frame, "cxr/metadata").to_series())
    return split.table(pl.concat(subjects))


def _admission_subjects(raw: RawMimic) -> pl.Series:
    """The patient of each row of the admissions table, in the order of the file."""
    frame = raw.scan("hosp/admissions", ["subject_id"]).with_row_index("row").sort("row")
    return collect(frame, "hosp/admissions")["subject_id"]
