"""The main results table: tasks and metrics by models, mean and sample standard deviation over seeds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pandas as pd

from benchmark.registry import models
from benchmark.reporting.layouts import Layout
from benchmark.reporting.names import DIGITS, task_title
from benchmark.reporting.notes import (
    Chosen,
    coupling_notes,
    device_notes,
    failure_notes,
    gap_notes,
    paper_notes,
    seed_notes,
    training_notes,
)
from benchmark.reporting.resamples import Resamples
from benchmark.reporting.significance import ALPHA, with_intervals
from benchmark.runs.groups import RunGroup
from benchmark.tasks import TASKS

MARKED = (
    "\N{DEGREE SIGN}: cannot be told apart from the best (paired bootstrap over {what}, Holm-adjusted p of "
    f"{ALPHA} or more)."
)


@dataclass(frozen=True)
class Cell:
    """One model on one task and metric.

    Attributes:
        seeds: number of finished runs. mean, std: over those where the metric is defined (std with n - 1), else None.
        rank: 1 for the best printed value of the row, 2 for the second best, 0 for the rest.
        published_mean, published_std: the paper's figures, if asked for and printed there.
        low, high: 95 % interval of the mean over resampled patients and seeds, if asked for.
        p: adjusted p value of being as good as the best of the row; None for the best.
    """

    seeds: int
    mean: float | None
    std: float | None
    rank: int = 0
    published_mean: float | None = None
    published_std: float | None = None
    low: float | None = None
    high: float | None = None
    p: float | None = None

    @property
    def close(self) -> bool:
        """Whether it cannot be told apart from the best of the row."""
        return self.p is not None and self.p >= ALPHA

    @property
    def difference(self) -> float | None:
        if self.mean is None or self.published_mean is None:
            return None
        return self.mean - self.published_mean


@dataclass(frozen=True)
class Row:
    """One metric of one task: cells by model, None where no run is finished; the best that any model could reach.

    `label_fraction` is the share of the training samples that the models saw.
    """

    task: str
    metric: str
    cells: Mapping[str, Cell | None]
    ceiling: float | None
    label_fraction: float = 1.0

    @property
    def main(self) -> bool:
        """Whether the paper's table has this metric."""
        return self.metric in TASKS[self.task].metrics[:2]

    @property
    def published(self) -> bool:
        """Whether the paper has a figure for any cell."""
        return any(cell is not None and cell.published_mean is not None for cell in self.cells.values())

    @property
    def title(self) -> str:
        return task_title(self.task, self.label_fraction)


@dataclass(frozen=True)
class ResultTable:
    """A table before it takes a format.

    Attributes:
        group: whose runs these are. columns: model names in order. titles: of models. rows: all metrics of all tasks.
        seeds, epochs: of the runs; epochs apart for multitask models (True) and the others (False).
        notes: sentences below the table. with_published: whether the paper's figures stand beside.
        name: begin of file names. title: opens the caption.
    """

    group: RunGroup
    columns: tuple[str, ...]
    titles: Mapping[str, str]
    rows: tuple[Row, ...]
    seeds: tuple[int, ...]
    epochs: Mapping[bool, tuple[int, ...]]
    notes: tuple[str, ...] = field(default=())
    with_published: bool = False
    name: str = "table3"
    title: str = ""

    @property
    def simulated(self) -> bool:
        return bool(self.group.caption["data"]["simulated"])

    @property
    def caption(self) -> str:
        """What the table shows, complete enough to stand alone."""
        caption = self.group.caption
        encoder = caption["encoder"]
        several = len(self.seeds) > 1
        parts = [
            "SIMULATED DATA." if self.simulated else "",
            self.title,
            f"Test results on {caption['data']['name']}{_rules(caption['data'])},",
            f"protocol {caption['protocol']['name']}:",
            f"mean (sample standard deviation) over {len(self.seeds)} seeds ({', '.join(map(str, self.seeds))});"
            if several
            else f"one seed ({', '.join(map(str, self.seeds))});",
            f"{_epochs(self.epochs)};",
            f"note encoder {encoder['name']}." if encoder else "no notes.",
            "Best in bold, second best underlined." if len(self.columns) > 1 else "",
            MARKED.format(what="patients and seeds" if several else "patients alone") if self.has_marks else "",
            "Ceiling: the true outcome probabilities scored on the same samples (-: none is known)."
            if self.has_ceiling
            else "",
        ]
        return " ".join(" ".join(parts).split())

    @property
    def has_marks(self) -> bool:
        return any(cell is not None and cell.p is not None for row in self.rows for cell in row.cells.values())

    @property
    def has_intervals(self) -> bool:
        return any(cell is not None and cell.low is not None for row in self.rows for cell in row.cells.values())

    @property
    def has_ceiling(self) -> bool:
        return any(row.ceiling is not None for row in self.rows)


