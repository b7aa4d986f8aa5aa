"""The training loop: tasks in sequence, asynchronous single-task batches (FlexCare, Algorithm 1).

A single-task model is the case of one task, with a constant learning rate.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

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
from benchmark.training.support import give_support
from benchmark.training.trace import Trace
from models.contract import Staged


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to train.

    Attributes:
        task_weights: weight of each task's loss. clip_norm: bound on the gradient norm, None for none.
        couples_samples: evaluate in fixed batches (see `predict`).
        task_rates: factors of single tasks on the learning rate.
        divisible: whether a batch may be computed in parts where memory does not suffice (see `Portions`).
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
    divisible: bool = False


@dataclass(frozen=True)
class EpochReport:
    """One task's part of one epoch, for whoever watches; `metrics` are those on validation that select epochs."""

    epoch: int
    epochs: int
    task: str
    train_loss: float
    val_loss: float
    seconds: float
    metrics: Mapping[str, float] = field(default_factory=dict)


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
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(parameters, lr=schedule.learning_rate, fused=True)
    rates = HalvingRates(schedule.learning_rate, training, schedule.halve_learning_rate, schedule.task_rates)
    course = Course(model, optimizer, rates, trace, Portions(schedule.divisible))
    if bookmark:
        bookmark.take_up(course)
    if trace and not course.epoch:
        trace.begin()
    for epoch in range(course.epoch + 1, schedule.epochs + 1):
        _train_epoch(course, training, validation, schedule, epoch, notify)
        if bookmark:
            bookmark.after_epoch(course)
    if not course.best_state:
        raise UserError(
            f"none of the {schedule.epochs} epochs can be kept: the model's options reserve them all for a first stage"
        )
    return Fitted(course.best_state, course.best_epoch, course.selected_by, course.history, course.portions.parts)


def _train_epoch(
    course: Course,
    training: Mapping[str, BatchSource],
    validation: Mapping[str, BatchSource],
    schedule: Schedule,
    epoch: int,
    notify: Callable[[EpochReport], None],
) -> None:
    """One epoch of all tasks, its validation, and the choice of what to keep."""
    model, rates = course.model, course.rates
    may_be_kept = model.begin_epoch(epoch) if isinstance(model, Staged) else True
    rows = {}
    for task, source in training.items():
        started = time.perf_counter()
        loss = _train_segment(course, source, schedule, epoch, rates[task])
        rows[task] = {"epoch": epoch, "task": task, "train_loss": loss, "learning_rate": rates[task]}
        rows[task]["seconds"] = time.perf_counter() - started
        rows[task]["samples"] = source.samples_an_epoch(schedule.batch_size)
        give_support(model, source, schedule.seed)
        if course.trace:
            course.trace.after(epoch, task)
    losses, values = [], []
    for task, source in validation.items():
        predictions = predict(model, source, schedule.couples_samples, schedule.batch_size)
        loss = partition_loss(source, predictions)
        rates.after_epoch(task, loss)
        metrics = score(source, predictions, source.task.task.metrics[:2])
        losses.append(loss)
        values += metrics.values()
        rows[task] |= {"val_loss": loss} | {f"val_{name}": value for name, value in metrics.items()}
        row = rows[task]
        notify(EpochReport(epoch, schedule.epochs, task, row["train_loss"], loss, row["seconds"], metrics))
    course.history += rows.values()
    total, course.selected_by = epoch_score(values, losses)
    if may_be_kept and total > course.best_score:
        course.best_score, course.best_epoch = total, epoch
        course.best_state = {name: value.detach().clone() for name, value in model.state_dict().items()}
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


def _train_segment(course: Course, source: BatchSource, schedule: Schedule, epoch: int, rate: float) -> float:
    """One pass over one task's training samples; returns the mean loss of its batches."""
    task, model, optimizer = source.task.task, course.model, course.optimizer
    torch.manual_seed(stream_seed(schedule.seed, "noise", task.name, epoch))  # dropout, gating noise
    for group in optimizer.param_groups:
        group["lr"] = rate
    model.train()
    weight = schedule.task_weights.get(task.name, 1.0)
    aux_weights = getattr(model, "aux_weights", {})
    losses, samples = [], []
    for batch in source.epoch(schedule.seed, epoch, schedule.batch_size):
        losses.append(course.portions.backward(model, task.kind, batch, aux_weights, weight))
        samples.append(batch.inputs.sample)
        if schedule.clip_norm is not None:
            nn.utils.clip_grad_norm_(model.parameters(), schedule.clip_norm)
        optimizer.step()
    values = torch.stack(losses).cpu()
    if not torch.isfinite(values).all():
        step = int((~torch.isfinite(values)).nonzero()[0])
        raise _diverged(source, f"loss is {values[step].item()} in step {step + 1} of epoch {epoch}", samples[step])
    return float(values.mean())


def _diverged(source: BatchSource, what: str, batch: Tensor) -> Diverged:
    samples = batch.tolist()
    broken = broken_inputs(source, samples)
    advice = (
        f"the {' and '.join(broken)} of its samples hold values that are not finite: prepare the data set again"
        if broken
        else "lower the learning rate"
    )
    return Diverged(f"task {source.task.task.name}: {what}; {advice}", samples)
