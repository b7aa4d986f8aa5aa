"""Training: losses, the loop of Algorithm 1, predictions of the kept state."""

from __future__ import annotations

from benchmark.training.learn import Restored, TrainingPlan, restore
from benchmark.training.loop import EpochReport
from benchmark.training.train import Trained, ceiling, train
from benchmark.training.validate import Validated, kept_metrics, validate

__all__ = [
    "EpochReport",
    "Restored",
    "Trained",
    "TrainingPlan",
    "Validated",
    "ceiling",
    "kept_metrics",
    "restore",
    "train",
    "validate",
]
