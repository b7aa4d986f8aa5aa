"""Trains one model on its tasks with one seed, tests it once, and returns everything worth keeping."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from benchmark.data.batches import BatchSource
from benchmark.data.dataset import PreparedData, TaskData
from benchmark.evaluation.metrics import compute
from benchmark.registry import models
from benchmark.training.expense import forget_peak_memory, peak_memory, sample_flops
from benchmark.training.learn import Learned, TrainingPlan, learn, outputs, test_sources
from benchmark.training.loop import EpochReport
from benchmark.training.predict import Predictions, predict, score
from benchmark.training.resume import Bookmark
from models.contract import MODALITIES, count_parameters

PERMUTATIONS = 5
"""Evaluation orders over which the spread of a coupling model's metrics is reported."""


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
        try:
            info["flops"] = _flops(plan, model, tasks, owned, schedule.couples_samples)
        except Exception as fault:  # whatever a model raises at a batch that is made up; its training is over by now
            info["flops_fault"] = str(fault)
            warnings.warn(f"{plan.model}: operations of a sample could not be counted: {fault}", stacklevel=2)
    return Trained(metrics, frames, history, state, info, learned.trace.frame() if learned.trace else None)


def ceiling(data: PreparedData, task: TaskData) -> dict[str, float]:
    """The task's metrics on the test partition if the true probabilities were predicted; empty on real data.

    Macro F1 is left out: taking the class of highest true probability makes the most predictions right, but does not
    make macro F1 highest, so that the number would be no ceiling.
    """
    truth = data.truth(task.task.name)
    if truth is None:
        return {}
    samples = task.partitions["test"]
    columns = [f"p{c}" for c in range(outputs(task))]
    probability = truth.set_index("sample").loc[samples.sample, columns].to_numpy(np.float64)
    known = ~np.isnan(samples.labels)
    y = np.where(known, samples.labels, 0.0)
    if task.task.kind == "multiclass":
        y, known = y[:, 0].astype(np.int64), known[:, 0]
    names = [name for name in task.task.metrics if not name.startswith("macro_f1")]
    return compute(names, task.task.kind, task.classes, y, known, probability)


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


_counted: dict[str, dict[str, float]] = {}


def _flops(
    plan: TrainingPlan, model: nn.Module, tasks: Mapping[str, TaskData], owned: Sequence[str], couples_samples: bool
) -> dict[str, float]:
    """`sample_flops`, counted once in a process for all seeds: they depend on no parameter's value."""
    classes = {name: len(task.classes) for name, task in tasks.items()}
    shapes = [tuple(parameter.shape) for parameter in model.parameters()]
    primary = next(iter(tasks.values())).task.primary
    key = repr((type(model), shapes, plan.config, plan.dimensions, classes, owned, primary, couples_samples))
    if key not in _counted:
        _counted[key] = sample_flops(model, plan.dimensions, owned, primary, couples_samples)
    return dict(_counted[key])
