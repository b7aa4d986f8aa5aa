"""Recorded steps are the steps as they are: on the CPU, where a tape stands in for a CUDA graph (`tests/tape.py`)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from types import SimpleNamespace

import pytest
import torch
from prepared_data import write_prepared
from stacks import make_stack
from tape import Stream, Tape, use_tapes

from benchmark.data.dataset import PreparedData
from benchmark.registry import models
from benchmark.throughput.counting import waits
from benchmark.training.recording import Steps
from benchmark.training.stacked import SeedStack

COMPARED = [name for name, entry in models().items() if entry.group == "table3"]
CASES = [(name, "los", "float32") for name in (*COMPARED, "flexcare-authors", "flexcare-d")]
CASES += [(name, "dia", "bfloat16") for name in ("flexcare", "medfuse")]
STEPS = 4
"""Of an epoch; enough to come back to a room."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> PreparedData:
    return PreparedData.open(write_prepared(tmp_path_factory.mktemp("prepared") / "data"))


class Recording(Steps):
    """Records although the device is the CPU."""

    def __init__(self, stack: SeedStack) -> None:
        super().__init__(stack, record=False)
        self.record = True


@pytest.mark.slow
@pytest.mark.parametrize(("model", "task", "precision"), CASES)
def test_replayed_steps_are_the_steps_as_they_are(
    model: str, task: str, precision: str, data: PreparedData, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bit by bit, over parts of two epochs, with rates that change and a seed that sits steps out.

    That no number of a step is fixed by the one that was recorded does not show that a device can record it.
    """
    stack, source, objective = make_stack(model, task, data, precision=precision)
    other, _, _ = make_stack(model, task, data, precision=precision)
    tapes = use_tapes(monkeypatch)
    recorded, plain = Recording(stack), Steps(other, record=False)
    for epoch in (1, 2):
        for batch in islice(source.epoch(epoch), STEPS):
            batch = replace(batch, alive=batch.alive & torch.tensor([batch.step % 3 != 1, True]))
            arguments = objective, torch.tensor([1e-3, 2e-3]) / (epoch + batch.step), [batch.step, 1000 + epoch]
            torch.testing.assert_close(recorded(batch, *arguments), plain(batch, *arguments), rtol=0, atol=0)
    assert recorded.record and sum(tape.replays for tape in tapes) > len(tapes) > 0
    assert not {name for tape in tapes for name, args, kwargs in tape.operations if unfit(name, args, kwargs)}
    for ours, theirs in zip(stack.state(), other.state(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def unfit(name: str, args: tuple, kwargs: dict) -> bool:
    """Whether a CUDA graph cannot hold an operation: the host waits for it, brings numbers, or draws them."""
    drawn = ("aten::rand", "aten::normal", "aten::uniform", "aten::bernoulli", "aten::native_dropout")
    return waits(name, args, kwargs) or name == "aten::lift_fresh" or name.startswith(drawn)


@pytest.mark.parametrize(
    ("planted", "found"),
    [
        (lambda values: values * torch.tensor([2.0]), "aten::lift_fresh"),
        (lambda values: values[values > 0], "aten::index"),
        (lambda values: values.sum().item(), "aten::_local_scalar_dense"),
        (lambda values: torch.nn.functional.dropout(values), "aten::bernoulli_"),
        (lambda values: values + torch.randn(3), "aten::randn"),
    ],
)
def test_what_a_recording_cannot_hold_is_seen(planted: Callable[[torch.Tensor], object], found: str) -> None:
    with Tape() as tape:
        planted(torch.ones(3))
    assert {name for name, args, kwargs in tape.operations if unfit(name, args, kwargs)} == {found}


class Refusing:
    """As `torch.cuda.graph` where a step does what cannot be recorded: its end fails too, and leaves things undone."""

    def __init__(self, graph: Tape, stream: Stream, **_: object) -> None:
        self.stream = stream

    def __enter__(self) -> None:
        Stream.current = self.stream

    def __exit__(self, *_: object) -> None:
        raise RuntimeError("CUDA error: operation failed due to a previous error during capture\nCUDA kernel errors")


def test_after_a_recording_that_fails_all_is_as_before(data: PreparedData, monkeypatch: pytest.MonkeyPatch) -> None:
    stack, source, objective = make_stack("mmf", "ihm", data)
    other, _, _ = make_stack("mmf", "ihm", data)
    use_tapes(monkeypatch)
    monkeypatch.setattr(torch.cuda, "graph", Refusing)
    told = []
    for name in ("_cuda_endAllocateToPool", "_cuda_releasePool"):
        monkeypatch.setattr(torch._C, name, lambda device, pool, name=name: told.append((name, device, pool)))
    generator = SimpleNamespace(clone_state=lambda: "fresh", graphsafe_set_state=told.append)
    monkeypatch.setattr(torch.cuda, "default_generators", (generator,))
    usual, steps, plain = Stream.current, Recording(stack), Steps(other, record=False)
    batch = next(iter(source.epoch(1)))
    arguments = objective, torch.tensor([1e-3, 2e-3]), [1, 2]
    with pytest.warns(UserWarning, match=r"not recorded, .* error during capture$"):
        torch.testing.assert_close(steps(batch, *arguments), plain(batch, *arguments), rtol=0, atol=0)
    assert Stream.current is usual
    assert told == [("_cuda_endAllocateToPool", 0, None), ("_cuda_releasePool", 0, None), "fresh"]
    assert not steps.record
    torch.testing.assert_close(stack.values, other.values, rtol=0, atol=0)


def test_a_step_that_fails_before_the_recording_is_waited_for(
    data: PreparedData, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The state is brought back on one stream, while another one may still write to it."""
    stack, source, objective = make_stack("mmf", "ihm", data)
    use_tapes(monkeypatch)
    monkeypatch.setattr(stack, "step", fail := Failing())
    before, usual = stack.values.clone(), Stream.current
    with pytest.raises(torch.OutOfMemoryError):
        Recording(stack)(next(iter(source.epoch(1))), objective, torch.tensor([1e-3, 2e-3]), [1, 2])
    assert Stream.waits[-1] == (usual, fail.stream) and Stream.current is usual is not fail.stream
    torch.testing.assert_close(stack.values, before, rtol=0, atol=0)


class Failing:
    """A step that finds no memory."""

    stream: Stream | None = None

    def __call__(self, *_: object) -> None:
        self.stream = Stream.current
        raise torch.OutOfMemoryError("CUDA out of memory")
