"""Metrics, computed on arrays of a whole partition and never averaged over batches.

A metric that the data cannot define is NaN, except inside the macro average over labels, where a label of one class
counts 0.5 as in the published evaluation.

Legend: n samples, C classes or labels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

UNDEFINED_LABEL = 0.5
"""What a label with one class only contributes to a macro AUROC."""


def auroc(y: np.ndarray, score: np.ndarray) -> float:
    """Area under the ROC curve as a rank statistic, ties counted half; NaN if y (n,) has one class only.

    >>> auroc(np.array([0, 1, 1]), np.array([0.1, 0.1, 0.9]))
    0.75
    """
    positives = int(np.count_nonzero(y))
    negatives = len(y) - positives
    if not positives or not negatives:
        return float("nan")
    rank_sum = pd.Series(score).rank().to_numpy()[y.astype(bool)].sum()
    return float((rank_sum - positives * (positives + 1) / 2) / (positives * negatives))


def auprc(y: np.ndarray, score: np.ndarray) -> float:
    """Area under the precision-recall curve by the trapezoidal rule; NaN without positives.

    The rule of the published evaluation; it is optimistic, `average_precision` is the safer number.
    """
    if not np.count_nonzero(y):
        return float("nan")
    precision, recall = _precision_recall(y, score)
    return float(np.trapezoid(np.r_[1.0, precision], np.r_[0.0, recall]))


def average_precision(y: np.ndarray, score: np.ndarray) -> float:
    """Average precision, the sum over distinct scores of precision times the recall gained; NaN without positives."""
    if not np.count_nonzero(y):
        return float("nan")
    precision, recall = _precision_recall(y, score)
    return float((precision * np.diff(recall, prepend=0.0)).sum())


def _precision_recall(y: np.ndarray, score: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Precision and recall when all from a score on are called positive, highest score first."""
    order = np.argsort(-score, kind="stable")
    hits = np.cumsum(y[order].astype(np.float64))
    last = np.r_[np.flatnonzero(np.diff(score[order])), len(score) - 1]  # of the samples that share a score
    return hits[last] / (last + 1), hits[last] / hits[-1]


def macro_auroc(y: np.ndarray, score: np.ndarray, known: np.ndarray) -> float:
    """Mean over labels of each label's AUROC on its known entries; arrays (n, C). An undefined label counts 0.5."""
    values = np.array([auroc(y[known[:, c], c], score[known[:, c], c]) for c in range(y.shape[1])])
    return float(np.where(np.isnan(values), UNDEFINED_LABEL, values).mean())


def micro_auroc(y: np.ndarray, score: np.ndarray, known: np.ndarray) -> float:
    """One AUROC over all known (sample, label) entries pooled; 0.5 if undefined."""
    value = auroc(y[known], score[known])
    return UNDEFINED_LABEL if np.isnan(value) else value


def macro_average_precision(y: np.ndarray, score: np.ndarray, known: np.ndarray) -> float:
    """Mean average precision over the labels that have a positive and a negative; NaN if none has."""
    values = [
        average_precision(y[known[:, c], c], score[known[:, c], c])
        for c in range(y.shape[1])
        if len(np.unique(y[known[:, c], c])) == 2
    ]
    return float(np.mean(values)) if values else float("nan")


def _confusion(y: np.ndarray, predicted: np.ndarray, classes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """True positives, times predicted, times true, each (C,); a true class of -1 is always an error."""
    hits = np.bincount(y[y == predicted], minlength=classes)
    return hits, np.bincount(predicted, minlength=classes), np.bincount(y[y >= 0], minlength=classes)


def _f1(y: np.ndarray, predicted: np.ndarray, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """F1 of each class (0 where undefined) and whether the class occurs in truth or prediction, each (C,)."""
    hits, called, true = _confusion(y, predicted, classes)
    occurs = called + true > 0
    return 2.0 * hits / np.maximum(called + true, 1), occurs


def macro_f1(y: np.ndarray, probability: np.ndarray) -> float:
    """Mean F1 over the classes that occur in truth or prediction; y (n,), probability (n, C).

    A true class that training never saw (-1) is a wrong prediction of another class and no class of its own.
    """
    values, occurs = _f1(y, probability.argmax(1), probability.shape[1])
    return float(values[occurs].mean()) if occurs.any() else float("nan")


def macro_f1_all_classes(y: np.ndarray, probability: np.ndarray) -> float:
    """Mean F1 over all C classes, those that never occur counting 0."""
    return float(_f1(y, probability.argmax(1), probability.shape[1])[0].mean()) if len(y) else float("nan")


def micro_f1(y: np.ndarray, probability: np.ndarray) -> float:
    """Share of right predictions."""
    return float((y == probability.argmax(1)).mean()) if len(y) else float("nan")


BINARY: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "auroc": auroc,
    "auprc": auprc,
    "average_precision": average_precision,
}
MULTICLASS = {"macro_f1": macro_f1, "micro_f1": micro_f1, "macro_f1_all_classes": macro_f1_all_classes}
MULTILABEL = {
    "macro_auroc": macro_auroc,
    "micro_auroc": micro_auroc,
    "macro_average_precision": macro_average_precision,
}
WITHOUT = {"macro_auroc_13": "No Finding"}
"""Macro AUROC without one label: "No Finding" is never labelled 0, so that its AUROC does not exist."""


def compute(
    names: Sequence[str], kind: str, classes: Sequence[str], y: np.ndarray, known: np.ndarray, probability: np.ndarray
) -> dict[str, float]:
    """The named metrics.

    Args:
        names: metrics that suit `kind` ("binary", "multilabel", "multiclass"). classes: names of the C classes or
        labels.
        y: (n, C) 0/1, or (n,) class index, of which -1 is a class that training never saw.
        known: (n, C) or (n,), False where masked; a masked class index counts as an error.
        probability: (n, C).

    Raises:
        ValueError: a name that does not suit the kind, or a probability that is not finite: a label of such would pass
            for one without negatives and count 0.5.
    """
    if broken := int(np.count_nonzero(~np.isfinite(probability))):
        raise ValueError(f"{broken} of {probability.size} probabilities of a {kind} task are not finite")
    results = {}
    for name in names:
        if kind == "binary" and name in BINARY:
            rows = known[:, 0]
            results[name] = BINARY[name](y[rows, 0], probability[rows, 0])
        elif kind == "multiclass" and name in MULTICLASS:
            results[name] = MULTICLASS[name](np.where(known, y, -1), probability)
        elif kind == "multilabel" and name in MULTILABEL:
            results[name] = MULTILABEL[name](y, probability, known)
        elif kind == "multilabel" and name in WITHOUT:
            keep = [c for c, label in enumerate(classes) if label != WITHOUT[name]]
            results[name] = macro_auroc(y[:, keep], probability[:, keep], known[:, keep])
        else:
            raise ValueError(f"metric {name!r} does not suit a {kind} task")
    return results
