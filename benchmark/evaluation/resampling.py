"""Metrics of many resamples at once: samples are sorted once and only their weights change.

Resampling patients with replacement gives each patient a whole-number weight, the times it was drawn, which all of its
samples share. Every metric here equals that of `benchmark.evaluation.metrics` on the data with each sample repeated as
often as its patient was drawn.

Legend: n samples, P patients, R resamples, C classes or labels, G groups of sorted samples.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from scipy.sparse import csr_matrix

from benchmark.evaluation.metrics import UNDEFINED_LABEL, WITHOUT
from benchmark.random import stream

BLOCK, AT_A_TIME = 16, 64
"""Groups of samples, and resamples, that are summed at a time: as much as stays in a processor's cache."""

_LOWER = np.tril(np.ones((BLOCK, BLOCK), dtype=np.float32))


def patient_weights(patients: int, resamples: int, seed: int = 0) -> np.ndarray:
    """How often each patient is drawn, (P, R) float32; the first column is the data itself: every patient once."""
    if patients < 1 or resamples < 1:
        raise ValueError(f"{patients} patients and {resamples} resamples; both must be at least 1")
    generator = stream(seed, "bootstrap", patients)
    weights = np.empty((patients, resamples + 1), dtype=np.float32)
    weights[:, 0] = 1
    for column in range(1, resamples + 1):
        drawn = generator.integers(0, patients, patients)
        weights[:, column] = np.bincount(drawn, minlength=patients)
    return weights


class _Sums:
    """Weighted sums over groups of samples: a sparse matrix that counts each patient's samples in each group."""

    def __init__(self, group: np.ndarray, patient: np.ndarray, groups: int, patients: int) -> None:
        ones = np.ones(len(group), dtype=np.float32)
        self.matrix = csr_matrix((ones, (group, patient)), shape=(groups, patients))

    def __call__(self, weights: np.ndarray) -> np.ndarray:
        """(G, R) float32; whole numbers, exact below 2^24."""
        return self.matrix @ weights


def _running(values: np.ndarray) -> np.ndarray:
    """Cumulative sums over the first axis of (blocks, BLOCK, R), as one axis; several times faster than `cumsum`."""
    within = np.matmul(_LOWER, values)
    before = within[:-1, -1].cumsum(0)
    within[1:] += before[:, None]
    return within


def _total(products: np.ndarray) -> np.ndarray:
    """Sum of (blocks, BLOCK, R) over the first two axes, (R,) float64."""
    return products.sum(1).sum(0, dtype=np.float64)


