"""Representations: which samples they are of, and numbers for vectors whose separation is known."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from benchmark.analysis.representations import Representation, counts, project, represent, separation
from benchmark.training import Restored
from models.contract import Output

TASKS = np.repeat(["ihm", "los", "dia"], 60)
PATIENTS = np.tile(np.arange(30), 6)


def made_up(seed: int = 0) -> Representation:
    """The task token tells the task, the vector part tells nothing."""
    rng = np.random.default_rng(seed)
    token = 10 * (TASKS[:, None] == np.array(["ihm", "los", "dia"])) + rng.normal(size=(180, 3))
    vector = rng.normal(size=(180, 4))
    return Representation(np.hstack([token, vector]), vector, TASKS, PATIENTS)


def test_separable_tasks_are_told_apart_and_noise_is_not() -> None:
    found = separation(made_up())
    assert found["probe"] == 1.0
    assert found["silhouette"] > 0.6
    assert found["chance"] == pytest.approx(1 / 3)
    assert abs(found["silhouette_vector"]) < 0.05
    assert found["probe_vector"] < 0.5


def test_a_probe_cannot_learn_patients_by_heart() -> None:
    """Each patient has one place of its own and samples of one task: known by the patient, unknown for a new one."""
    rng = np.random.default_rng(1)
    patient = np.repeat(np.arange(60), 5)
    place = 50 * rng.normal(size=(60, 40))
    task = np.array(["ihm", "los"])[rng.permutation(60) % 2][patient]
    values = place[patient] + rng.normal(size=(300, 40)) * 0.01
    found = separation(Representation(values, values, task, patient))
    assert found["probe"] < 0.75


def test_projections_keep_tasks_apart_and_repeat() -> None:
    first, again = project(made_up()), project(made_up())
    assert list(first.columns) == ["task", "tsne_1", "tsne_2", "pca_1", "pca_2"]
    np.testing.assert_array_equal(first.iloc[:, 1:], again.iloc[:, 1:])
    for name in ("tsne", "pca"):
        centre = first.groupby("task")[[f"{name}_1", f"{name}_2"]].mean()
        spread = first.groupby("task")[[f"{name}_1", f"{name}_2"]].std().max(axis=None)
        assert min(np.linalg.norm(centre.loc["ihm"] - centre.loc[other]) for other in ("los", "dia")) > 2 * spread


class Source:
    def __init__(self, size: int) -> None:
        self.samples = SimpleNamespace(patient=1000 + np.arange(size))

    def __len__(self) -> int:
        return len(self.samples.patient)

    def batch(self, chosen: np.ndarray) -> SimpleNamespace:
        return SimpleNamespace(inputs=torch.from_numpy(self.samples.patient[chosen]))


class Echo(nn.Module):
    """The representation is the patient's number, behind a task token of zeros."""

    def forward(self, patient: torch.Tensor) -> Output:
        vector = patient[:, None].float().expand(-1, 2)
        return Output(vector, diagnostics={"patient": torch.cat([torch.zeros_like(vector), vector], 1)})


def test_the_same_samples_of_each_task_whatever_the_model() -> None:
    restored = Restored(Echo(), {"ihm": Source(200), "dia": Source(40)}, False, 16)
    found, again = represent(restored, 2, samples=100), represent(restored, 2, samples=100)
    assert counts(found) == {"ihm": 100, "dia": 40}
    np.testing.assert_array_equal(found.patient, again.patient)
    assert len(set(found.patient[:100])) == 100
    assert found.whole.shape == (140, 4)
    np.testing.assert_array_equal(found.vector, np.stack([found.patient, found.patient], 1))
