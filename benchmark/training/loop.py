"""The training loop: tasks in sequence, asynchronous single-task batches (FlexCare, Algorithm 1).

A single-task model is the case of one task, with a constant learning rate.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from benchmark.data.batches import BatchSource
from benchmark.errors import UserError
from benchmark.random import stream_seed
from benchmark.training.faults import Diverged, broken_inputs
from benchmark.training.learning_rate import HalvingRates
from benchmark.training.portions import Portions
from benchmark.training.predict import partition_loss, predict, score
from benchmark.training.resume import Bookmark, Course
from benchmark.training.step import make_optimizer, train_step
from benchmark.training.support import give_support
from benchmark.training.trace import Trace
from models.contract import Divisible, Staged


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to train.

    Attributes:
        task_weights: weight of each task's loss. clip_norm: bound on the gradient norm, None for none.
        couples_samples: evaluate in fixed batches (see `predict`).
        task_rates: factors of single tasks on the learning rate.
        precision: of the products in training steps, "float32" or "bfloat16".
        divisible: how a batch is computed in parts where memory does not suffice (see `ModelEntry`).
    """

    seed: int
    epochs: int
    batch_size: int
    learning_rate: float
    halve_learning_rate: bool
    task_weights: Mapping[str, float]
    clip_norm: float | None
    couples_samples: bool
    task_rates: Mapping[str, float] = field(default_factory=dict)
    divisible: Divisible = "no"
    precision: str = "float32"

    @property
    def half(self) -> bool:
        """Whether steps run under autocast to bfloat16."""
        return self.precision == "bfloat16"


@dataclass(frozen=True)
class EpochReport:
    """One task's part of one epoch, for whoever watches.

    Attributes:
        seconds: of the training steps. metrics: those on validation that select epochs. validating: seconds.
    """

    epoch: int
    epochs: int
    task: str
    train_loss: float
    val_loss: float
    seconds: float
    metrics: Mapping[str, float] = field(default_factory=dict)
    validating: float = 0.0


@dataclass(frozen=True)
class Fitted:
    """The kept state, the epoch it came from, what chose it, and one history row for each epoch and task.

    Attributes:
        selected_by: "validation metrics", or "validation loss" if the validation samples define no metric at all.
        parts: that each batch was computed in at the end, to fit into memory.
    """

    state: dict[str, Tensor]
    best_epoch: int
    selected_by: str
    history: list[dict[str, float | int | str]]
    parts: int = 1


@dataclass(frozen=True)
class Segment:
    """One task's part of one epoch, at a learning rate."""

    epoch: int
    task: str
    rate: float


@dataclass(frozen=True)
class Passed:
    """What came of a segment: mean loss of its steps, and the seconds that they took."""

    loss: float
    seconds: float


def fit(
    model: nn.Module,
    training: Mapping[str, BatchSource],
    validation: Mapping[str, BatchSource],
    schedule: Schedule,
    notify: Callable[[EpochReport], None],
    trace: Trace | None = None,
    bookmark: Bookmark | None = None,
) -> Fitted:
    """Trains a model and keeps the state of the epoch with the best validation score.

    The score is that of `epoch_score`; one epoch is kept for all tasks. The model is left with the last state; load
    the returned one. A `trace` is told of every task's part of an epoch, and changes nothing. What `notify` raises ends
    the training. Where a `bookmark` has kept an earlier, interrupted training, this one goes on after its last kept
    epoch.

    Raises:
        Diverged: a loss is not finite.
        UserError: the model's options bar all epochs from being kept, or the bookmark does not fit the model.
    """
    optimizer = make_optimizer(model, schedule.learning_rate)
    course = begin(model, optimizer, training, schedule, trace)
    work = segments(course, training, validation, schedule, notify, bookmark)
    passed = None
    while True:
        try:
            due = work.send(passed)
        except StopIteration as end:
            return end.value
        started = time.perf_counter()
        loss = _train_segment(course, training[due.task], schedule, due)
        passed = Passed(loss, time.perf_counter() - started)


def begin(
    model: nn.Module, optimizer: Any, tasks: Iterable[str], schedule: Schedule, trace: Trace | None = None
) -> Course:
    """A training before its first epoch."""
    rates = HalvingRates(schedule.learning_rate, tasks, schedule.halve_learning_rate, schedule.task_rates)
    return Course(model, optimizer, rates, trace, Portions(schedule.divisible, half=schedule.half))


def segments(
    course: Course,
    training: Mapping[str, BatchSource],
    validation: Mapping[str, BatchSource],
    schedule: Schedule,
    notify: Callable[[EpochReport], None],
    bookmark: Bookmark | None = None,
) -> Generator[Segment, Passed, Fitted]:
    """All of `fit` but the steps: yields what is to be trained next, is sent what came of it, and returns the result.

    Whoever asks does the steps, for this model alone or for several at once.
    """
    model, trace = course.model, course.trace
    if bookmark:
        bookmark.take_up(course)
    if trace and not course.epoch:
        trace.begin()
    for epoch in range(course.epoch + 1, schedule.epochs + 1):
        may_be_kept = model.begin_epoch(epoch) if isinstance(model, Staged) else True
        rows = yield from _train_epoch(course, training, schedule, epoch)
        _validate_epoch(course, rows, validation, schedule, epoch, may_be_kept, notify)
        if bookmark:
            bookmark.after_epoch(course)
    if not course.best_state:
        raise UserError(
            f"none of the {schedule.epochs} epochs can be kept: the model's options reserve them all for a first stage"
        )
    return Fitted(course.best_state, course.best_epoch, course.selected_by, course.history, course.portions.parts)


