"""Sentences below a results table on how its runs were made and on what stands beside them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import pandas as pd

from benchmark.reporting.names import metric_title, number, task_title
from benchmark.reporting.significance import seeds_shared, uncompared
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


def seed_notes(rows: Sequence[Row], chosen: Chosen, titles: Mapping[str, str]) -> list[str]:
    """A sentence where a model is compared with the best on fewer seeds than their means rest on."""
    fewer: dict[str, None] = {}
    for row in (row for row in rows if row.main):
        for model, seeds in seeds_shared(row, chosen).items():
            cells = [cell for cell in row.cells.values() if cell is not None and cell.mean is not None]
            most = max(row.cells[model].seeds, max(cells, key=lambda cell: cell.mean).seeds)
            if row.cells[model].p is not None and len(seeds) < most:
                shown = ", ".join(map(str, seeds))
                fewer[f"{titles[model]} on {row.title} (seed{'s' * (len(seeds) > 1)} {shown})"] = None
    if not fewer:
        return []
    return [f"Compared with the best on the seeds that both have, fewer than the means rest on: {'; '.join(fewer)}."]


def training_notes(chosen: Chosen, columns: Sequence[str], titles: Mapping[str, str]) -> list[str]:
    """A sentence where models that train on several tasks together stand beside each other and had different ones."""
    found: dict[str, None] = {}
    for task, share in dict.fromkeys((task, share) for _, task, share in chosen):
        of_sets: dict[tuple[str, ...], list[str]] = {}
        for model in columns:
            frame = chosen.get((model, task, share))
            if frame is not None and frame["multitask"].all():
                of_sets.setdefault(tuple(frame["tasks"].iloc[0]), []).append(titles[model])
        if len(of_sets) > 1:
            parts = [
                f"{', '.join(names)} on {', '.join(TASKS[name].title for name in TASKS if name in tasks)}"
                for tasks, names in of_sets.items()
            ]
            found[f"Not all were trained on the same tasks: {'; '.join(parts)}."] = None
    return list(found)


def gap_notes(rows: Sequence[Row], titles: Mapping[str, str], seeds: int) -> list[str]:
    """Sentences on cells that rest on fewer seeds than others, or have no value."""
    short: dict[str, list[str]] = {}
    undefined: dict[str, None] = {}
    untested: dict[str, list[str]] = {}
    for row in (row for row in rows if row.main):
        for model in uncompared(row):
            untested.setdefault(titles[model], []).append(f"{row.title} {metric_title(row.metric)}")
        for model, cell in row.cells.items():
            if cell and cell.seeds < seeds:
                short.setdefault(f"{titles[model]} has {cell.seeds} of {seeds} seeds", []).append(row.title)
            if cell and cell.mean is None:
                undefined[f"{row.title} {metric_title(row.metric)}"] = None
    notes = [f"{what} on {', '.join(dict.fromkeys(titles))}." for what, titles in short.items()]
    if undefined:
        notes.append(f"n.a.: not defined on these test samples, where a class is absent ({', '.join(undefined)}).")
    if untested:
        where = "; ".join(f"{title} on {', '.join(names)}" for title, names in untested.items())
        notes.append(f"Not tested against the best of the row (no seed in common, or no spread of resamples): {where}.")
    if any(cell is None for row in rows for cell in row.cells.values()):
        notes.append("-: no finished run.")
    return notes


def failure_notes(failed: pd.DataFrame, titles: Mapping[str, str]) -> list[str]:
    if failed.empty:
        return []
    shown = [
        f"{titles[run.model]}, {' '.join(TASKS[task].title for task in run.tasks)}, seed {run.seed}"
        for run in failed.head(3).itertuples()
    ]
    more = f" and {len(failed) - 3} more" if len(failed) > 3 else ""
    subject = "1 failed run is" if len(failed) == 1 else f"{len(failed)} failed runs are"
    return [f"{subject} missing: {'; '.join(shown)}{more}."]
