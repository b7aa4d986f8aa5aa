"""Patient split: shares, and values that must never change."""

from __future__ import annotations

from collections import Counter

from benchmark.data.split import SPLITS, split_all, split_of


def test_assignment_never_changes():
    subjects = range(10_000_000, 10_000_020)
    letters = "".join(split_of(subject)[1] for subject in subjects)  # r: train, a: val, e: test
    assert letters == "eerrrrrrrearerrrerrr"


def test_shares_are_seven_one_two():
    counts = Counter(split_all(range(10_000_000, 10_020_000)))
    assert set(counts) == set(SPLITS)
    for split, share in zip(SPLITS, (0.7, 0.1, 0.2), strict=True):
        assert abs(counts[split] / 20_000 - share) < 0.01
