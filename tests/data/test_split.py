"""Patient split: shares, and values that must never change."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from raw_files import Hospital

from benchmark.data.raw import RawMimic
from benchmark.data.rules import Rules
from benchmark.data.split import SPLITS, Split, read_assignment, read_split, split_of


def test_assignment_never_changes():
    subjects = range(10_000_000, 10_000_020)
    letters = "".join(split_of(subject)[1] for subject in subjects)  # r: train, a: val, e: test
    assert letters == "eerrrrrrrearerrrerrr"
    assert [Split.hashed().of(subject) for subject in subjects] == Split.hashed().all(subjects).tolist()


def test_shares_are_seven_one_two():
    counts = Counter(Split.hashed().all(range(10_000_000, 10_020_000)))
    assert set(counts) == set(SPLITS)
    for split, share in zip(SPLITS, (0.7, 0.1, 0.2), strict=True):
        assert abs(counts[split] / 20_000 - share) < 0.01


@settings(deadline=None)
@given(st.lists(st.integers(1, 40), max_size=60))
def test_one_shuffle_over_patients_in_the_order_of_the_file(subjects):
    seen = [subject for place, subject in enumerate(subjects) if subject not in subjects[:place]]
    random.seed(42)
    flags = [2] * int(0.2 * len(seen)) + [1] * int(0.1 * len(seen))
    flags += [0] * (len(seen) - len(flags))
    random.shuffle(flags)
    split = Split.file_order(subjects)
    assert [split.of(subject) for subject in seen] == [("train", "val", "test")[flag] for flag in flags]
    assert split.of(41) is None and split.all([41, 41]).tolist() == [None, None]


@pytest.mark.parametrize("setting", ["hashed", "file_order"])
def test_partitions_of_raw_files(tmp_path, setting):
    hospital = Hospital()
    for subject in (30, 10, 20, 10):
        hospital.admission(subject, len(hospital.rows["hosp/admissions"]))
    hospital.film(90, 1, "a", at=1.0)
    raw = RawMimic(**{**hospital.write(tmp_path), "mimic_note": None})
    split = read_split(raw, Rules(split=setting))
    expected = Split.hashed() if setting == "hashed" else Split.file_order([30, 10, 20])
    table = read_assignment(raw, split)
    subjects = [10, 20, 30, 90] if setting == "hashed" else [10, 20, 30]
    assert table.values.tolist() == [[subject, expected.of(subject)] for subject in subjects]
