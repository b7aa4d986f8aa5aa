"""Sentences below a results table on how its runs were made and on what stands beside them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import pandas as pd

from benchmark.reporting.names import metric_title, number, task_title
from benchmark.tasks import TASKS

if TYPE_CHECKING:
    from benchmark.reporting.tables import Row

Chosen = dict[tuple[str, str, float], pd.DataFrame]
"""The runs that a table shows, by model, task and share of the labels."""


def coupling_notes(chosen: Chosen, columns: Sequence[str], titles: Mapping[str, str]) -> list[str]:
    """One sentence for each model whose prediction for a sample depends on the other samples of its batch."""
    notes = []
    for model in columns:
        figures = []
        for task, share, frame in _runs_of(model, chosen):
            metric = TASKS[task].metrics[0]
            found = [spread.get(task, {}).get(metric, {}).get("std") for spread in frame["spread"]]
            spreads = [std for std in found if std is not None and math.isfinite(std)]
            if spreads:
                mean = math.fsum(spreads) / len(spreads)
                figures.append(f"{task_title(task, share)} {metric_title(metric)} {number(mean)}")
        if figures:
            notes.append(
                f"{titles[model]}'s predictions depend on how evaluation batches are composed; standard deviation over "
                f"orders of the test samples, mean over seeds: {', '.join(figures)}."
            )
    return notes


def _runs_of(model: str, chosen: Chosen) -> list[tuple[str, float, pd.DataFrame]]:
    """Task, share of the labels and runs of one model, in the order of the table."""
    own = [(task, share, frame) for (name, task, share), frame in chosen.items() if name == model]
    return sorted(own, key=lambda part: (list(TASKS).index(part[0]), part[1]))


def device_notes(chosen: Chosen) -> list[str]:
    """A sentence if the runs of a table were made on different kinds of device."""
    devices = dict(pair for frame in chosen.values() for pair in zip(frame["run"], frame["device"], strict=True))
    counts = pd.Series(devices, dtype=object).value_counts().sort_index()
    if len(counts) < 2:
        return []
    shown = ", ".join(f"{count} on {device}" for device, count in counts.items())
    return [f"The runs were made on different devices, whose numbers differ in the last digits: {shown}."]


def paper_notes(rows: Iterable[Row], paper: pd.DataFrame, simulated: bool) -> list[str]:
    """Where the paper's figures come from."""
    beside = {row.task for row in rows if row.published}
    notes = []
    if beside and paper["std"].isna().all():
        notes.append("The paper prints no deviations for this table.")
    if simulated and beside:
        notes.append("The paper's figures are from MIMIC-IV; a difference from simulated data measures nothing.")
    if not beside:
        notes.append("The paper has no figures for these models and tasks.")
    return notes
