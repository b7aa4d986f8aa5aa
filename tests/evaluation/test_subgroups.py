"""Scores by group of patients."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from benchmark.evaluation.metrics import auroc, compute
from benchmark.evaluation.resampling import patient_weights
from benchmark.evaluation.subgroups import Scored, age_band, by_group

N = 400
RNG = np.random.default_rng(0)
GROUPS = np.where(np.arange(N) % 4 < 2, "a", np.where(np.arange(N) < 380, "b", "rare"))
Y = (np.arange(N) % 2).astype(float)[:, None]
WEIGHTS = patient_weights(N // 2, 200)
PATIENT = np.arange(N) // 2


def said(seed: int, strength_b: float) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(size=(N, 1))
    return 1 / (1 + np.exp(-np.where(GROUPS == "a", 2.0, strength_b)[:, None] * Y - noise))


SCORED = Scored(
    "binary", ("x",), ("auroc", "auprc"), Y, np.ones_like(Y, bool), [said(seed, 0.0) for seed in (1, 2)], PATIENT
)


def test_a_group_that_fares_worse_is_found_and_a_rare_one_is_not_scored():
    found = {(one.group, one.metric): one for one in by_group(SCORED, GROUPS, WEIGHTS, 20, 10)}
    assert found["b", "auroc"].gap.high < 0 < found["a", "auroc"].gap.low
    assert found["a", "auroc"].samples == 200 and found["a", "auroc"].positives == 100
    rare = found["rare", "auroc"]
    assert (rare.score, rare.gap, rare.samples) == (None, None, 10)
    assert rare.reason == "10 samples, fewer than 20"


def test_figures_are_those_of_the_metrics_on_group_and_rest():
    for one in by_group(SCORED, GROUPS, WEIGHTS, 20, 10):
        if one.score is not None and one.metric == "auroc":
            inside = one.group == GROUPS
            own, rest = (
                np.mean([auroc(Y[rows, 0], p[rows, 0]) for p in SCORED.probability]) for rows in (inside, ~inside)
            )
            assert one.score.value == pytest.approx(own)
            assert one.gap.value == pytest.approx(own - rest)
            assert one.score.low < own < one.score.high


def test_too_few_events_and_too_small_a_rest_are_said():
    few = replace(SCORED, y=np.where(np.arange(N)[:, None] < 8, 1.0, 0.0))
    reasons = {one.reason for one in by_group(few, GROUPS, WEIGHTS, 20, 10)}
    assert {"4 positives, fewer than 10", "10 samples, fewer than 20"} == reasons
    two = np.where(np.arange(N) < 390, "most", "few")
    most = [one for one in by_group(SCORED, two, WEIGHTS, 20, 10) if one.group == "most"]
    assert most[0].score is not None and most[0].gap is None
    assert most[0].reason == "the others are too few: 10 samples, fewer than 20"
    assert not list(by_group(SCORED, np.full(N, "all"), WEIGHTS))


def test_masked_labels_count_neither_as_positives_nor_in_scores():
    known = RNG.random((N, 3)) < 0.7
    y = np.where(known, RNG.random((N, 3)) < 0.4, 0.0)
    probability = RNG.random((N, 3))
    many = Scored("multilabel", tuple("xyz"), ("macro_auroc",), y, known, [probability], PATIENT)
    (one,) = (each for each in by_group(many, GROUPS, WEIGHTS) if each.group == "a")
    rows = GROUPS == "a"
    expected = compute(("macro_auroc",), "multilabel", tuple("xyz"), y[rows], known[rows], probability[rows])
    assert one.score.value == pytest.approx(expected["macro_auroc"])
    assert one.positives == int(y[rows][known[rows]].sum())


def test_a_gap_of_labels_that_one_side_lacks_is_said_to_come_of_them():
    y = np.repeat(Y, 3, axis=1)
    y[GROUPS == "a", 2] = 0.0  # no positives in the group: the label counts 0.5 there and 1 elsewhere
    y[:, 1] = 1.0  # of one class everywhere
    many = Scored("multilabel", tuple("xyz"), ("macro_auroc", "micro_auroc"), y, np.ones_like(y, bool), [y], PATIENT)
    found = {one.metric: one for one in by_group(many, GROUPS, WEIGHTS, 20, 10) if one.group == "a"}
    assert found["macro_auroc"].gap.value == pytest.approx((1 + 0.5 + 0.5) / 3 - (1 + 0.5 + 1) / 3)
    assert found["macro_auroc"].reason == "label of one class here or among the others: z"
    assert found["micro_auroc"].reason == ""


@pytest.mark.parametrize(
    ("age", "band"), [(18, "18-44"), (44.9, "18-44"), (45, "45-64"), (79.5, "65-79"), (91, "80+"), (None, "unknown")]
)
def test_age_bands(age, band):
    assert age_band(np.nan if age is None else age) == band
