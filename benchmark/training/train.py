"""Trains one model on its tasks with one seed, tests it once, and returns everything worth keeping."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from benchmark.data.batches import BatchSource
from benchmark.data.dataset import PreparedData, TaskData
from benchmark.data.redraw import Redraw
from benchmark.errors import UserError
from benchmark.evaluation.metrics import compute
from benchmark.random import stream_seed
from benchmark.registry import models
from benchmark.training.expense import forget_peak_memory, peak_memory, sample_flops
from benchmark.training.fitting import fit_in_one_go
from benchmark.training.loop import EpochReport, Fitted, Schedule, fit
from benchmark.training.predict import Predictions, predict, score
from benchmark.training.resume import Bookmark
from benchmark.training.trace import Trace
from models.contract import MODALITIES, Dimensions, Head, Loaded, ModelEntry, count_parameters

PERMUTATIONS = 5
"""Evaluation orders over which the spread of a coupling model's metrics is reported."""


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
class Trained:
    """Result of a run.

    Attributes:
        metrics: on the test partition, by task and metric.
        predictions: by task; columns sample, patient, present_ehr, present_cxr, present_note, y0.., p0.. (y NaN where
        masked).
        history: one row for each epoch and task. state: kept parameters.
        info: parameters, best_epoch, selected_by (what chose that epoch), seconds, training_samples_per_second,
        inference_samples_per_second, peak_memory (bytes), flops (of a sample by its modalities; none for models that
        are fitted in one go), by task test_samples, ceiling, permutation_spread, diagnostics, and for a model that
        starts from another's state pretrained (names of what was loaded, and of what is new), and for a training that
        was interrupted resumed_after (the epoch after which this call took it up), and
        where memory did not suffice for whole batches parts (how many each was computed in).
        trace: rows of `benchmark.training.trace.Trace`, if it was asked for.
    """

    metrics: dict[str, dict[str, float]]
    predictions: dict[str, pd.DataFrame]
    history: pd.DataFrame
    state: dict[str, Tensor]
    info: dict[str, Any]
    trace: pd.DataFrame | None = None


def train(
    plan: TrainingPlan,
    data: PreparedData,
    device: torch.device,
    notify: Callable[[EpochReport], None] = lambda report: None,
    bookmark: Bookmark | None = None,
) -> Trained:
    """Trains and tests; with a `bookmark`, from the last epoch that it has kept. Models that are fitted in one go have
    no epochs, and start anew.

    Raises:
        UserError: a task has an empty partition, the state to start from does not fit the model, the training diverged,
            or a trace is asked for with a single task.
    """
    started = time.perf_counter()
    forget_peak_memory(device)
    tasks = {name: data.task(name).with_label_fraction(plan.label_fraction) for name in plan.tasks}
    tests = test_sources(plan, data, tasks, device)
    learned = learn(plan, data, tasks, device, notify, tests, bookmark)
    return tested(plan, data, learned, tests, started, bookmark)


def test_sources(
    plan: TrainingPlan, data: PreparedData, tasks: Mapping[str, TaskData], device: torch.device
) -> dict[str, BatchSource]:
    """The test samples of the plan's tasks."""
    return _sources(plan, data, tasks, "test", device)