def build_table(
    runs: pd.DataFrame,
    group: RunGroup,
    order: Sequence[str],
    layout: Layout,
    with_published: bool = False,
    resamples: Resamples | None = None,
) -> ResultTable:
    """The table of one group of runs in one layout.

    Args:
        runs: all stored runs, as `collect` gives them. group: the runs to show.
        order: model names in the order of columns; others follow by name.
        layout: which models and tasks it holds. with_published: put the paper's figures beside.
        resamples: adds intervals and marks.
    """
    paper = layout.paper if with_published else None
    place = {name: position for position, name in enumerate(group.runs)}
    members = _within(runs[runs["run"].isin(place)], layout)
    members = members.assign(asked=members["run"].map(place)).sort_values("asked")
    done, failed = members[members["status"] == "done"], members[members["status"] == "failed"]
    failed = failed[~failed["run"].isin(done["run"])]
    found = set(members["model"])
    columns = (*(name for name in order if name in found), *sorted(found - set(order)))
    titles = dict(zip(members["model"], members["title"], strict=True))
    chosen, left_out = _choose_variants(done, titles)
    rows = _rows(chosen, columns, members, paper)
    if resamples is not None:
        rows = with_intervals(rows, chosen, resamples)
    seeds = tuple(sorted({int(seed) for frame in chosen.values() for seed in frame["seed"]}))
    all_notes = [*left_out, *gap_notes(rows, titles, len(seeds)), *failure_notes(failed, titles)]
    all_notes += [*seed_notes(rows, chosen, titles), *training_notes(chosen, columns, titles)]
    all_notes += [*layout.notes, *coupling_notes(chosen, columns, titles), *device_notes(chosen)]
    if paper is not None:
        all_notes += paper_notes(rows, paper, bool(group.caption["data"]["simulated"]))
    shown = pd.concat(chosen.values()) if chosen else members
    shown = shown[~shown["model"].isin([name for name, entry in models().items() if entry.fits])]
    epochs = {
        kind: tuple(sorted({int(count) for count in shown.loc[shown["multitask"] == kind, "epochs"]}))
        for kind in (True, False)
    }
    return ResultTable(
        group, columns, titles, tuple(rows), seeds, epochs, tuple(all_notes), with_published, layout.name, layout.title
    )


def build_tables(
    runs: pd.DataFrame,
    group: RunGroup,
    order: Sequence[str],
    layouts: Sequence[Layout],
    with_published: bool = False,
    resamples: Resamples | None = None,
) -> list[ResultTable]:
    """The tables of all layouts that the runs of a group give reason to make."""
    members = runs[runs["run"].isin(group.runs)]
    pairs = {(run.model, task) for run in members.itertuples() for task in run.tasks}
    wanted = [layout for layout in layouts if layout.wanted(pairs)]
    return [build_table(runs, group, order, layout, with_published, resamples) for layout in wanted]


def _within(members: pd.DataFrame, layout: Layout) -> pd.DataFrame:
    """The runs that a layout holds, each with those of its tasks that it holds."""
    held = [
        tuple(task for task in tasks if layout.holds(model, task))
        for model, tasks in zip(members["model"], members["tasks"], strict=True)
    ]
    members = members.assign(shown=pd.Series(held, index=members.index, dtype=object))
    return members[[len(tasks) > 0 for tasks in held]]