def _by_score(positive: np.ndarray, score: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """Samples in falling order of their scores and the group of each, counted from 0.

    Samples of equal score share a group; successive scores that only negatives have share one too, which changes
    neither curve: between two scores with a positive the order of negatives does not matter.
    """
    order = np.argsort(-score, kind="stable")
    ranked = score[order]
    tie = np.r_[0, np.cumsum(ranked[1:] != ranked[:-1])] if len(ranked) else np.zeros(0, dtype=np.int64)
    ties = int(tie[-1]) + 1 if len(tie) else 0
    holds_positive = np.bincount(tie, weights=positive[order], minlength=ties) > 0
    begins = holds_positive.copy()
    begins[1:] |= holds_positive[:-1]
    begins[:1] = True
    return order, (np.cumsum(begins) - 1)[tie], int(begins.sum())


def _curve(
    positive: np.ndarray, score: np.ndarray, patient: np.ndarray, weights: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Weight of positives and of negatives in each group of falling score, for some resamples at a time.

    Yields:
        Two arrays (blocks, BLOCK, r); groups that fill up the last block weigh nothing.
    """
    order, group, groups = _by_score(positive, score)
    hit = positive[order].astype(bool)
    owner = patient[order]
    blocks = -(-groups // BLOCK)
    kinds = [_Sums(group[chosen], owner[chosen], blocks * BLOCK, len(weights)) for chosen in (hit, ~hit)]
    for start in range(0, weights.shape[1], AT_A_TIME):
        part = np.ascontiguousarray(weights[:, start : start + AT_A_TIME])
        positives, negatives = (sums(part).reshape(blocks, BLOCK, part.shape[1]) for sums in kinds)
        yield positives, negatives


AREAS = ("auroc", "auprc", "average_precision")
"""AUROC, and the area under the precision-recall curve by trapezoids and by steps."""


def areas(
    names: Sequence[str], positive: np.ndarray, score: np.ndarray, patient: np.ndarray, weights: np.ndarray
) -> dict[str, np.ndarray]:
    """The named areas of each resample, (R,) by name.

    AUROC is NaN where one class was not drawn, the others where no positive was.

    Args:
        names: some of `AREAS`. positive: (n,) 0/1. score: (n,). patient: (n,) row of `weights`. weights: (P, R).
    """
    found: dict[str, list[np.ndarray]] = {name: [] for name in names}
    for positives, negatives in _curve(positive, score, patient, weights):
        total, above = _total(positives), _running(negatives)
        if "auroc" in found:
            pairs = total * _total(negatives)
            # A positive loses to the negatives above it, and half to those beside it.
            lost = _total(positives * (above - negatives / 2))
            found["auroc"].append(1 - lost / np.where(pairs > 0, pairs, np.nan))
        if len(found) == ("auroc" in found):
            continue
        hits = _running(positives)
        called = hits + above
        precision = np.where(called > 0, hits / np.maximum(called, 1), np.float32(1))  # 1 while nothing was drawn
        total = np.where(total > 0, total, np.nan)
        if "average_precision" in found:
            found["average_precision"].append(_total(positives * precision) / total)
        if "auprc" in found:
            before = np.concatenate([np.ones_like(precision[:1, 0]), precision.reshape(-1, len(total))[:-1]])
            between = (precision + before.reshape(precision.shape)) / 2
            found["auprc"].append(_total(positives * between) / total)
    return {name: np.concatenate(parts) for name, parts in found.items()}


def _by_label(
    names: Sequence[str], y: np.ndarray, score: np.ndarray, known: np.ndarray, patient: np.ndarray, weights: np.ndarray
) -> dict[str, np.ndarray]:
    """The named areas for each label, (C, R) by name."""
    labels = [
        areas(names, y[rows, c], score[rows, c], patient[rows], weights) for c, rows in enumerate(known.T.astype(bool))
    ]
    return {name: np.stack([label[name] for label in labels]) for name in names}


def _macro_auroc(areas: np.ndarray) -> np.ndarray:
    return np.where(np.isnan(areas), UNDEFINED_LABEL, areas).mean(0)


def _micro_auroc(
    y: np.ndarray, score: np.ndarray, known: np.ndarray, patient: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    owner = np.broadcast_to(patient[:, None], known.shape)[known]
    area = areas(["auroc"], y[known], score[known], owner, weights)["auroc"]
    return np.where(np.isnan(area), UNDEFINED_LABEL, area)


def _macro_average_precision(
    areas: np.ndarray, y: np.ndarray, known: np.ndarray, patient: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    """Mean over the labels of which the resample drew both a positive and a negative."""
    negatives = np.stack(
        [
            _Sums(np.zeros(chosen.sum(), int), patient[chosen], 1, len(weights))(weights)[0]
            for chosen in (known[:, c] & (y[:, c] == 0) for c in range(y.shape[1]))
        ]
    )
    defined = ~np.isnan(areas) & (negatives > 0)
    count = defined.sum(0)
    with np.errstate(invalid="ignore"):
        return np.where(count > 0, np.where(defined, areas, 0.0).sum(0) / np.maximum(count, 1), np.nan)


def _f1(names: Sequence[str], y: np.ndarray, probability: np.ndarray, patient: np.ndarray, weights: np.ndarray) -> dict:
    """The F1 scores of each resample; a true class of -1 is always an error."""
    predicted, classes, patients = probability.argmax(1), probability.shape[1], len(weights)
    right, seen = y == predicted, y >= 0
    hits = _Sums(predicted[right], patient[right], classes, patients)(weights)
    called = _Sums(predicted, patient, classes, patients)(weights)
    true = _Sums(y[seen], patient[seen], classes, patients)(weights)
    occurs = called + true > 0
    values = 2 * hits / np.where(occurs, called + true, 1)  # (C, R)
    total = called.sum(0)
    results = {
        "macro_f1": values.sum(0) / np.maximum(occurs.sum(0), 1),
        "macro_f1_all_classes": values.mean(0),
        "micro_f1": hits.sum(0) / np.where(total > 0, total, np.nan),
    }
    return {name: np.where(total > 0, results[name], np.nan) for name in names}


def resampled(
    names: Sequence[str],
    kind: str,
    classes: Sequence[str],
    y: np.ndarray,
    known: np.ndarray,
    probability: np.ndarray,
    patient: np.ndarray,
    weights: np.ndarray,
) -> dict[str, np.ndarray]:
    """The named metrics of each resample, (R,) by name.

    Args:
        names, kind, classes, y, known, probability: as for `benchmark.evaluation.metrics.compute`.
        patient: (n,) row of `weights` of each sample. weights: (P, R), from `patient_weights`.
    """
    if kind == "multiclass":
        return _f1(names, np.where(known, y, -1), probability, patient, weights)
    if kind == "binary":
        rows = known[:, 0]
        return areas(names, y[rows, 0], probability[rows, 0], patient[rows], weights)
    wanted = ["auroc", "average_precision"] if "macro_average_precision" in names else ["auroc"]
    by_label = _by_label(wanted, y, probability, known, patient, weights)
    results = {}
    for name in names:
        if name == "macro_auroc":
            results[name] = _macro_auroc(by_label["auroc"])
        elif name in WITHOUT:
            results[name] = _macro_auroc(by_label["auroc"][[label != WITHOUT[name] for label in classes]])
        elif name == "micro_auroc":
            results[name] = _micro_auroc(y, probability, known, patient, weights)
        elif name == "macro_average_precision":
            results[name] = _macro_average_precision(by_label["average_precision"], y, known, patient, weights)
        else:
            raise ValueError(f"metric {name!r} does not suit a {kind} task")
    return results
