"""Re-weighted metrics equal the plain metrics of the repeated samples."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmark.evaluation.metrics import compute
from benchmark.evaluation.resampling import patient_weights, resampled
from benchmark.tasks import TASKS
from benchmark.tasks.dia import FINDINGS

NAMES = {"binary": TASKS["ihm"].metrics, "multilabel": TASKS["dia"].metrics, "multiclass": TASKS["los"].metrics}


def case(kind: str, samples: int, patients: int, levels: int, seed: int):
    """Random labels and coarse scores, so that there are ties, masked labels and absent classes."""
    rng = np.random.default_rng(seed)
    classes = {"binary": ("x",), "multilabel": FINDINGS, "multiclass": tuple("abcd")}[kind]
    width = len(classes)
    score = rng.integers(0, levels, (samples, width)) / levels
    known = rng.random((samples, width)) < 0.8
    y = (rng.random((samples, width)) < rng.random(width)).astype(float)
    if kind == "multiclass":
        known, y = known[:, 0], rng.integers(0, width, samples)
    return classes, y, known, score, rng.integers(0, patients, samples)


@given(
    kind=st.sampled_from(sorted(NAMES)),
    samples=st.integers(1, 40),
    patients=st.integers(1, 12),
    levels=st.sampled_from([1, 3, 1000]),
    seed=st.integers(0, 10_000),
)
@settings(max_examples=150, deadline=None)
def test_a_weight_is_a_number_of_copies(kind, samples, patients, levels, seed):
    classes, y, known, score, patient = case(kind, samples, patients, levels, seed)
    weights = patient_weights(patients, 3, seed)
    found = resampled(NAMES[kind], kind, classes, y, known, score, patient, weights)
    for column in range(weights.shape[1]):
        copies = np.repeat(np.arange(samples), weights[patient, column].astype(int))
        if not len(copies):
            continue
        expected = compute(NAMES[kind], kind, classes, y[copies], known[copies], score[copies])
        for name, value in expected.items():
            np.testing.assert_allclose(found[name][column], value, rtol=1e-6, atol=1e-9, err_msg=name)


def test_weights_are_draws_with_replacement_and_repeat():
    weights = patient_weights(50, 200, seed=3)
    assert (weights[:, 0] == 1).all()
    assert (weights.sum(0) == 50).all()
    assert weights[:, 1:].var() == pytest.approx(1 - 1 / 50, rel=0.05)
    np.testing.assert_array_equal(weights, patient_weights(50, 200, seed=3))