def tested(
    plan: TrainingPlan,
    data: PreparedData,
    learned: Learned,
    tests: Mapping[str, BatchSource],
    started: float,
    bookmark: Bookmark | None = None,
) -> Trained:
    """Tests a model on the sources `tests`, once; `started` is when its training began, by `time.perf_counter`."""
    model, fitted, schedule = learned.model, learned.fitted, learned.schedule
    tasks = {name: source.task for name, source in tests.items()}
    device = next(iter(tests.values())).device
    metrics, frames, spread, diagnostics = {}, {}, {}, {}
    inference = 0.0
    for name, source in tests.items():
        clock = time.perf_counter()
        predictions = predict(model, source, schedule.couples_samples, plan.batch_size)
        inference += time.perf_counter() - clock
        metrics[name] = score(source, predictions)
        frames[name] = _frame(source, predictions)
        if predictions.diagnostics:
            diagnostics[name] = predictions.diagnostics
        if schedule.couples_samples:
            spread[name] = _spread(model, source, plan.batch_size, metrics[name])
    history = pd.DataFrame(fitted.history)
    info = {
        "parameters": count_parameters(model),
        "best_epoch": fitted.best_epoch,
        "selected_by": fitted.selected_by,
        "seconds": time.perf_counter() - started + (bookmark.earlier if bookmark else 0.0),
        "training_samples_per_second": float(history["samples"].sum() / history["seconds"].sum()),
        "inference_samples_per_second": sum(map(len, tests.values())) / inference,
        "peak_memory": peak_memory(device),
        "test_samples": {name: len(source) for name, source in tests.items()},
        "ceiling": {name: limit for name, task in tasks.items() if (limit := ceiling(data, task))},
        "permutation_spread": spread,
        "diagnostics": diagnostics,
    }
    state = {name: value.cpu().contiguous() for name, value in fitted.state.items()}
    if fitted.parts > 1:
        info["parts"] = fitted.parts
    if bookmark and bookmark.resumed_after is not None:
        info["resumed_after"] = bookmark.resumed_after
    if learned.pretrained is not None:
        info["pretrained"] = {"loaded": list(learned.pretrained.loaded), "new": list(learned.pretrained.new)}
    if not models()[plan.model].fits:
        owned = [name for m, name in enumerate(MODALITIES) if any(s.present[:, m].any() for s in tests.values())]
        info["flops"] = sample_flops(model, plan.dimensions, owned, schedule.couples_samples)
    return Trained(metrics, frames, history, state, info, learned.trace.frame() if learned.trace else None)


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
    heads = [Head(_outputs(task), task.task.kind, task.task.primary) for task in tasks.values()]
    torch.manual_seed(stream_seed(plan.seed, "initial values"))
    return models()[plan.model].build(plan.dimensions, heads, plan.config)


def _carry_over(entry: ModelEntry, model: torch.nn.Module, state: Mapping[str, Tensor]) -> Loaded:
    try:
        return entry.load_pretrained(model, state)
    except ValueError as fault:
        raise UserError(
            f"{entry.name} cannot start from {entry.pretrained_on}: {fault}. Both need the same sizes and options"
        ) from fault


def ceiling(data: PreparedData, task: TaskData) -> dict[str, float]:
    """The task's metrics on the test partition if the true probabilities were predicted; empty on real data.

    Macro F1 is left out: taking the class of highest true probability makes the most predictions right, but does not
    make macro F1 highest, so that the number would be no ceiling.
    """
    truth = data.truth(task.task.name)
    if truth is None:
        return {}
    samples = task.partitions["test"]
    columns = [f"p{c}" for c in range(_outputs(task))]
    probability = truth.set_index("sample").loc[samples.sample, columns].to_numpy(np.float64)
    known = ~np.isnan(samples.labels)
    y = np.where(known, samples.labels, 0.0)
    if task.task.kind == "multiclass":
        y, known = y[:, 0].astype(np.int64), known[:, 0]
    names = [name for name in task.task.metrics if not name.startswith("macro_f1")]
    return compute(names, task.task.kind, task.classes, y, known, probability)


def _outputs(task: TaskData) -> int:
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


def _frame(source: BatchSource, predictions: Predictions) -> pd.DataFrame:
    samples = source.samples
    columns = {"sample": samples.sample, "patient": samples.patient}
    columns |= {f"present_{name}": source.present[:, m] for m, name in enumerate(MODALITIES)}
    columns |= {f"y{c}": samples.labels[:, c] for c in range(samples.labels.shape[1])}
    columns |= {f"p{c}": predictions.probability[:, c] for c in range(predictions.probability.shape[1])}
    return pd.DataFrame(columns)


def _spread(
    model: torch.nn.Module, source: BatchSource, batch_size: int, first: dict[str, float]
) -> dict[str, dict[str, float]]:
    """Mean and sample standard deviation of the metrics over evaluation orders, the reported one among them."""
    runs = [first] + [
        score(source, predict(model, source, True, batch_size, order)) for order in range(1, PERMUTATIONS)
    ]
    return {
        name: {
            "mean": float(np.mean([run[name] for run in runs])),
            "std": float(np.std([run[name] for run in runs], ddof=1)),
        }
        for name in first
    }
