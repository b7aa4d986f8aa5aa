"""Calibration against hand-made numbers, scikit-learn, and repeated samples."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss

from benchmark.evaluation.calibration import (
    EQUAL_MASS,
    EQUAL_WIDTH,
    METHODS,
    TOP_CLASS,
    Forecasts,
    calibration,
    forecasts,
    mean_over_labels,
)
from benchmark.evaluation.resampling import patient_weights

STRATEGY = {EQUAL_WIDTH: "uniform", EQUAL_MASS: "quantile"}


def made(n: int, seed: int, sharpness: float = 1.0) -> Forecasts:
    """Two samples a patient; forecasts that are right if `sharpness` is 1."""
    rng = np.random.default_rng(seed)
    logit = rng.normal(-1, 1.5, n)
    came = (rng.random(n) < 1 / (1 + np.exp(-logit))).astype(float)
    return Forecasts("", came, 1 / (1 + np.exp(-sharpness * logit)), np.arange(n) // 2)


def test_numbers_worked_out_by_hand():
    one = Forecasts("", np.array([0.0, 1, 1, 0]), np.array([0.2, 0.4, 0.9, 0.6]), np.arange(4))
    found = calibration([one], patient_weights(4, 10), bins=2)
    assert found.brier[0, 0] == pytest.approx((0.04 + 0.36 + 0.01 + 0.36) / 4)
    assert found.ece[EQUAL_WIDTH][0, 0] == pytest.approx((abs(0.6 - 1) + abs(1.5 - 1)) / 4)
    assert found.constant == 0.25 and (found.forecasts, found.events) == (4, 2)
    points = [(b.low, b.high, b.forecasts, b.said, b.observed.value) for b in found.curve[EQUAL_WIDTH]]
    np.testing.assert_allclose(points, [(0, 0.5, 2, 0.3, 0.5), (0.5, 1, 2, 0.75, 0.5)])
    np.testing.assert_allclose([b.low for b in found.curve[EQUAL_MASS]], [0.2, 0.5])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("seed", range(4))
def test_scikit_learn_agrees(method, seed):
    one = made(300, seed)
    said = np.round(one.said, 1) if seed % 2 else one.said  # ties and values on the edges
    one = Forecasts("", one.came, said, one.patient)
    found = calibration([one], patient_weights(150, 5))
    assert found.brier[0, 0] == pytest.approx(brier_score_loss(one.came, said))
    observed, mean = calibration_curve(one.came, said, n_bins=10, strategy=STRATEGY[method])
    np.testing.assert_allclose([b.observed.value for b in found.curve[method]], observed)
    np.testing.assert_allclose([b.said for b in found.curve[method]], mean)
    counts = np.array([b.forecasts for b in found.curve[method]])
    assert found.ece[method][0, 0] == pytest.approx((np.abs(observed - mean) * counts).sum() / 300)


def test_a_resample_is_the_data_with_patients_repeated():
    one, weights = made(80, 1), patient_weights(40, 6)
    found = calibration([one], weights)
    for column in range(7):
        rows = np.repeat(np.arange(80), weights[one.patient, column].astype(int))
        repeated = Forecasts("", one.came[rows], one.said[rows], np.zeros(len(rows), int))
        expected = calibration([repeated], np.ones((1, 2), np.float32))
        assert found.brier[0, column] == pytest.approx(expected.brier[0, 0])
        assert found.ece[EQUAL_WIDTH][0, column] == pytest.approx(expected.ece[EQUAL_WIDTH][0, 0])


def test_good_and_bad_calibration_are_told_apart_and_chance_is_foreseen():
    weights = patient_weights(1000, 200)
    good = calibration([made(2000, seed) for seed in range(3)], weights)
    bad = calibration([made(2000, seed, 3.0) for seed in range(3)], weights)
    for method in METHODS:
        right, wrong = good.ece_estimate(method), bad.ece_estimate(method)
        assert right.low <= right.value <= right.high < wrong.low <= wrong.value <= wrong.high
        many = np.mean([calibration([made(2000, seed)], weights[:, :2]).ece[method][0, 0] for seed in range(40)])
        assert good.by_chance[method] == pytest.approx(many, rel=0.1)
    assert good.brier_estimate.value < bad.brier_estimate.value


def test_masked_entries_do_not_count_and_an_unknown_class_is_an_error():
    y, probability = np.array([[1.0, 0], [0, 1], [1, 0]]), np.array([[0.9, 0.2], [0.1, 0.8], [0.3, 0.4]])
    known = np.array([[True, False], [True, False], [False, False]])
    (only,) = forecasts("multilabel", ("a", "b"), y, known, probability, np.arange(3))
    assert only.name == "a" and only.said.tolist() == [0.9, 0.1]
    truth = np.array([0, -1, 1])
    (top,) = forecasts("multiclass", ("a", "b"), truth, np.ones(3, bool), probability, np.arange(3))
    assert top.name == TOP_CLASS and top.came.tolist() == [1, 0, 1]
    np.testing.assert_allclose(top.said, [0.9, 0.8, 0.4])
    parts = [calibration([made(40, seed)], patient_weights(20, 5)) for seed in range(2)]
    mean = mean_over_labels(parts)
    assert mean.brier_estimate.value == pytest.approx(np.mean([part.brier[0, 0] for part in parts]))
