"""How names of metrics and figures are printed."""

from __future__ import annotations

import math
import re

from benchmark.tasks import TASKS

DIGITS = 4
"""Printed decimals of a mean; means that print alike rank alike."""

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


def task_title(name: str, label_fraction: float = 1.0) -> str:
    """A task's printed name, with the share of the labels where it is not all of them.

    >>> task_title("drg"), task_title("drg", 0.01)
    ('DRG', 'DRG, 1% labels')
    """
    title = TASKS[name].title
    return title if label_fraction == 1 else f"{title}, {100 * label_fraction:g}% labels"


def p_value(value: float | None) -> str:
    """A p value as it is printed: never 0.

    >>> p_value(0.0312), p_value(0.00002), p_value(None)
    ('0.031', '<0.001', 'n.a.')
    """
    if value is None or math.isnan(value):
        return "n.a."
    return f"{value:.3f}" if value >= 0.001 else "<0.001"


def number(value: float | None, digits: int = DIGITS, sign: bool = False) -> str:
    """A figure as the paper prints it, without the zero before the point.

    >>> number(0.88234), number(1.0), number(-0.0024, sign=True), number(0.0031, sign=True), number(None)
    ('.8823', '1.0000', '-.0024', '+.0031', 'n.a.')
    """
    if value is None or math.isnan(value):
        return "n.a."
    value = 0.0 if abs(value) < 0.5 * 10**-digits else value  # no negative zero
    return re.sub(r"^([+-]?)0\.", r"\1.", f"{value:{'+' if sign else ''}.{digits}f}")
