"""Adds intervals to the cells of a table, and marks those that cannot be told apart from the best of their row."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from benchmark.evaluation.comparison import Estimate, difference, holm, score
from benchmark.reporting.resamples import Resamples

if TYPE_CHECKING:
    from benchmark.reporting.notes import Chosen
    from benchmark.reporting.tables import Cell, Row

ALPHA = 0.05


def with_intervals(rows: Sequence[Row], chosen: Chosen, resamples: Resamples) -> list[Row]:
    """Rows whose cells have intervals and, against the best mean of the row, adjusted p values.

    Metrics of one kind (the first of every task, the second of every task, ...) are adjusted together.
    """
    rows = [_with_scores(row, chosen, resamples) for row in rows]
    families: dict[int, list[tuple[int, str, Estimate]]] = {}
    position: dict[tuple[str, float], int] = {}
    for index, row in enumerate(rows):
        family = position[row.task, row.label_fraction] = position.get((row.task, row.label_fraction), -1) + 1
        families.setdefault(family, []).extend((index, *found) for found in _against_best(row, chosen, resamples))
    for found in families.values():
        adjusted = holm([estimate.p if estimate.p is not None else float("nan") for _, _, estimate in found])
        for (index, model, _), p in zip(found, adjusted, strict=True):
            cells = dict(rows[index].cells)
            cells[model] = replace(cells[model], p=p)
            rows[index] = replace(rows[index], cells=cells)
    return rows


def uncompared(row: Row) -> tuple[str, ...]:
    """Models with an interval without a p value beside the best of the row: no seed in common, or no spread."""
    cells = {name: cell for name, cell in row.cells.items() if cell is not None and cell.low is not None}
    best = max(cells, key=lambda name: cells[name].mean, default=None)
    return tuple(name for name, cell in cells.items() if name != best and (cell.p is None or math.isnan(cell.p)))


def seeds_shared(row: Row, chosen: Chosen) -> dict[str, list[int]]:
    """Of each model with a score but the best, the seeds that it has in common with the best."""
    means = {name: cell.mean for name, cell in row.cells.items() if cell is not None and cell.mean is not None}
    if len(means) < 2:
        return {}
    best = max(means, key=lambda name: means[name])
    seeds = {name: set(chosen[name, row.task, row.label_fraction]["seed"]) for name in means}
    return {name: sorted(seeds[best] & own) for name, own in seeds.items() if name != best}


def _with_scores(row: Row, chosen: Chosen, resamples: Resamples) -> Row:
    cells: dict[str, Cell | None] = dict(row.cells)
    for model, cell in row.cells.items():
        if cell is not None and cell.mean is not None:
            runs = chosen[model, row.task, row.label_fraction]["run"]
            found = score(resamples.scores(runs, row.task, row.metric))
            cells[model] = replace(cell, low=found.low, high=found.high)
    return replace(row, cells=cells)


def _against_best(row: Row, chosen: Chosen, resamples: Resamples) -> list[tuple[str, Estimate]]:
    """How far each other model is behind the best mean, on the seeds that both have."""
    cells: Mapping[str, Cell] = {name: cell for name, cell in row.cells.items() if cell and cell.mean is not None}
    if len(cells) < 2:
        return []
    best = max(cells, key=lambda name: cells[name].mean)
    frames = {name: chosen[name, row.task, row.label_fraction].set_index("seed")["run"] for name in cells}
    found = []
    for name, seeds in seeds_shared(row, chosen).items():
        if seeds:
            first, second = (
                resamples.scores([frames[model][seed] for seed in seeds], row.task, row.metric)
                for model in (best, name)
            )
            found.append((name, difference(first, second)))
    return found
