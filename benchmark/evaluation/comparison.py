"""Is one model better than another? Intervals and tests from resampled scores of the same patients and seeds.

Resampling patients says how much a score depends on who was in the test set, resampling seeds how much it depends on
the training run. Both models of a comparison get the same patients and the same seeds each time, so that what they
share cancels. With five seeds a rank test over seeds cannot reach p < 0.05 (the least two-sided p of the exact Wilcoxon
test is 0.0625), so there is none here.

Legend: S seeds, R resamples; column 0 of every array of resamples is the data as they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri, stdtr, stdtrit

from benchmark.random import stream

LEVEL = 0.95
"""Of all intervals."""

ROUNDING = 1e-7
"""Differences of scores below this are none."""


@dataclass(frozen=True)
class Estimate:
    """A score or a difference of scores.

    Attributes:
        value: on the data as they are, mean over seeds. low, high: ends of the interval.
        p: two-sided, of a difference being zero; None for a score. defined: share of resamples that define it.
    """

    value: float
    low: float
    high: float
    p: float | None = None
    defined: float = 1.0


def seed_counts(seeds: int, resamples: int) -> np.ndarray:
    """How often each seed counts in each resample, (S, R + 1), columns sum to 1; in the first all count alike.

    One seed less is drawn than there are: drawing all S would make the spread of a mean too small by a factor of
    (S - 1) / S, which is much for five seeds.
    """
    count = max(1, seeds - 1)
    drawn = stream(0, "seeds", seeds).multinomial(count, np.full(seeds, 1 / seeds), size=resamples).T
    return np.concatenate([np.full((seeds, 1), 1 / seeds), drawn / count], axis=1)


def over_seeds(scores: np.ndarray) -> np.ndarray:
    """Mean over resampled seeds of scores (S, R + 1), (R + 1,)."""
    return (scores * seed_counts(len(scores), scores.shape[1] - 1)).sum(0)


def score(scores: np.ndarray) -> Estimate:
    """A model's score, between 0 and 1, with its interval; `scores` (S, R + 1)."""
    values = over_seeds(scores)
    low, high, defined = _interval(values)
    return Estimate(float(values[0]), max(low, 0.0), min(high, 1.0), defined=defined)


def difference(first: np.ndarray, second: np.ndarray) -> Estimate:
    """By how much the first model is better, from scores (S, R + 1) of the same seeds, patients and resamples.

    Interval and p are those of a t test with the standard deviation of the resampled differences, so that the interval
    holds 0 where p is 0.05 or more. Counting resamples beyond zero instead could not give a p below 2 / R, too coarse
    for dozens of comparisons, and percentiles of two seeds' few combinations mean little. The degrees of freedom are
    those of Satterthwaite: S - 1 for the part of the variance that comes from seeds, many for that from patients.
    """
    if first.shape != second.shape:
        raise ValueError(f"scores of shape {first.shape} and {second.shape}; a paired comparison needs equal shapes")
    values, by_seed = over_seeds(first - second), first[:, 0] - second[:, 0]
    value, drawn = float(values[0]), values[1:][np.isfinite(values[1:])]
    defined = len(drawn) / (len(values) - 1)
    if len(drawn) < 2 or not np.isfinite(value):
        return Estimate(value, float("nan"), float("nan"), float("nan"), defined)
    variance, seeds = float(drawn.var(ddof=1)), len(by_seed)
    if variance < ROUNDING**2:  # as of a single patient and seed: chance did not show, which is no certainty
        return Estimate(value, value, value, 1.0 if abs(value) < ROUNDING else float("nan"), defined)
    of_seeds = float(by_seed.var(ddof=1)) / seeds if seeds > 1 else 0.0
    freedom = max((variance / of_seeds) ** 2 * (seeds - 1), 1.0) if of_seeds > 0 else np.inf
    reach = float(_quantile(freedom) * np.sqrt(variance))
    p = float(2 * stdtr(freedom, -abs(value) / np.sqrt(variance)))
    return Estimate(value, max(value - reach, -1.0), min(value + reach, 1.0), p, defined)


def _quantile(freedom: float) -> float:
    """Of Student's t distribution, or the normal one for infinite freedom, at the upper end of an interval."""
    share = (1 + LEVEL) / 2
    return float(stdtrit(freedom, share) if np.isfinite(freedom) else ndtri(share))


def _interval(values: np.ndarray) -> tuple[float, float, float]:
    """Interval around the first value from the spread of the others, (R + 1,), and the share of those that are finite.

    The percentiles are shifted so that the resamples' mean falls on the value: resamples miss rare classes, which moves
    macro F1 as a whole and says nothing of the model.
    """
    drawn = values[1:][np.isfinite(values[1:])]
    if not len(drawn) or not np.isfinite(values[0]):
        return float("nan"), float("nan"), 0.0
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]) + values[0] - drawn.mean()
    return float(low), float(high), len(drawn) / (len(values) - 1)


def holm(p_values: Sequence[float]) -> list[float]:
    """p values adjusted for all comparisons together by Holm's step-down rule; NaN stays NaN and does not count.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    values = np.array(p_values, dtype=float)
    order = [index for index in np.argsort(values, kind="stable") if not np.isnan(values[index])]
    adjusted, least = np.full(len(values), np.nan), 0.0
    for place, index in enumerate(order):
        least = max(least, min(1.0, (len(order) - place) * values[index]))
        adjusted[index] = least
    return adjusted.tolist()


@dataclass(frozen=True)
class Ranking:
    """Mean ranks over tasks, best first. With few tasks this describes; it does not decide.

    Attributes:
        ranks: mean rank by model (1 is best). tasks: number of tasks. p: of the Friedman test that all models are
            alike. critical: mean ranks closer than this are not told apart by the Nemenyi test.
    """

    ranks: Mapping[str, float]
    tasks: int
    p: float
    critical: float


def ranking(scores: Mapping[str, Sequence[float]]) -> Ranking:
    """Friedman test and Nemenyi's critical difference over tasks.

    Args:
        scores: by model, one score a task, tasks in the same order; larger is better.

    Raises:
        ValueError: fewer than three models or two tasks, or a score that is not finite.
    """
    from scipy import stats  # two seconds, for rankings alone

    names = list(scores)
    table = np.array([scores[name] for name in names], dtype=float)  # (models, tasks)
    if table.ndim != 2 or table.shape[0] < 3 or table.shape[1] < 2:
        raise ValueError(f"scores of shape {table.shape}; three models and two tasks at least are needed")
    if not np.isfinite(table).all():
        raise ValueError("a score is not finite; leave the task or the model out")
    models, tasks = table.shape
    ranks = stats.rankdata(-table, axis=0).mean(1)
    p = float(stats.friedmanchisquare(*table).pvalue) if np.ptp(table, axis=0).any() else 1.0
    quantile = stats.studentized_range.ppf(LEVEL, models, np.inf) / np.sqrt(2)
    critical = float(quantile * np.sqrt(models * (models + 1) / (6 * tasks)))
    ordered = sorted(zip(names, ranks.tolist(), strict=True), key=lambda pair: pair[1])
    return Ranking(dict(ordered), tasks, p, critical)
