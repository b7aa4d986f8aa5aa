"""What a run records of its cost."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from prepared_data import ENCODER, NOTE_WIDTH, write_prepared

from benchmark import registry
from benchmark.data.dataset import PreparedData
from benchmark.training import TrainingPlan, train
from benchmark.training.expense import forget_peak_memory, peak_memory
from models.contract import Dimensions, Head
from models.cost import Inputs, cost

CPU = torch.device("cpu")
SMALL = Dimensions(8, 1, 2, 0.0, hours=12, note_features=NOTE_WIDTH, note_tokens=5, film=32, patch=16)


@pytest.mark.parametrize("name", ["flexcare", "m3care", "boosted-trees"])
def test_a_run_records_what_it_cost(tmp_path, name):
    data, entry = PreparedData.open(write_prepared(tmp_path, tasks=("ihm", "dia"))), registry.get(name)
    tasks = ("ihm", "dia") if entry.multitask else ("ihm",)
    plan = TrainingPlan(
        name, entry.config(), SMALL, tasks, 1, 8, 1, 1e-3, dict.fromkeys(tasks, 1.0), False, "none", ENCODER
    )
    info = train(plan, data, CPU).info
    assert info["inference_samples_per_second"] > 0
    assert 2**24 < info["peak_memory"] < 2**40
    if entry.fits:
        assert "flops" not in info
        return
    heads = [Head(1, "binary", "ehr"), Head(14, "multilabel", "cxr")][: len(tasks)]
    measured = cost(entry, SMALL, heads, [Inputs(12, 5), Inputs(12, 5, ("ehr",))])
    assert info["parameters"] == measured.parameters
    assert info["flops"] == {"ehr+cxr+note": measured.flops[0], "ehr": measured.flops[1]}


def test_a_model_whose_operations_cannot_be_counted_keeps_its_results_and_says_why(tmp_path, monkeypatch):
    def refuse(*_):
        raise ValueError("no such sample")

    module = sys.modules[train.__module__]
    monkeypatch.setattr(module, "sample_flops", refuse)
    monkeypatch.setattr(module, "_counted", {})
    data, entry = PreparedData.open(write_prepared(tmp_path, tasks=("ihm",))), registry.get("mt")
    plan = TrainingPlan("mt", entry.config(), SMALL, ("ihm",), 1, 8, 1, 1e-3, {"ihm": 1.0}, False, "none", ENCODER)
    with pytest.warns(UserWarning, match="mt: operations of a sample could not be counted: no such sample"):
        trained = train(plan, data, CPU)
    assert set(trained.metrics) == {"ihm"}
    assert trained.info["flops_fault"] == "no such sample" and "flops" not in trained.info


def test_the_peak_is_of_what_was_asked_for_and_not_of_what_was_before():
    before = np.ones(2**26)  # 512 MiB
    high = peak_memory(CPU)
    del before
    forget_peak_memory(CPU)
    low = peak_memory(CPU)
    assert high - low > 2**28
    held = np.ones(2**25)
    assert peak_memory(CPU) - low > 2**27 and len(held)


def test_on_a_gpu_all_counts_that_torch_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs are packed on a device by this number; memory of recorded steps is nobody else's between their replays."""
    told = []
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 10)
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda device: 17)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: told.append("given back"))
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: told.append("forgotten"))
    forget_peak_memory(torch.device("cuda"))
    assert told == ["given back", "forgotten"]
    assert peak_memory(torch.device("cuda")) == 17
