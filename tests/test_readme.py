"""The README's worked example, installed as another package would install it, trains like any other model."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path

import pytest
import torch
from prepared_data import ENCODER, NOTE_WIDTH, write_prepared

from benchmark import registry
from benchmark.data.dataset import PreparedData
from benchmark.training import TrainingPlan, train
from models.contract import Dimensions

README = Path(__file__).parents[1] / "README.md"


@pytest.fixture
def installed_example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A package with the README's file and entry point on the path."""
    blocks = dict(re.findall(r"```(\w+)\n(.*?)```", README.read_text(), re.DOTALL))
    (tmp_path / "mean_pool.py").write_text(blocks["python"])
    group, line = blocks["toml"].strip().splitlines()
    info = tmp_path / "mean_pool-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mean-pool\nVersion: 1.0\n")
    name, value = line.replace('"', "").split(" = ")
    (info / "entry_points.txt").write_text(f"[{group.split(chr(34))[1]}]\n{name} = {value}\n")
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    registry.load.cache_clear()
    yield
    registry.load.cache_clear()
    sys.modules.pop("mean_pool", None)


def test_a_model_of_another_package_is_found_and_trained(installed_example: None, tmp_path: Path) -> None:
    data = PreparedData.open(write_prepared(tmp_path / "data", ("ihm",)))
    plan = TrainingPlan(
        model="mean-pool",
        config=registry.models()["mean-pool"].config(hidden=8),
        dimensions=Dimensions(width=8, note_features=NOTE_WIDTH, film=32, patch=16),
        tasks=("ihm",),
        seed=40,
        batch_size=16,
        epochs=10,
        learning_rate=1e-2,
        task_weights={},
        halve_learning_rate=False,
        augmentation="none",
        encoder=ENCODER,
    )
    assert train(plan, data, torch.device("cpu")).metrics["ihm"]["auroc"] > 0.8
