"""Training on a GPU: recorded steps, half precision, a recording that fails, resuming, memory that runs out, bytes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
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
from benchmark.training import TrainingPlan, train
from benchmark.training.portions import out_of_memory
from benchmark.training.recording import Steps
from benchmark.training.resume import Bookmark
from benchmark.training.together import train_together
from models import fused_attention
from models.contract import Dimensions

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

GPU, CPU = torch.device("cuda"), torch.device("cpu")
COMPARED = [name for name, entry in models().items() if entry.group == "table3"]
RATES = (1e-3, 2e-3)
KERNELS = SIZES | {"width": 32}
"""Wide enough for the kernels of `models/fused_attention.py`."""
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
    settings = {"precision": precision, "dimensions": Dimensions(**KERNELS, dropout=dropout)}
    stack, source, objective = make_stack(model, "ihm", data, GPU, RESIDENT, **settings)
    other, _, _ = make_stack(model, "ihm", data, GPU, RESIDENT, **settings)
    recorded, plain = Steps(stack, record=True), Steps(other, record=False)
    for batch in islice(source.epoch(1), 6):
        arguments = batch, objective, torch.tensor(RATES, device=GPU), [batch.step, 1000]
        torch.testing.assert_close(recorded(*arguments), plain(*arguments), rtol=1e-2, atol=1e-3)
    assert recorded.record, "the device refused to record"


@pytest.mark.parametrize("model", COMPARED)
def test_steps_with_kernels_are_the_steps_without(
    model: str, data: PreparedData, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"dimensions": Dimensions(**KERNELS, dropout=0.0)}
    stack, source, objective = make_stack(model, "ihm", data, GPU, RESIDENT, **settings)
    other, _, _ = make_stack(model, "ihm", data, GPU, RESIDENT, **settings)
    for batch in islice(source.epoch(1), 4):
        arguments = batch, objective, torch.tensor(RATES, device=GPU)
        found = stack.step(*arguments, stack.draw(batch, [batch.step, 1000]))
        with monkeypatch.context() as patch:
            patch.setattr(fused_attention, "DEVICES", set())
            wanted = other.step(*arguments, other.draw(batch, [batch.step, 1000]))
        torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("budget", [RESIDENT, FETCHED])
def test_a_step_never_waits(budget: int | None, data: PreparedData) -> None:
    settings = {"dimensions": Dimensions(**KERNELS, dropout=0.1)}
    stack, source, objective = make_stack("flexcare", "ihm", data, GPU, budget, **settings)
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
    def train_seeds(device: torch.device, epochs: int, where: Path) -> list:
        plans = [make_plan(model, seed, "ihm", epochs=epochs) for seed in SEEDS]
        silent = [lambda report: None] * len(plans)
        where.mkdir(exist_ok=True)
        return train_together(
            plans, data, device, silent, [Bookmark(where / str(plan.seed), "job", 0.0) for plan in plans]
        )

    for name in ("cpu", "gpu", "gpu-twice"):
        (tmp_path / name).mkdir()
    ours, theirs = train_seeds(GPU, 2, tmp_path / "gpu"), train_seeds(CPU, 2, tmp_path / "cpu")
    train_seeds(GPU, 1, tmp_path / "gpu-twice")
    resumed = train_seeds(GPU, 2, tmp_path / "gpu-twice")
    for one, on_cpu, again in zip(ours, theirs, resumed, strict=True):
        assert again.info["resumed_after"] == 1
        # Noise is drawn by the device's generator, so that losses agree roughly.
        np.testing.assert_allclose(one.history["train_loss"], on_cpu.history["train_loss"], rtol=0.3)
        pd.testing.assert_frame_equal(
            one.history.drop(columns="seconds"), again.history.drop(columns="seconds"), rtol=1e-2, atol=1e-2
        )


@pytest.fixture
def bounded() -> Iterator[Callable[[float], None]]:
    """Lets torch hold no more than so many bytes on the GPU; the bound is lifted after the test."""

    def bound(size: float) -> None:
        torch.cuda.empty_cache()
        torch.cuda.set_per_process_memory_fraction(min(1.0, size / torch.cuda.mem_get_info()[1]))

    yield bound
    torch.cuda.set_per_process_memory_fraction(1.0)


def wide_plan(model: str, seed: int = 40) -> TrainingPlan:
    """A training whose steps take some hundred megabytes, several times what batches and libraries take."""
    wide = replace(Dimensions(**SIZES, dropout=0.0), width=128, layers=8, film=224, patch=8)
    return make_plan(model, seed, "ihm", dimensions=wide, batch_size=32, augmentation="none")


@pytest.mark.parametrize("model", ["mmf", "flexcare"])
def test_batches_that_do_not_fit_are_computed_in_parts(
    model: str, data: PreparedData, bounded: Callable[[float], None]
) -> None:
    before = torch.cuda.memory_allocated()
    whole = train(wide_plan(model), data, GPU)
    bounded(before + 0.6 * (torch.cuda.max_memory_allocated() - before))
    with pytest.warns(UserWarning, match="out of memory on cuda with a batch of 32 samples; batches are computed in"):
        parts = train(wide_plan(model), data, GPU)
    assert parts.info["parts"] > 1
    np.testing.assert_allclose(whole.history["train_loss"], parts.history["train_loss"], rtol=0.05)


def test_seeds_that_do_not_fit_side_by_side_leave_the_memory_as_it_was(
    data: PreparedData, bounded: Callable[[float], None]
) -> None:
    def train_seeds(count: int) -> list:
        plans = [wide_plan("flexcare", 40 + place) for place in range(count)]
        return train_together(plans, data, GPU, [lambda report: None] * count, [None] * count)

    before = torch.cuda.memory_reserved()
    (alone,) = train_seeds(1)
    bounded(before + 1.5 * (alone.info["peak_memory"] - before))  # of what is recorded nothing is given back
    with pytest.raises(RuntimeError) as told:
        train_seeds(5)
    assert out_of_memory(told.value)
    del told
    (again,) = train_seeds(1)
    np.testing.assert_allclose(alone.history["train_loss"], again.history["train_loss"], rtol=1e-2)


REPEATED = """
import sys
from pathlib import Path
from types import SimpleNamespace
sys.path[:0] = {paths}
import torch
from stacks import SEEDS, SIZES, make_plan
from models.contract import Dimensions
from benchmark.data.dataset import PreparedData
from benchmark.runs.execute import threads_of
from benchmark.training.together import train_together
data, device = PreparedData.open(Path({folder!r})), torch.device("cuda")
with threads_of(SimpleNamespace(device="cuda", threads=1, deterministic=True)):
    for _ in range(2):
        sizes = Dimensions(**(SIZES | {{"width": 32}}), dropout=0.1)
        plans = [make_plan({model!r}, seed, "ihm", epochs=2, dimensions=sizes) for seed in SEEDS]
        for trained in train_together(plans, data, device, [lambda report: None] * 2, [None] * 2):
            if isinstance(trained, Exception):
                raise trained
            for name, frame in trained.predictions.items():
                print(name, frame.filter(regex=r"^p\\d").to_numpy().tobytes().hex())
"""


@pytest.mark.parametrize("model", COMPARED)
def test_deterministic_algorithms_give_the_same_bytes(model: str, data: PreparedData) -> None:
    """In a process of its own: cuBLAS reads its settings once."""
    tests = Path(__file__).parents[1]
    code = REPEATED.format(paths=[str(tests.parent), str(tests)], folder=str(data.folder), model=model)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    lines = done.stdout.splitlines()
    assert len(lines) >= 4 and lines[: len(lines) // 2] == lines[len(lines) // 2 :]
