"""What training on one task does to the others: test scores of all tasks after each task's segment of each epoch.

A trace watches and changes nothing: models are in eval mode while it predicts, random streams stand afterwards where
they stood before, and neither checkpoint nor learning rate hears of its scores.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import pandas as pd
import torch
from torch import nn

from benchmark.data.batches import BatchSource
from benchmark.training.predict import predict, score

START = "start"
"""Stands in place of a task's name for the model before any training."""


@dataclass
class Trace:
    """Collects one row for each segment, tested task and metric.

    Attributes:
        model: in training. tests: the test samples by task. couples_samples, batch_size: as `predict` takes them.
        rows: segment (0 before training), epoch, trained (the segment's task), task (the tested one), metric, value.
    """

    model: nn.Module
    tests: Mapping[str, BatchSource]
    couples_samples: bool
    batch_size: int
    rows: list[dict[str, int | str | float]] = field(default_factory=list)
    segments: int = 0

    def begin(self) -> None:
        """Scores the model as it is before the first segment."""
        self._score(0, START)

    def after(self, epoch: int, task: str) -> None:
        """Scores the model after one pass over the training samples of `task`."""
        self.segments += 1
        self._score(epoch, task)

    def frame(self) -> pd.DataFrame:
        return pd.DataFrame(self.rows)

    def _score(self, epoch: int, trained: str) -> None:
        devices = {parameter.device for parameter in self.model.parameters() if parameter.is_cuda}
        modes = {module: module.training for module in self.model.modules()}
        with torch.random.fork_rng(devices=list(devices)):
            for task, source in self.tests.items():
                predictions = predict(self.model, source, self.couples_samples, self.batch_size)
                for metric, value in score(source, predictions, source.task.task.metrics[:2]).items():
                    row = {"segment": self.segments, "epoch": epoch, "trained": trained, "task": task}
                    self.rows.append(row | {"metric": metric, "value": value})
        for module, mode in modes.items():
            module.training = mode
