"""Labels that `prepare` derives from simulated raw files against the probabilities that the simulator states."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmark.data.dataset import PreparedData
from benchmark.data.prepare import prepare
from benchmark.simulation import simulate
from benchmark.tasks import TASKS

PATIENTS = 300
FEWEST = 5.0
"""Labels of fewer expected cases are counted with the others of their task only."""


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> PreparedData:
    folder: Path = tmp_path_factory.mktemp("calibration")
    raw = folder / "raw"
    simulate(raw, PATIENTS, 11, workers=1)
    prepare(raw / "mimic-iv", folder / "data", raw / "mimic-cxr", raw / "mimic-note")
    return PreparedData.open(folder / "data")


def outcomes(data: PreparedData, task: str) -> tuple[np.ndarray, np.ndarray]:
    """Labels as (samples, classes) of 0 and 1, NaN where masked, and their stated probabilities."""
    parts = data.task(task).partitions.values()
    labels = np.concatenate([part.labels for part in parts])
    samples = np.concatenate([part.sample for part in parts])
    chances = data.truth(task).set_index("sample").loc[samples].to_numpy(np.float64).clip(0, 1)
    if TASKS[task].kind == "multiclass":
        labels = (labels == np.arange(chances.shape[1])).astype(float)
    return labels, chances


@pytest.mark.slow
@pytest.mark.parametrize("task", list(TASKS))
def test_prepared_labels_happen_as_often_as_stated(data, task):
    labels, chances = outcomes(data, task)
    assert labels.shape == chances.shape and len(labels) > 50
    known = np.isfinite(labels)
    excess = np.where(known, labels - chances, 0.0)
    variance = np.where(known, chances * (1 - chances), 0.0)
    certain = variance.sum(axis=0) < 1e-3
    assert np.abs(excess[:, certain]).max(initial=0) < 1e-3
    cases = np.minimum((chances * known).sum(axis=0), ((1 - chances) * known).sum(axis=0))
    often = (cases >= FEWEST) & ~certain
    assert often.any()
    scores = excess[:, often].sum(axis=0) / np.sqrt(variance[:, often].sum(axis=0))
    assert np.abs(scores).max() < 4, scores
    if TASKS[task].kind != "multiclass":  # there the sum over all classes is 0 by itself
        assert abs(excess.sum()) < 4 * np.sqrt(excess.sum(axis=1) @ excess.sum(axis=1))
