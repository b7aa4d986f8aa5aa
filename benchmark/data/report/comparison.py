"""The tasks beside Table 2 of the paper, with the differences."""

from __future__ import annotations

from typing import Any

from benchmark.data.report.blocks import Block, Figure, Table
from benchmark.data.split import SPLITS
from benchmark.tasks import TASKS

TOLERANCE = 0.5
"""Percent of the paper's samples, and points of a missing rate, within which counts are reproduced."""

PAPER_RELEASE, PAPER_PROFILE = "2.0", "ref"

_SHORT = {"ehr": "no series", "cxr": "no film", "note": "no note"}

_RATES = ["%", "paper %", "points"]


def comparable(report: dict[str, Any]) -> bool:
    """Whether the paper's counts should come out: its release of MIMIC-IV, whole, under the rules of its pipeline."""
    return report["source"]["release"] == PAPER_RELEASE and report["profile"] == PAPER_PROFILE


def compared(report: dict[str, Any]) -> list[Block]:
    """Samples and missing rates of each task, the paper's, and the difference."""
    judged, counts, rates = comparable(report), [], []
    for task, facts in report["tasks"].items():
        title, paper = TASKS[task].title, facts["published"]
        difference = facts["samples"] - paper["samples"]
        percent = 100 * difference / paper["samples"]
        row = [title, f"{facts['samples']:,}", f"{paper['samples']:,}", f"{difference:+,}", f"{percent:+.1f}"]
        row += [f"{facts['split'][split]:,}" for split in SPLITS]
        counts.append([*row, *([_mark(percent)] if judged else [])])
        rate: list[str] = [title]
        for name in _SHORT:
            own, theirs = facts["missing_percent"][name], paper[name]
            points = None if theirs is None else own - theirs
            rate += [f"{own:.2f}", *(("-", "-") if points is None else (f"{theirs:.2f}", f"{points:+.2f}"))]
            rate += [_mark(points)] if judged else []
        rates.append(rate)
    text = "The paper is FlexCare (KDD 2024), Table 2, on MIMIC-IV 2.0. "
    if judged:
        text += "These data are of that release and prepared by the rules of its pipeline: differences within "
        text += f"{TOLERANCE} % of samples and {TOLERANCE} points of a rate are marked."
    else:
        text += "These data are of another release or size, or prepared by other rules, so that its figures are a "
        text += "background and no target."
    more = ["within"] if judged else []
    figure = Figure("missing", "Share of samples without a modality, and the paper's figure.")
    return [
        text,
        Table(["task", "samples", "paper", "difference", "difference %", *SPLITS, *more], counts),
        figure,
        Table(["task", *(f"{short} {name}" for short in _SHORT.values() for name in _RATES + more)], rates),
    ]


def _mark(value: float | None) -> str:
    return "-" if value is None else "yes" if abs(value) <= TOLERANCE else "no"
