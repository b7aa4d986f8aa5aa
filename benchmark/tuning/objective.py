"""What a trial is worth: its mean standardised gain over a reference on validation.

The score of a task is the sum of its two selection metrics, as for the choice of epochs. Scores of different tasks have
different ranges and different luck; a gain is therefore counted in standard deviations of the reference over its seeds:

    gain_task = (score_task - mean of the reference) / deviation of the reference
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from benchmark.errors import UserError

Metrics = Mapping[str, Mapping[str, float]]
"""Selection metrics on validation, by task and name."""

LEAST_DEVIATION = 0.002
"""A smaller deviation of a few runs is luck, and would make its task outweigh all others: it counts as this much."""


@dataclass(frozen=True)
class Reference:
    """Scores of the reference model.

    Attributes:
        model: its name. seeds: of its runs. mean, deviation: of its score, by task; the deviation is that of a sample
            (ddof = 1), at least `LEAST_DEVIATION`.
    """

    model: str
    seeds: tuple[int, ...]
    mean: Mapping[str, float]
    deviation: Mapping[str, float]

    def gains(self, metrics: Metrics) -> dict[str, float]:
        """Standardised gain of each task; tasks that the reference has no score of are left out."""
        return {
            task: (score - self.mean[task]) / self.deviation[task]
            for task, values in metrics.items()
            if task in self.mean and (score := task_score(values)) is not None
        }


def task_score(values: Mapping[str, float]) -> float | None:
    """Sum of a task's metrics, without those that validation cannot define; None if there is none.

    >>> task_score({"auroc": 0.75, "auprc": 0.5}), task_score({"auroc": math.nan})
    (1.25, None)
    """
    defined = [value for value in values.values() if math.isfinite(value)]
    return sum(defined) if defined else None


def raw_sum(metrics: Metrics) -> float:
    """Sum of the scores of all tasks: what an unstandardised search would maximise."""
    return sum(score for values in metrics.values() if (score := task_score(values)) is not None)


def make_reference(model: str, runs: Mapping[int, Metrics]) -> Reference:
    """The reference from its runs, by seed.

    Raises:
        UserError: fewer than two seeds have no deviation.
    """
    if len(runs) < 2:
        raise UserError(f"{len(runs)} seed of the reference {model}; a standard deviation takes two or more")
    scores: dict[str, list[float]] = {}
    for metrics in runs.values():
        for task, values in metrics.items():
            if (score := task_score(values)) is not None:
                scores.setdefault(task, []).append(score)
    if not scores:
        raise UserError("validation defines no metric of any task: there is nothing to tune by; use a larger cohort")
    mean = {task: fmean(values) for task, values in scores.items()}
    deviation = {task: max(stdev(values), LEAST_DEVIATION) for task, values in scores.items()}
    return Reference(model, tuple(runs), mean, deviation)


def mean_gain(gains: Mapping[str, float]) -> float:
    """Mean over tasks."""
    return fmean(gains.values())


def front(points: Sequence[Sequence[float]]) -> list[int]:
    """Positions of the points that no other point beats: as good in all values and better in one.

    >>> front([(1, 0), (0, 1), (0, 0), (1, 0)])
    [0, 1, 3]
    """

    def beaten(point: Sequence[float]) -> bool:
        return any(
            all(a >= b for a, b in zip(other, point, strict=True)) and tuple(other) != tuple(point) for other in points
        )

    return [number for number, point in enumerate(points) if not beaten(point)]
