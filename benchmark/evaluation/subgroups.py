"""Does a model do worse for some patients? The task's metrics by group, each against all other samples together.

Groups and the rest get the same draws of patients and seeds, so that the gap between them has an interval. Small groups
are not scored: their figures would say more about chance than about the model.

Legend: n samples, S seeds, R resamples of patients (column 0: the data as they are), P patients, C classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from benchmark.evaluation.comparison import Estimate, difference, score
from benchmark.evaluation.metrics import WITHOUT
from benchmark.evaluation.resampling import resampled

AGE_BANDS = {18: "18-44", 45: "45-64", 65: "65-79", 80: "80+"}
"""By the age at which each begins."""

UNKNOWN = "unknown"

LEAST_SAMPLES = 50
LEAST_EVENTS = 10
"""Samples of a group, and of a binary task both positives and negatives, below which a group is not scored."""


def age_band(age: float) -> str:
    """The band of an age in years.

    >>> age_band(44.9), age_band(80), age_band(float("nan")), age_band(17)
    ('18-44', '80+', 'unknown', 'unknown')
    """
    return next((name for begin, name in reversed(AGE_BANDS.items()) if age >= begin), UNKNOWN)


@dataclass(frozen=True)
class Scored:
    """Predictions of one task by the runs of several seeds on the same samples.

    Attributes:
        kind, classes, metrics: of the task. y, known: as for `benchmark.evaluation.metrics.compute`.
        probability: (n, C) of each seed. patient: (n,) row of the weights.
    """

    kind: str
    classes: Sequence[str]
    metrics: Sequence[str]
    y: np.ndarray
    known: np.ndarray
    probability: Sequence[np.ndarray]
    patient: np.ndarray

    def positives(self, rows: np.ndarray) -> int | None:
        """Known positives among the samples (for several labels: of all labels); None for classes."""
        return None if self.kind == "multiclass" else int(self.y[rows][self.known[rows]].sum())

    def scores(self, rows: np.ndarray, weights: np.ndarray) -> dict[str, np.ndarray]:
        """(S, R + 1) by metric."""
        parts = [
            resampled(
                self.metrics,
                self.kind,
                self.classes,
                self.y[rows],
                self.known[rows],
                probability[rows],
                self.patient[rows],
                weights,
            )
            for probability in self.probability
        ]
        return {metric: np.stack([part[metric] for part in parts]) for metric in self.metrics}


@dataclass(frozen=True)
class GroupScore:
    """One metric in one group.

    Attributes:
        samples, positives: of the group (see `Scored.positives`). score: None if it is too small.
        gap: score of the group minus that of all others; None if one of them is too small or undefined.
        reason: why there is no score or no gap, or which labels make a gap of a macro average, else empty.
    """

    group: str
    metric: str
    samples: int
    positives: int | None
    score: Estimate | None
    gap: Estimate | None
    reason: str


def by_group(
    scored: Scored,
    groups: np.ndarray,
    weights: np.ndarray,
    least_samples: int = LEAST_SAMPLES,
    least_events: int = LEAST_EVENTS,
) -> Iterator[GroupScore]:
    """All groups and metrics; a single group that holds everybody is no group.

    Args:
        groups: (n,) name of each sample's group. weights: (P, R + 1).
    """
    names = np.unique(groups)
    if len(names) < 2:
        return
    for name in names:
        inside = groups == name
        counts = int(inside.sum()), scored.positives(inside)
        fault = _too_small(scored, inside, least_samples, least_events)
        if fault:
            yield from (GroupScore(str(name), metric, *counts, None, None, fault) for metric in scored.metrics)
            continue
        own = scored.scores(inside, weights)
        fault = _too_small(scored, ~inside, least_samples, least_events)
        rest = None if fault else scored.scores(~inside, weights)
        for metric in scored.metrics:
            gap = None if rest is None else difference(own[metric], rest[metric])
            reason = f"the others are too few: {fault}" if fault else _one_sided(scored, metric, inside)
            yield GroupScore(str(name), metric, *counts, score(own[metric]), gap, reason)


def _one_sided(scored: Scored, metric: str, inside: np.ndarray) -> str:
    """Which labels are of one class in the group or among the others, but not in both; empty if none is.

    A macro average counts such a label as 0.5, or not at all, on one side only, which makes a gap by itself.
    """
    if scored.kind != "multilabel" or not metric.startswith("macro"):
        return ""
    own, rest = (_defined(scored, rows) for rows in (inside, ~inside))
    names = [name for name, one, other in zip(scored.classes, own, rest, strict=True) if one != other]
    names = [name for name in names if name != WITHOUT.get(metric)]
    return f"label{'s' * (len(names) > 1)} of one class here or among the others: {', '.join(names)}" if names else ""


def _defined(scored: Scored, rows: np.ndarray) -> np.ndarray:
    """Whether each label has a known positive and a known negative among the samples, (C,)."""
    y, known = scored.y[rows] > 0, scored.known[rows]
    return (known & y).any(0) & (known & ~y).any(0)


def _too_small(scored: Scored, rows: np.ndarray, least_samples: int, least_events: int) -> str:
    """Why these samples are not scored; empty if they are."""
    count = int(rows.sum())
    if count < least_samples:
        return f"{count} samples, fewer than {least_samples}"
    if scored.kind == "binary":
        known = scored.known[rows, 0]
        positives = int(scored.y[rows, 0][known].sum())
        for what, number in (("positives", positives), ("negatives", int(known.sum()) - positives)):
            if number < least_events:
                return f"{number} {what}, fewer than {least_events}"
    return ""
