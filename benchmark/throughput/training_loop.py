"""The training loop as runs on a GPU have it: several seeds in a step, batches from the stores, made beside the steps.

What a step takes in the loop is compared with what it takes on a batch that is there already, and with what the making
of batches takes by itself: where batches are made in time, the first two are equal.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmark.data.batches import BatchSource
from benchmark.data.dataset import PreparedData
from benchmark.data.fixed import FixedSource
from benchmark.data.residency import DeviceStores
from benchmark.throughput.clock import no_collection, seconds
from benchmark.throughput.counting import idle_share
from benchmark.throughput.forms import LEARNING_RATE, Subject
from benchmark.throughput.made_up import ENCODER, write_made_up
from benchmark.throughput.steps import DTYPES, Request
from benchmark.training.recording import Steps
from benchmark.training.stacked import Objective, SeedStack

STEPS = {"cpu": 2, "cuda": 40}
"""Steps of an epoch that is timed."""

_SETTLING = 2
"""Epochs before those that count, in which most shapes are met."""


@dataclass(frozen=True)
class Loop:
    """One model on one mix.

    Attributes:
        loop: seconds a step, by epoch. making: of the making of a batch for all seeds, alone. steady: of a step on one
            batch, with the drawing of its random numbers.
        idle: share of the time of an epoch, after its first quarter, in which a CUDA device does nothing; None without.
        recorded: steps that were recorded; 0 where they are run as they are.
    """

    model: str
    title: str
    task: str
    dtype: str
    seeds: int
    batch_size: int
    loop: tuple[float, ...]
    making: float
    steady: float
    idle: float | None
    recorded: int


def measure_loops(
    request: Request, augmentation: str, notify: Callable[[str], None] = lambda _: None
) -> tuple[list[Loop], list[str]]:
    """All models, mixes and precisions of the request; and why some have none.

    Args:
        augmentation: of films, by name.
    """
    found, reasons = [], []
    steps = STEPS[request.device.type]
    with tempfile.TemporaryDirectory() as place:
        counts = {"train": steps * request.batch_size, "val": 1, "test": 1}
        chosen = {mix.task.name: mix for mix in request.mixes}
        write_made_up(Path(place) / "data", chosen, counts, request.dimensions)
        data = PreparedData.open(Path(place) / "data")
        for entry in request.entries:
            for mix in request.mixes if not entry.fits else ():
                subject = Subject(entry, mix, request.dimensions, request.device)
                notify(f"{entry.title}, {mix.task.title}: the training loop")
                models = [subject.build(entry.build, subject.seed + number) for number in range(request.seeds)]
                if not getattr(models[0], "fixed_shapes", False):
                    reasons.append(f"{entry.title}, the training loop: takes packed batches alone.")
                    break
                found += [_measure(request, subject, models, data, augmentation, dtype) for dtype in request.dtypes]
    return found, reasons


def _measure(
    request: Request,
    subject: Subject,
    models: Sequence[torch.nn.Module],
    data: PreparedData,
    augmentation: str,
    dtype: str,
) -> Loop:
    device, mix = request.device, subject.mix
    stack = SeedStack(models, subject.entry.clip_norm, DTYPES[dtype] == torch.bfloat16)
    samples = data.task(mix.task.name)
    source = BatchSource(data, samples, "train", request.dimensions, ENCODER, subject.position, device, augmentation)
    batches = FixedSource(source, range(request.seeds), request.batch_size, DeviceStores(data, ENCODER, device))
    steps = Steps(stack, record=device.type == "cuda")
    objective = Objective(mix.task.kind, 1.0, getattr(models[0], "aux_weights", {}))
    rates, streams = torch.full((request.seeds,), LEARNING_RATE, device=device), range(request.seeds)
    count = STEPS[device.type]

    def epoch(number: int) -> None:
        for batch in batches.epoch(number):
            steps(batch, objective, rates, streams)

    for number in range(_SETTLING):
        epoch(number)
    numbers = range(_SETTLING, _SETTLING + request.rounds)
    with no_collection():
        loop = [seconds(lambda number=number: epoch(number), device) / count for number in numbers]
        making = seconds(lambda: sum(1 for _ in batches.epoch(0)), device) / count
        batch = next(batches.epoch(0))
        steady = seconds(lambda: [steps(batch, objective, rates, streams) for _ in range(count)], device) / count
    return Loop(
        model=subject.entry.name,
        title=subject.entry.title,
        task=mix.task.name,
        dtype=dtype,
        seeds=request.seeds,
        batch_size=request.batch_size,
        loop=tuple(loop),
        making=making,
        steady=steady,
        idle=idle_share(lambda: epoch(numbers[-1]), device, times=1, skipped=0.25),
        recorded=len(steps),
    )