def _train_epoch(
    course: Course, training: Mapping[str, BatchSource], schedule: Schedule, epoch: int
) -> Generator[Segment, Passed, dict[str, dict]]:
    """One epoch of all tasks; returns a history row a task."""
    rows = {}
    for task, source in training.items():
        rate = course.rates[task]
        passed = yield Segment(epoch, task, rate)
        rows[task] = {"epoch": epoch, "task": task, "train_loss": passed.loss, "learning_rate": rate}
        rows[task]["seconds"] = passed.seconds
        rows[task]["samples"] = source.samples_an_epoch(schedule.batch_size)
        give_support(course.model, source, schedule.seed)
        if course.trace:
            course.trace.after(epoch, task)
    return rows


def _validate_epoch(
    course: Course,
    rows: dict[str, dict],
    validation: Mapping[str, BatchSource],
    schedule: Schedule,
    epoch: int,
    may_be_kept: bool,
    notify: Callable[[EpochReport], None],
) -> None:
    """Validates all tasks after an epoch, and chooses what to keep."""
    losses, values = [], []
    for task, source in validation.items():
        started = time.perf_counter()
        predictions = predict(course.model, source, schedule.couples_samples, schedule.batch_size)
        loss = partition_loss(source, predictions)
        course.rates.after_epoch(task, loss)
        metrics = score(source, predictions, source.task.task.metrics[:2])
        losses.append(loss)
        values += metrics.values()
        rows[task] |= {"val_loss": loss} | {f"val_{name}": value for name, value in metrics.items()}
        row, validating = rows[task], time.perf_counter() - started
        notify(EpochReport(epoch, schedule.epochs, task, row["train_loss"], loss, row["seconds"], metrics, validating))
    course.history += rows.values()
    total, course.selected_by = epoch_score(values, losses)
    if may_be_kept and total > course.best_score:
        course.best_score, course.best_epoch = total, epoch
        course.best_state = {name: value.detach().clone() for name, value in course.model.state_dict().items()}
    course.epoch = epoch


def epoch_score(metrics: Sequence[float], losses: Sequence[float]) -> tuple[float, str]:
    """How good an epoch is, and the rule that says so.

    The score is the sum of the selection metrics of all tasks. A metric that the validation samples cannot define (NaN)
    is left out; it depends on the labels alone, so it is missing in every epoch. Where none is defined, epochs are
    ranked by the sum of the validation losses.

    >>> epoch_score([0.5, math.nan, 0.75], [1.0, 2.0])
    (1.25, 'validation metrics')
    >>> epoch_score([math.nan, math.nan], [1.0, 2.0])
    (-3.0, 'validation loss')
    """
    defined = [value for value in metrics if math.isfinite(value)]
    return (sum(defined), "validation metrics") if defined else (-sum(losses), "validation loss")


def _train_segment(course: Course, source: BatchSource, schedule: Schedule, due: Segment) -> float:
    """One pass over one task's training samples; returns the mean loss of its batches."""
    task, model, optimizer = source.task.task, course.model, course.optimizer
    torch.manual_seed(stream_seed(schedule.seed, "noise", task.name, due.epoch))  # dropout, gating noise
    for group in optimizer.param_groups:
        group["lr"] = due.rate
    model.train()
    weight = schedule.task_weights.get(task.name, 1.0)
    losses, samples = [], []
    for batch in source.epoch(schedule.seed, due.epoch, schedule.batch_size):
        losses.append(train_step(model, optimizer, course.portions, batch, task.kind, weight, schedule.clip_norm))
        samples.append(batch.inputs.sample)
    return mean_loss(torch.stack(losses).cpu() if losses else torch.empty(0), samples, source, due.epoch)


def mean_loss(losses: Tensor, samples: Sequence[Tensor], source: BatchSource, epoch: int) -> float:
    """Mean of the losses of the steps of one pass over a source.

    Args:
        samples: of each step's batch.

    Raises:
        Diverged: one is not finite.
        UserError: there is none.
    """
    if not len(losses):
        raise UserError(f"task {source.task.task.name}: no batch of epoch {epoch} has a known label")
    finite = torch.isfinite(losses)
    if not finite.all():
        step = int((~finite).nonzero()[0])
        raise _diverged(source, f"loss is {losses[step].item()} in step {step + 1} of epoch {epoch}", samples[step])
    return float(losses.mean())


def _diverged(source: BatchSource, what: str, batch: Tensor) -> Diverged:
    samples = batch.tolist()
    broken = broken_inputs(source, samples)
    advice = (
        f"the {' and '.join(broken)} of its samples hold values that are not finite: prepare the data set again"
        if broken
        else "lower the learning rate"
    )
    return Diverged(f"task {source.task.task.name}: {what}; {advice}", samples)
