"""Do events come as often as predictions say? Reliability curves, Brier score and expected calibration error (ECE).

A forecast is a said probability of an event that came or did not: the outcome of a binary task, each label of a
multilabel task on its known entries, and of a multiclass task that the class of highest probability is the true one.

Bins are laid out once a run, on the data as they are, and stay while patients are resampled. A probability on the edge
of two bins counts in the lower one. ECE is the mean distance between said and observed frequency of a bin, weighted by
its forecasts. It is never negative, so that chance alone makes it positive, the more so the fewer the forecasts; what a
perfectly calibrated model of the same predictions would be expected to get is stated beside it.

Legend: n forecasts, B bins, S seeds, R resamples of patients (column 0: the data as they are), P patients.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_matrix

from benchmark.evaluation.comparison import LEVEL, Estimate, over_seeds, score, seed_counts

BINS = 10

EQUAL_WIDTH, EQUAL_MASS = "equal width", "equal mass"
METHODS = (EQUAL_WIDTH, EQUAL_MASS)
"""Bins of the same width on [0, 1], or of the same number of forecasts (tied forecasts share a bin)."""

TOP_CLASS = "top class"
ALL_LABELS = "mean over labels"


@dataclass(frozen=True)
class Forecasts:
    """What one run said of one event, and whether it came.

    Attributes:
        name: of the label, "top class" for classes, "" for a binary outcome.
        came: (n,) 0/1. said: (n,) probability. patient: (n,) row of the weights.
    """

    name: str
    came: np.ndarray
    said: np.ndarray
    patient: np.ndarray


def forecasts(
    kind: str, classes: Sequence[str], y: np.ndarray, known: np.ndarray, probability: np.ndarray, patient: np.ndarray
) -> list[Forecasts]:
    """The forecasts of a run on a task; labels without a known entry have none.

    Args:
        kind, classes, y, known, probability: as for `benchmark.evaluation.metrics.compute`.
        patient: (n,) row of the weights of each sample.
    """
    if kind == "multiclass":
        right = (np.where(known, y, -1) == probability.argmax(1)).astype(float)
        return [Forecasts(TOP_CLASS, right, probability.max(1), patient)]
    names = ("",) if kind == "binary" else classes
    return [
        Forecasts(name, y[rows, c], probability[rows, c], patient[rows])
        for c, name in enumerate(names)
        if (rows := known[:, c]).any()
    ]


@dataclass(frozen=True)
class Bin:
    """One point of a reliability curve, pooled over seeds.

    Attributes:
        low, high: its edges, mean over seeds. forecasts: mean number a seed. said: mean said probability.
        observed: how often the event came.
    """

    low: float
    high: float
    forecasts: float
    said: float
    observed: Estimate


@dataclass(frozen=True)
class Calibration:
    """How well the forecasts of one event are calibrated, over seeds.

    Attributes:
        name: of the event. forecasts, events: number of them and of those that came, mean over seeds.
        brier: (S, R + 1). constant: Brier score of always saying the observed frequency, mean over seeds.
        ece: (S, R + 1) by method. by_chance: the ECE that perfect calibration would be expected to get, by method.
        curve: the bins that hold a forecast, by method.
    """

    name: str
    forecasts: float
    events: float
    brier: np.ndarray
    constant: float
    ece: dict[str, np.ndarray]
    by_chance: dict[str, float]
    curve: dict[str, list[Bin]]

    @property
    def brier_estimate(self) -> Estimate:
        return score(self.brier)

    def ece_estimate(self, method: str) -> Estimate:
        """ECE with an interval that shows its spread, laid around the value: resampling inflates ECE."""
        return _centred(self.ece[method])


def calibration(seeds: Sequence[Forecasts], weights: np.ndarray, bins: int = BINS) -> Calibration:
    """Calibration of one event.

    Args:
        seeds: of each seed's run. weights: (P, R + 1), from `benchmark.evaluation.resampling.patient_weights`.
    """
    if not seeds or bins < 1:
        raise ValueError(f"{len(seeds)} seeds and {bins} bins; both must be at least 1")
    weights = weights.astype(np.float64)
    ece, by_chance, curve = {}, {}, {}
    for method in METHODS:
        edges = [bin_edges(one.said, method, bins) for one in seeds]
        sums = [_sums(one, edge, weights) for one, edge in zip(seeds, edges, strict=True)]
        ece[method] = np.stack([_ece(each) for each in sums])
        by_chance[method] = float(np.mean([_by_chance(*pair) for pair in zip(seeds, edges, strict=True)]))
        curve[method] = _curve(np.stack(sums), np.mean(edges, axis=0))
    frequency = np.array([one.came.mean() for one in seeds])
    return Calibration(
        seeds[0].name,
        float(np.mean([len(one.said) for one in seeds])),
        float(np.mean([one.came.sum() for one in seeds])),
        np.stack([_brier(one, weights) for one in seeds]),
        float((frequency * (1 - frequency)).mean()),
        ece,
        by_chance,
        curve,
    )


def mean_over_labels(parts: Sequence[Calibration]) -> Calibration:
    """The plain mean over labels; it has no curve."""
    return Calibration(
        ALL_LABELS,
        float(np.mean([part.forecasts for part in parts])),
        float(np.mean([part.events for part in parts])),
        np.mean([part.brier for part in parts], axis=0),
        float(np.mean([part.constant for part in parts])),
        {method: np.mean([part.ece[method] for part in parts], axis=0) for method in METHODS},
        {method: float(np.mean([part.by_chance[method] for part in parts])) for method in METHODS},
        {},
    )


def bin_edges(said: np.ndarray, method: str, bins: int = BINS) -> np.ndarray:
    """Edges of the bins, (B + 1,).

    >>> bin_edges(np.array([0.1, 0.1, 0.2, 0.9]), EQUAL_MASS, 2).round(2).tolist()
    [0.1, 0.15, 0.9]
    """
    if method not in METHODS:
        raise ValueError(f"bins of {method!r}; allowed are {', '.join(METHODS)}")
    even = np.linspace(0, 1, bins + 1)
    return even if method == EQUAL_WIDTH else np.quantile(said, even)


def _numbers(said: np.ndarray, edges: np.ndarray) -> np.ndarray:
    return np.searchsorted(edges[1:-1], said, side="left")


def _sums(one: Forecasts, edges: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted number, said probability and events of each bin, (3, B, R + 1)."""
    number, bins = _numbers(one.said, edges), len(edges) - 1
    values = np.concatenate([np.ones(len(number)), one.said, one.came])
    rows = np.concatenate([number, number + bins, number + 2 * bins])
    matrix = csr_matrix((values, (rows, np.tile(one.patient, 3))), shape=(3 * bins, len(weights)))
    return (matrix @ weights).reshape(3, bins, -1)


