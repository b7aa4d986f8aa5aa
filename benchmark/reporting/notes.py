"""Sentences below a results table on how its runs were made and on what stands beside them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import pandas as pd

from benchmark.reporting.names import metric_title, number
from benchmark.tasks import TASKS

if TYPE_CHECKING:
    from benchmark.reporting.tables import Row

Chosen = Mapping[tuple[str, str], pd.DataFrame]
"""The runs that a table shows, by model and task."""


def coupling_notes(chosen: Chosen, columns: Sequence[str], titles: Mapping[str, str]) -> list[str]:
    """One sentence for each model whose prediction for a sample depends on the other samples of its batch."""
    notes = []
    for model in columns:
        figures = []
        for task in TASKS:
            metric = TASKS[task].metrics[0]
            frame = chosen.get((model, task))
            found = (
                [] if frame is None else [spread.get(task, {}).get(metric, {}).get("std") for spread in frame["spread"]]
            )
            spreads = [std for std in found if std is not None and math.isfinite(std)]
            if spreads:
                mean = math.fsum(spreads) / len(spreads)
                figures.append(f"{TASKS[task].title} {metric_title(metric)} {number(mean)}")
        if figures:
            notes.append(
                f"{titles[model]}'s predictions depend on how evaluation batches are composed; standard deviation over "
                f"orders of the test samples, mean over seeds: {', '.join(figures)}."
            )
    return notes


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
    tables = {str(table).removeprefix("table") for table in paper.loc[paper["task"].isin(beside), "table"]}
    notes = []
    if "5" in tables:
        notes.append("The paper's figures for DRG are those of its Table 5 with all labels.")
    if simulated and beside:
        notes.append("The paper's figures are from MIMIC-IV; a difference from simulated data measures nothing.")
    if not beside:
        notes.append("The paper has no figures for these models and tasks.")
    return notes
