"""Training: losses, the loop of Algorithm 1, predictions of the kept state."""

from __future__ import annotations

from benchmark.training.loop import EpochReport
from benchmark.training.train import Restored, Trained, TrainingPlan, ceiling, restore, train

__all__ = ["EpochReport", "Restored", "Trained", "TrainingPlan", "ceiling", "restore", "train"]
