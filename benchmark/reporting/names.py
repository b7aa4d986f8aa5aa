"""Printed names of metrics."""

from __future__ import annotations

_TITLES = {
    "auroc": "AUROC",
    "auprc": "AUPRC",
    "average_precision": "AP",
    "macro_auroc": "maAUROC",
    "micro_auroc": "miAUROC",
    "macro_average_precision": "maAP",
    "macro_auroc_13": "maAUROC without No Finding",
    "macro_f1": "maF1",
    "micro_f1": "miF1",
    "macro_f1_all_classes": "maF1 over all classes",
}


def metric_title(name: str) -> str:
    """A metric's printed name; its own name where none is set.

    >>> metric_title("macro_auroc"), metric_title("brier")
    ('maAUROC', 'brier')
    """
    return _TITLES.get(name, name)
