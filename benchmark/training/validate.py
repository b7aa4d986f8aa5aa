"""Trains a model and scores it on validation alone, for decisions that must not know the test patients."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import pandas as pd
import torch

from benchmark.data.dataset import PreparedData
from benchmark.tasks import TASKS
from benchmark.training.learn import TrainingPlan, learn
from benchmark.training.loop import EpochReport


@dataclass(frozen=True)
class Validated:
    """Result of a training that is not tested.

    Attributes:
        metrics: the two selection metrics of each task on validation, in the kept epoch. best_epoch: that epoch.
        history: one row for each epoch and task. seconds: it took.
    """

    metrics: dict[str, dict[str, float]]
    best_epoch: int
    history: pd.DataFrame
    seconds: float


def validate(
    plan: TrainingPlan,
    data: PreparedData,
    device: torch.device,
    notify: Callable[[EpochReport], None] = lambda report: None,
) -> Validated:
    """Trains as `train` does, to the same kept epoch; samples and labels of the test partition are not even loaded.

    Raises:
        UserError: as `train`. Besides, whatever `notify` raises.
    """
    started = time.perf_counter()
    tasks = {name: data.task(name, ("train", "val")).with_label_fraction(plan.label_fraction) for name in plan.tasks}
    fitted = learn(plan, data, tasks, device, notify).fitted
    history = pd.DataFrame(fitted.history)
    return Validated(
        kept_metrics(history, fitted.best_epoch), fitted.best_epoch, history, time.perf_counter() - started
    )


def kept_metrics(history: pd.DataFrame, best_epoch: int) -> dict[str, dict[str, float]]:
    """By task, the selection metrics of one epoch of a history; one that validation cannot define is NaN."""
    names = [name for name in history.columns if name.startswith("val_") and name != "val_loss"]
    found: dict[str, dict[str, float]] = {}
    for row in history[history["epoch"] == best_epoch].to_dict("records"):
        own = TASKS[row["task"]].metrics[:2]
        found[row["task"]] = {name: float(row[f"val_{name}"]) for name in own if f"val_{name}" in names}
    return found