def _ece(sums: np.ndarray) -> np.ndarray:
    """(R + 1,); NaN where nothing was drawn."""
    count, said, came = sums
    total = count.sum(0)
    return np.abs(said - came).sum(0) / np.where(total > 0, total, np.nan)


def _by_chance(one: Forecasts, edges: np.ndarray) -> float:
    """Expected ECE if every event came with the said probability, each independent: that of normal sums."""
    variance = np.bincount(_numbers(one.said, edges), one.said * (1 - one.said))
    return float(np.sqrt(2 / np.pi * variance).sum() / len(one.said))


def _brier(one: Forecasts, weights: np.ndarray) -> np.ndarray:
    """(R + 1,); NaN where nothing was drawn."""
    values = np.concatenate([np.ones(len(one.said)), (one.said - one.came) ** 2])
    rows = np.repeat([0, 1], len(one.said))
    count, squares = csr_matrix((values, (rows, np.tile(one.patient, 2))), shape=(2, len(weights))) @ weights
    return squares / np.where(count > 0, count, np.nan)


def _curve(sums: np.ndarray, edges: np.ndarray) -> list[Bin]:
    """Bins from the sums (S, 3, B, R + 1) of all seeds, which resamples weigh as they weigh seeds."""
    pooled = np.einsum("scbr,sr->cbr", sums, seed_counts(len(sums), sums.shape[-1] - 1))
    found = []
    for number, (count, said, came) in enumerate(pooled.transpose(1, 0, 2)):
        if count[0] > 0:
            observed = came / np.where(count > 0, count, np.nan)
            low, high, defined = _quantiles(observed[1:])
            estimate = Estimate(float(observed[0]), low, high, defined=defined)
            edge = float(edges[number]), float(edges[number + 1])
            found.append(Bin(*edge, float(count[0]), float(said[0] / count[0]), estimate))
    return found


def _quantiles(values: np.ndarray) -> tuple[float, float, float]:
    finite = values[np.isfinite(values)]
    if not len(finite):
        return float("nan"), float("nan"), 0.0
    low, high = np.quantile(finite, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high), len(finite) / len(values)


def _centred(values: np.ndarray) -> Estimate:
    drawn = over_seeds(values)
    low, high, defined = _quantiles(drawn[1:])
    value, shift = float(drawn[0]), float(drawn[0]) - float(np.nanmean(drawn[1:])) if defined else float("nan")
    return Estimate(value, max(low + shift, 0.0), high + shift, defined=defined)
