"""From a plan to a trained model: builds it, opens its samples, trains it and keeps its best epoch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from benchmark.data.batches import BatchSource
from benchmark.data.dataset import PreparedData, TaskData
from benchmark.data.redraw import Redraw
from benchmark.errors import UserError
from benchmark.random import stream_seed
from benchmark.registry import models
from benchmark.training.fitting import fit_in_one_go
from benchmark.training.loop import EpochReport, Fitted, Schedule, fit
from benchmark.training.resume import Bookmark
from benchmark.training.trace import Trace
from models.contract import Dimensions, Head, Loaded, ModelEntry


@dataclass(frozen=True)
class TrainingPlan:
    """Everything that decides a training run, data apart.

    Attributes:
        model: name in the registry. config: the model's own options. dimensions: shared sizes.
        tasks: names, in the order of training. seed: of this run. encoder: key of the note encoder, None without notes.
        batch_size, epochs, learning_rate, task_weights, halve_learning_rate: as in the protocol.
        augmentation: of training films: "none", "mild" or "reference".
        label_fraction: share of each task's training samples that is used.
        initial: final state of the model that this one is pretrained on, if it starts from one.
        redraw_hours: draw the hours of training samples anew in each epoch, for tasks that predict at a random hour.
        trace: score all test sets after each task's part of each epoch; without influence on the training.
        note_dropout: number of draws of the note encoder's own dropout that training reads, one an epoch in turn;
            0: notes without noise, as validation and test read them always.
        task_rates: factors of single tasks on the learning rate; those without one have 1.
        precision: of the products in training steps, "float32" or "bfloat16" where torch's autocast chooses it.
    """

    model: str
    config: Any
    dimensions: Dimensions
    tasks: tuple[str, ...]
    seed: int
    batch_size: int
    epochs: int
    learning_rate: float
    task_weights: Mapping[str, float]
    halve_learning_rate: bool
    augmentation: str
    encoder: str | None
    label_fraction: float = 1.0
    initial: Mapping[str, Tensor] | None = None
    redraw_hours: bool = False
    trace: bool = False
    note_dropout: int = 0
    task_rates: Mapping[str, float] = field(default_factory=dict)
    precision: str = "float32"


@dataclass(frozen=True)
class Learned:
    """A model that is trained and not yet tested.

    Attributes:
        model: with the kept state. pretrained: what it took from another's state, if it started from one.
        trace: of its training, if one was asked for.
    """

    model: torch.nn.Module
    fitted: Fitted
    schedule: Schedule
    pretrained: Loaded | None
    trace: Trace | None


def learn(
    plan: TrainingPlan,
    data: PreparedData,
    tasks: Mapping[str, TaskData],
    device: torch.device,
    notify: Callable[[EpochReport], None],
    tests: Mapping[str, BatchSource] | None = None,
    bookmark: Bookmark | None = None,
) -> Learned:
    """Trains on the training samples of `tasks` and keeps an epoch by their validation samples.

    The test partition is not read, and may be missing; only a trace needs the sources `tests`, to watch them.
    """
    ready = make_ready(plan, data, tasks, device, tests)
    if models()[plan.model].fits:
        fitted = fit_in_one_go(ready.model, ready.training, ready.validation, ready.schedule, notify)
    else:
        arguments = (ready.model, ready.training, ready.validation, ready.schedule)
        fitted = fit(*arguments, notify, ready.trace, bookmark)
    return ready.with_kept(fitted)


@dataclass(frozen=True)
class Ready:
    """A model before its training, with all that it is trained by."""

    model: torch.nn.Module
    training: dict[str, BatchSource]
    validation: dict[str, BatchSource]
    schedule: Schedule
    pretrained: Loaded | None
    trace: Trace | None

    def with_model(self, model: torch.nn.Module) -> Ready:
        """The same around another model of equal values."""
        trace = self.trace and replace(self.trace, model=model)
        return replace(self, model=model, trace=trace)

    def with_kept(self, fitted: Fitted) -> Learned:
        """The model with the state that its training keeps."""
        self.model.load_state_dict(fitted.state)
        return Learned(self.model, fitted, self.schedule, self.pretrained, self.trace)


def make_ready(
    plan: TrainingPlan,
    data: PreparedData,
    tasks: Mapping[str, TaskData],
    device: torch.device,
    tests: Mapping[str, BatchSource] | None = None,
) -> Ready:
    """Builds the model with its initial values on `device`, and opens its samples."""
    entry = models()[plan.model]
    training, validation = (_sources(plan, data, tasks, split, device) for split in ("train", "val"))
    model = _build(plan, tasks)
    pretrained = None if plan.initial is None else _carry_over(entry, model, plan.initial)
    model.to(device)
    schedule = Schedule(
        plan.seed,
        plan.epochs,
        plan.batch_size,
        plan.learning_rate,
        plan.halve_learning_rate,
        plan.task_weights,
        entry.clip_norm,
        getattr(model, "couples_samples", entry.couples_samples),
        plan.task_rates,
        entry.divisible,
        plan.precision,
    )
    trace = _trace(plan, model, tests or {}, schedule)
    return Ready(model, training, validation, schedule, pretrained, trace)


@dataclass(frozen=True)
class Restored:
    """A trained model as it was tested.

    Attributes:
        model: in eval mode. tests: the test samples by task. couples_samples, batch_size: as `predict` takes them.
    """

    model: torch.nn.Module
    tests: dict[str, BatchSource]
    couples_samples: bool
    batch_size: int


def restore(plan: TrainingPlan, state: Mapping[str, Tensor], data: PreparedData, device: torch.device) -> Restored:
    """The model of a finished run from its final state, with the test samples of its tasks."""
    tasks = {name: data.task(name) for name in plan.tasks}
    model = _build(plan, tasks)
    model.load_state_dict(dict(state))
    model.to(device).eval()
    couples = getattr(model, "couples_samples", models()[plan.model].couples_samples)
    return Restored(model, _sources(plan, data, tasks, "test", device), couples, plan.batch_size)


def _trace(
    plan: TrainingPlan, model: torch.nn.Module, tests: Mapping[str, BatchSource], schedule: Schedule
) -> Trace | None:
    if not plan.trace:
        return None
    if len(plan.tasks) < 2:
        raise UserError(
            f"a trace is of several tasks trained together; {plan.model} is trained on {plan.tasks[0]} alone"
        )
    return Trace(model, tests, schedule.couples_samples, plan.batch_size)


def _build(plan: TrainingPlan, tasks: Mapping[str, TaskData]) -> torch.nn.Module:
    heads = [Head(outputs(task), task.task.kind, task.task.primary) for task in tasks.values()]
    torch.manual_seed(stream_seed(plan.seed, "initial values"))
    return models()[plan.model].build(plan.dimensions, heads, plan.config)


def _carry_over(entry: ModelEntry, model: torch.nn.Module, state: Mapping[str, Tensor]) -> Loaded:
    try:
        return entry.load_pretrained(model, state)
    except ValueError as fault:
        raise UserError(
            f"{entry.name} cannot start from {entry.pretrained_on}: {fault}. Both need the same sizes and options"
        ) from fault


def test_sources(
    plan: TrainingPlan, data: PreparedData, tasks: Mapping[str, TaskData], device: torch.device
) -> dict[str, BatchSource]:
    """The test samples of the plan's tasks."""
    return _sources(plan, data, tasks, "test", device)


def outputs(task: TaskData) -> int:
    """Logits of a task."""
    return 1 if task.task.kind == "binary" else len(task.classes)


def _sources(
    plan: TrainingPlan, data: PreparedData, tasks: Mapping[str, TaskData], split: str, device: torch.device
) -> dict[str, BatchSource]:
    sources, train = {}, split == "train"
    for head, (name, task) in enumerate(tasks.items()):
        if not len(task.partitions[split]):
            raise UserError(
                f"task {name} of {data.name} has no {split} sample; use a larger cohort or leave the task out"
            )
        sources[name] = BatchSource(
            data,
            task,
            split,
            plan.dimensions,
            plan.encoder,
            head,
            device,
            plan.augmentation if train else "none",
            Redraw(data, task) if train and plan.redraw_hours and task.task.label_at else None,
            plan.note_dropout if train else 0,
        )
    return sources
