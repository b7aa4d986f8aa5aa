"""Metrics against scikit-learn where it defines them, and against hand-made numbers where it does not."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import auc, average_precision_score, f1_score, precision_recall_curve, roc_auc_score

from benchmark.evaluation import metrics

scored_labels = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 6)), min_size=2, max_size=60).filter(
    lambda pairs: len({label for label, _ in pairs}) == 2
)


@given(scored_labels)
def test_areas_agree_with_scikit_learn_also_with_ties(pairs: list[tuple[int, int]]) -> None:
    y, score = np.array(pairs).T
    assert metrics.auroc(y, score) == pytest.approx(roc_auc_score(y, score), abs=1e-12)
    precision, recall, _ = precision_recall_curve(y, score)
    assert metrics.auprc(y, score) == pytest.approx(auc(recall, precision), abs=1e-12)
    assert metrics.average_precision(y, score) == pytest.approx(average_precision_score(y, score), abs=1e-12)


def test_trapezoid_and_average_precision_differ() -> None:
    y, score = np.array([0, 1, 0, 1]), np.array([4.0, 3.0, 2.0, 1.0])
    assert metrics.average_precision(y, score) == pytest.approx(0.5)  # (1/2 + 2/4) / 2
    # Points (recall, precision) after the start (0, 1): (0, 0), (.5, .5), (.5, 1/3), (1, .5).
    assert metrics.auprc(y, score) == pytest.approx(0.5 * (0 + 0.5) / 2 + 0.5 * (1 / 3 + 0.5) / 2)


def test_random_scores_have_auprc_of_the_prevalence() -> None:
    rng = np.random.default_rng(0)
    y = (rng.random(200_000) < 0.2).astype(int)
    score = rng.random(len(y))
    assert metrics.auroc(y, score) == pytest.approx(0.5, abs=0.01)
    assert metrics.auprc(y, score) == pytest.approx(0.2, abs=0.01)


def test_one_class_is_undefined_alone_and_one_half_within_a_macro_mean() -> None:
    y, score = np.array([[1, 1], [1, 0]]), np.array([[0.9, 0.8], [0.1, 0.2]])
    known = np.ones_like(y, bool)
    assert math.isnan(metrics.auroc(y[:, 0], score[:, 0]))
    assert metrics.macro_auroc(y, score, known) == pytest.approx((0.5 + 1.0) / 2)
    assert metrics.macro_auroc(y, score, np.zeros_like(known)) == 0.5
    assert metrics.micro_auroc(y, score, np.zeros_like(known)) == 0.5


def test_masked_entries_take_no_part() -> None:
    rng = np.random.default_rng(1)
    y, score, known = rng.integers(0, 2, (40, 3)), rng.random((40, 3)), rng.random((40, 3)) < 0.6
    changed = np.where(known, y, 1 - y)
    for metric in metrics.MULTILABEL.values():
        assert metric(y, score, known) == metric(changed, score, known)
    assert metrics.micro_auroc(y, score, known) == pytest.approx(roc_auc_score(y[known], score[known]))


def test_f1_over_classes_that_occur_in_truth_or_prediction() -> None:
    y = np.array([0, 0, 1, 2])
    probability = np.eye(5)[[0, 3, 1, 1]]  # class 3 is predicted and never true, class 4 does not occur
    expected = f1_score(y, [0, 3, 1, 1], average="macro")
    assert metrics.macro_f1(y, probability) == pytest.approx(expected)
    assert metrics.macro_f1_all_classes(y, probability) == pytest.approx(expected * 4 / 5)
    assert metrics.micro_f1(y, probability) == 0.5


def test_majority_prediction_has_the_known_f1() -> None:
    y = np.repeat([0, 1, 2], [70, 20, 10])
    probability = np.tile([1.0, 0.0, 0.0], (100, 1))
    assert metrics.micro_f1(y, probability) == 0.7
    assert metrics.macro_f1(y, probability) == pytest.approx(2 * 0.7 / 1.7 / 3)


def test_a_class_that_training_never_saw_counts_as_an_error() -> None:
    y, known, probability = np.array([0, 0]), np.array([True, False]), np.eye(2)[[0, 0]]
    result = metrics.compute(["micro_f1"], "multiclass", ("a", "b"), y, known, probability)
    assert result == {"micro_f1": 0.5}


def test_no_finding_is_left_out_of_the_thirteen_label_macro() -> None:
    y = np.array([[1, 1], [0, 1]])
    score = np.array([[0.9, 0.5], [0.1, 0.5]])
    known = np.ones_like(y, bool)
    result = metrics.compute(["macro_auroc", "macro_auroc_13"], "multilabel", ("Edema", "No Finding"), y, known, score)
    assert result == {"macro_auroc": 0.75, "macro_auroc_13": 1.0}


def test_a_metric_of_another_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="micro_f1"):
        metrics.compute(["micro_f1"], "binary", ("death",), np.ones((2, 1)), np.ones((2, 1), bool), np.ones((2, 1)))


@pytest.mark.parametrize(("kind", "name"), [("multilabel", "macro_auroc"), ("multiclass", "micro_f1")])
def test_predictions_that_are_no_numbers_have_no_score(kind: str, name: str) -> None:
    y = np.array([0, 1]) if kind == "multiclass" else np.eye(2)
    probability = np.array([[math.nan, 0.2], [0.1, 0.9]])
    with pytest.raises(ValueError, match=r"1 of 4 probabilities .* not finite"):
        metrics.compute((name,), kind, ("a", "b"), y, np.ones(y.shape, bool), probability)
