"""Training of several seeds on a GPU: recorded steps, memory, half precision, a recording that fails, resuming."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from prepared_data import write_prepared
from stacks import SEEDS, SIZES, make_plan, make_stack

from benchmark.data.dataset import PreparedData
from benchmark.registry import models
from benchmark.training.recording import Steps
from benchmark.training.resume import Bookmark
from benchmark.training.together import train_together
from models.contract import Dimensions

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

GPU, CPU = torch.device("cuda"), torch.device("cpu")
COMPARED = [name for name, entry in models().items() if entry.group == "table3"]
RATES = (1e-3, 2e-3)
RESIDENT, FETCHED = None, 0
"""Budgets of stores."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> PreparedData:
    return PreparedData.open(write_prepared(tmp_path_factory.mktemp("prepared") / "data"))


@pytest.mark.parametrize("model", COMPARED)
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("dropout", [0.1, 0.0])
def test_recorded_steps_are_the_steps_as_they_are(
    model: str, precision: str, dropout: float, data: PreparedData
) -> None:
    """Up to the order of sums, which kernels that add with atomic operations leave open."""
    settings = {"precision": precision, "dimensions": Dimensions(**SIZES, dropout=dropout)}
    stack, source, objective = make_stack(model, "ihm", data, GPU, RESIDENT, **settings)
    other, _, _ = make_stack(model, "ihm", data, GPU, RESIDENT, **settings)
    recorded, plain = Steps(stack, record=True), Steps(other, record=False)
    for batch in islice(source.epoch(1), 6):
        arguments = batch, objective, torch.tensor(RATES, device=GPU), [batch.step, 1000]
        torch.testing.assert_close(recorded(*arguments), plain(*arguments), rtol=1e-2, atol=1e-3)
    assert recorded.record, "the device refused to record"


@pytest.mark.parametrize("budget", [RESIDENT, FETCHED])
def test_a_step_never_waits(budget: int | None, data: PreparedData) -> None:
    stack, source, objective = make_stack("flexcare", "ihm", data, GPU, budget)
    steps, rates = Steps(stack, record=True), torch.tensor(RATES, device=GPU)
    list(steps(batch, objective, rates, [batch.step, 1000]) for batch in source.epoch(1))
    torch.cuda.set_sync_debug_mode("error")
    try:
        for batch in source.epoch(1):
            steps(batch, objective, rates, [batch.step, 1000])
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_after_a_recording_that_fails_steps_go_on_and_memory_is_given_back(
    data: PreparedData, monkeypatch: pytest.MonkeyPatch
) -> None:
    stack, source, objective = make_stack("mmf", "ihm", data, GPU, FETCHED)
    other, _, _ = make_stack("mmf", "ihm", data, GPU, FETCHED)
    step = stack.step

    def reading(*arguments: object) -> torch.Tensor:
        losses = step(*arguments)
        losses.sum().item()  # cannot be recorded
        return losses

    monkeypatch.setattr(stack, "step", reading)
    usual, steps, plain = torch.cuda.current_stream(), Steps(stack, record=True), Steps(other, record=False)
    used = []
    with pytest.warns(UserWarning, match="steps are not recorded"):
        for epoch in (1, 2, 3):
            for batch in source.epoch(epoch):
                arguments = batch, objective, torch.tensor(RATES, device=GPU), [batch.step, epoch]
                torch.testing.assert_close(steps(*arguments), plain(*arguments), rtol=1e-2, atol=1e-3)
            torch.cuda.synchronize()
            used.append(torch.cuda.memory_allocated())
    assert torch.cuda.current_stream() == usual and not steps.record
    torch.cuda.empty_cache()  # dies where the allocator still waits for the end of the recording
    assert used[2] <= used[1], "fetched rows are never given back"
    assert torch.isfinite(torch.randn(3, device=GPU)).all(), "the device's own generator is out of order"


@pytest.mark.parametrize("model", ["flexcare", "m3care", "medfuse"])
def test_a_training_on_a_gpu_gives_about_what_one_on_the_cpu_gives_and_can_be_taken_up(
    model: str, data: PreparedData, tmp_path: Path
) -> None:
    def train(device: torch.device, epochs: int, where: Path) -> list:
        plans = [make_plan(model, seed, "ihm", epochs=epochs) for seed in SEEDS]
        silent = [lambda report: None] * len(plans)
        where.mkdir(exist_ok=True)
        return train_together(
            plans, data, device, silent, [Bookmark(where / str(plan.seed), "job", 0.0) for plan in plans]
        )

    for name in ("cpu", "gpu", "gpu-twice"):
        (tmp_path / name).mkdir()
    ours, theirs = train(GPU, 2, tmp_path / "gpu"), train(CPU, 2, tmp_path / "cpu")
    train(GPU, 1, tmp_path / "gpu-twice")
    resumed = train(GPU, 2, tmp_path / "gpu-twice")
    for one, on_cpu, again in zip(ours, theirs, resumed, strict=True):
        assert again.info["resumed_after"] == 1
        # Noise is drawn by the device's generator, so that losses agree roughly.
        np.testing.assert_allclose(one.history["train_loss"], on_cpu.history["train_loss"], rtol=0.3)
        pd.testing.assert_frame_equal(
            one.history.drop(columns="seconds"), again.history.drop(columns="seconds"), rtol=1e-2, atol=1e-2
        )
