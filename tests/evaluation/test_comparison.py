"""Intervals that cover, tests that keep their level, and figures that other sources give."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import false_discovery_control, norm, ttest_1samp

from benchmark.evaluation.comparison import difference, holm, over_seeds, ranking, score, seed_counts
from benchmark.evaluation.resampling import patient_weights, resampled


def scores_of(rng: np.random.Generator, strength: float, y: np.ndarray, weights: np.ndarray, seeds: int = 3):
    """AUROC (S, R + 1) of a made-up model; its seeds differ by noise."""
    rows = []
    for _ in range(seeds):
        probability = norm.cdf(strength * y + rng.normal(size=len(y)))[:, None]
        known, patient = np.ones((len(y), 1), bool), np.arange(len(y))
        rows.append(resampled(["auroc"], "binary", ("x",), y[:, None], known, probability, patient, weights)["auroc"])
    return np.stack(rows)


def test_intervals_cover_and_the_test_keeps_its_level():
    rng = np.random.default_rng(5)
    truth = norm.cdf(1.0 / np.sqrt(2))  # AUROC of two normal distributions one deviation apart
    weights = patient_weights(150, 200)
    covered = rejected = 0
    for _ in range(60):
        y = (np.arange(150) % 3 == 0).astype(float)
        first, second = scores_of(rng, 1.0, y, weights), scores_of(rng, 1.0, y, weights)
        found = score(first)
        covered += found.low <= truth <= found.high
        rejected += difference(first, second).p < 0.05
    assert covered >= 52, "of 60 intervals of 95 %"
    assert rejected <= 8, "of 60 comparisons of equal models"


def test_a_real_difference_is_found_and_has_the_right_sign():
    rng = np.random.default_rng(6)
    y, weights = (np.arange(300) % 2).astype(float), patient_weights(300, 300)
    strong, weak = scores_of(rng, 2.0, y, weights), scores_of(rng, 0.3, y, weights)
    found = difference(strong, weak)
    assert 0 < found.low < found.value < found.high
    assert found.p < 1e-4
    back = difference(weak, strong)
    assert (back.value, back.low, back.high) == pytest.approx((-found.value, -found.high, -found.low))
    assert back.p == pytest.approx(found.p)


def test_pairing_narrows_the_interval():
    rng = np.random.default_rng(7)
    y, weights = (np.arange(300) % 2).astype(float), patient_weights(300, 300)
    base = scores_of(rng, 1.0, y, weights, seeds=1)
    found = difference(base + 0.01, base)
    assert (found.low, found.high) == pytest.approx((0.01, 0.01))


def test_seeds_are_resampled_and_the_first_column_is_the_plain_mean():
    counts = seed_counts(5, 100)
    assert counts.shape == (5, 101)
    np.testing.assert_allclose(counts.sum(0), 1)
    values = np.array([0.0, 1.0, 2.0, 3.0, 9.0])[:, None] * np.ones((1, 4001))
    found = over_seeds(values)
    assert found[0] == pytest.approx(3.0)
    standard_error = values[:, 0].std(ddof=1) / np.sqrt(5)
    assert found[1:].std() == pytest.approx(standard_error, rel=0.03), "not too small by (S - 1) / S"


def test_with_seed_noise_alone_the_test_is_the_t_test():
    by_seed = np.array([0.010, 0.030, -0.005, 0.020, 0.015])
    scores = 0.7 + by_seed[:, None] * np.ones((1, 4001))
    found = difference(scores, np.full_like(scores, 0.7))
    assert found.p == pytest.approx(ttest_1samp(by_seed, 0).pvalue, rel=0.1)


@pytest.mark.parametrize("seeds", [1, 2, 5])
def test_an_interval_holds_zero_where_p_says_so_and_stays_within_what_differences_can_be(seeds):
    rng, said = np.random.default_rng(seeds), set()
    y = (np.arange(12) % 6 == 0).astype(float)
    weights = patient_weights(12, 200)
    for strength in (0.0, 0.5, 1.0, 2.0, 3.0):
        first, second = (scores_of(rng, each, y, weights, seeds=seeds) for each in (strength, 0.0))
        found = difference(first, second)
        assert -1 <= found.low <= found.value <= found.high <= 1
        assert (found.low <= 0 <= found.high) == (found.p >= 0.05)
        said.add(found.p >= 0.05)
    assert True in said


def test_holm_is_stricter_than_false_discovery_control_and_ordered():
    p = [0.001, 0.02, 0.02, 0.4, float("nan")]
    adjusted = holm(p)
    assert adjusted[:4] == pytest.approx([0.004, 0.06, 0.06, 0.4]) and np.isnan(adjusted[4])
    assert (np.array(adjusted[:4]) >= false_discovery_control(p[:4]) - 1e-12).all()


def test_critical_difference_of_the_literature():
    """Demsar (2006), table 5: q 2.343 for three and 2.850 for six models at 0.05."""
    rng = np.random.default_rng(1)
    for models, q in ((3, 2.343), (6, 2.850)):
        found = ranking({f"m{k}": rng.random(6) for k in range(models)})
        assert found.critical == pytest.approx(q * np.sqrt(models * (models + 1) / 36), abs=2e-3)
        assert sum(found.ranks.values()) == pytest.approx(models * (models + 1) / 2)
    best = ranking({"a": [3, 3, 3, 3, 3, 3], "b": [2, 2, 2, 2, 2, 2], "c": [1, 1, 1, 1, 1, 1]})
    assert best.ranks == {"a": 1.0, "b": 2.0, "c": 3.0} and best.p < 0.01


def test_resamples_that_do_not_differ_give_no_p_value() -> None:
    one_patient, other = np.full((1, 50), 0.9), np.full((1, 50), 0.4)
    assert np.isnan(difference(one_patient, other).p), "no chance was seen at all, which proves nothing"
    assert difference(one_patient, one_patient).p == 1.0
    assert np.isnan(difference(np.full((5, 50), 0.9), np.full((5, 50), 0.4)).p), "up to rounding"