def _rules(data: Mapping[str, Any]) -> str:
    """The rules by which the data were prepared, unless they are the usual ones.

    >>> _rules({"profile": "ref"}), _rules({"profile": "fix"})
    (' (data rules: ref)', '')
    """
    profile = data.get("profile", "fix")
    return "" if profile == "fix" else f" (data rules: {profile})"


def _epochs(epochs: Mapping[bool, tuple[int, ...]]) -> str:
    """How long the models were trained, in words."""
    together, single = (" or ".join(map(str, epochs[kind])) for kind in (True, False))
    if not together and not single:
        return "models fitted in one go"
    if not together or not single or together == single:
        number = together or single
        return f"{number} epoch{'' if number == '1' else 's'}"
    return f"{together} epochs for models trained on all tasks, {single} for the others"


def _choose_variants(done: pd.DataFrame, titles: Mapping[str, str]) -> tuple[Chosen, list[str]]:
    """Finished runs by model, task and share of labels; of different options or task sets only the latest are taken."""
    chosen: Chosen = {}
    dropped: dict[str, dict[str, set[str]]] = {}
    by_task = done.assign(task=done["shown"].map(list)).explode("task")
    for (model, task, share), frame in by_task.groupby(["model", "task", "label_fraction"], sort=False):
        latest = frame["variant"].iloc[-1]
        chosen[model, task, share] = frame[frame["variant"] == latest]
        for run in frame.loc[frame["variant"] != latest, "run"]:
            dropped.setdefault(model, {}).setdefault(run, set()).add(task)
    used = {run for frame in chosen.values() for run in frame["run"]}
    notes = []
    for model, runs in dropped.items():
        tasks = set().union(*runs.values()) if used & runs.keys() else ()  # they are shown on their other tasks
        where = f" on {', '.join(TASKS[task].title for task in TASKS if task in tasks)}" if tasks else ""
        notes.append(
            f"{titles[model]}: {len(runs)} runs with other settings or tasks are left out for the latest ones{where}."
        )
    return chosen, notes


def _rows(chosen: Chosen, columns: Sequence[str], members: pd.DataFrame, paper: pd.DataFrame | None) -> list[Row]:
    asked = {(task, run.label_fraction) for run in members.itertuples() for task in run.shown}
    printed = {}
    if paper is not None:
        printed = {(row.task, row.label_fraction, row.metric, row.model): row for row in paper.itertuples()}
    rows = []
    for task, share in sorted(asked, key=lambda pair: (list(TASKS).index(pair[0]), pair[1])):
        for metric in TASKS[task].metrics:
            cells = {
                model: _cell(chosen.get((model, task, share)), task, metric, printed.get((task, share, metric, model)))
                for model in columns
            }
            rows.append(Row(task, metric, _ranked(cells), _ceiling(chosen, task, metric), share))
    return rows


def _cell(frame: pd.DataFrame | None, task: str, metric: str, printed: Any) -> Cell | None:
    if frame is None:
        return None
    values = [value for metrics in frame["metrics"] if _defined(value := metrics.get(task, {}).get(metric))]
    mean = math.fsum(values) / len(values) if values else None
    std = float(pd.Series(values).std(ddof=1)) if len(values) > 1 else None
    published = (float(printed.mean), float(printed.std)) if printed is not None else (None, None)
    return Cell(len(frame), mean, std, 0, *published)


def _ranked(cells: Mapping[str, Cell | None]) -> dict[str, Cell | None]:
    """Cells with their ranks. Every reported metric is better when larger."""
    printed = {name: round(cell.mean, DIGITS) for name, cell in cells.items() if cell and cell.mean is not None}
    if len(printed) < 2:
        return dict(cells)
    best = sorted(set(printed.values()), reverse=True)
    ranked = dict(cells)
    for name, value in printed.items():
        cell = cells[name]
        if cell and value in best[:2]:
            rank = best.index(value) + 1
            ranked[name] = replace(cell, rank=rank)
    return ranked


def _ceiling(chosen: Chosen, task: str, metric: str) -> float | None:
    for (_, name, _), frame in chosen.items():
        if name == task:
            for ceiling in frame["ceiling"]:
                if _defined(value := ceiling.get(task, {}).get(metric)):
                    return value
    return None


def _defined(value: float | None) -> bool:
    return value is not None and math.isfinite(value)
