"""Multitask accounting: what a model gains or loses on each task by being trained on others too.

A multitask run is set against runs of the same seeds that saw fewer tasks:

- those of its single-task twin, a model that the registry builds in the same way from the same options, one a task;
- those of the same model on some of its tasks, which `bench run --tasks` makes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from benchmark.evaluation.comparison import Estimate, difference, holm, score
from benchmark.registry import twins
from benchmark.reporting.names import metric_title, number, p_value, task_title
from benchmark.reporting.resamples import Resamples
from benchmark.reporting.sheets import Sheet, figures, interval, printed
from benchmark.reporting.significance import ALPHA
from benchmark.reporting.stored import Stored
from benchmark.tasks import TASKS
from models.contract import ModelEntry

GAIN, LOSS, OPEN = "gain", "negative transfer", "not told apart"

NOTES = (
    "Difference: trained on more tasks minus trained on fewer, on the same test patients and seeds, with 95 % "
    "intervals from resampled patients and seeds. p is adjusted over the tasks of a comparison (Holm). "
    f"{LOSS.capitalize()}: training on the other tasks made it worse (p below {ALPHA}).",
    "The two sides may differ in their number of epochs and in the halving of the learning rate, as the protocol has "
    "it for models trained on several tasks and on one.",
)


@dataclass(frozen=True)
class Fewer:
    """Runs that saw fewer tasks.

    Attributes:
        model: theirs. tasks: what each was trained on; empty: each run on one task alone.
        runs: run by seed, by task.
    """

    model: str
    tasks: tuple[str, ...]
    runs: Mapping[str, Mapping[int, str]]


@dataclass(frozen=True)
class Accounted:
    """One task and metric of one comparison.

    Attributes:
        model, tasks, label_fraction: of the runs that saw more tasks. fewer: the others. seeds: that both have.
        more_score, fewer_score: of both. gap: their difference, its p adjusted.
    """

    model: str
    tasks: tuple[str, ...]
    label_fraction: float
    fewer: Fewer
    task: str
    metric: str
    seeds: int
    more_score: Estimate
    fewer_score: Estimate
    gap: Estimate

    @property
    def verdict(self) -> str:
        if self.gap.p is None or not self.gap.p < ALPHA:
            return OPEN
        return GAIN if self.gap.value > 0 else LOSS


def account(stored: Stored, entries: Mapping[str, ModelEntry], resamples: Resamples) -> list[Accounted]:
    """Every task of every comparison that the runs allow; `resamples` must hold the runs."""
    kinds, single, found = _kinds(stored), twins(entries), []
    for kind, runs in kinds.items():
        for fewer in _sides(kind, kinds, single.get(kind[0])):
            found += _adjusted([row for task in fewer.runs for row in _rows(kind, runs, fewer, task, resamples)])
    return found


Kind = tuple[str, tuple[str, ...], float]
"""Model, tasks in the order of the tables, share of the labels."""


def _kinds(stored: Stored) -> dict[Kind, dict[int, str]]:
    """Run by seed, for each model, set of tasks and share of the labels; of different settings the last asked-for."""
    sets = [tuple(sorted(tasks, key=list(TASKS).index)) for tasks in stored.runs["tasks"]]
    frame = stored.runs.assign(set=pd.Series(sets, index=stored.runs.index, dtype=object))
    found: dict[Kind, dict[int, str]] = {}
    for key, part in frame.groupby(["model", "set", "label_fraction"], sort=False):
        latest = part[part["variant"] == part["variant"].iloc[-1]].sort_values("seed")
        found[key] = dict(zip(latest["seed"].astype(int), latest["run"], strict=True))
    return dict(sorted(found.items(), key=lambda item: (stored.order.index(item[0][0]), -len(item[0][1]))))


def _sides(kind: Kind, kinds: Mapping[Kind, Mapping[int, str]], twin: str | None) -> Iterator[Fewer]:
    """What the runs of a kind are set against."""
    model, tasks, fraction = kind
    if len(tasks) < 2:
        return
    for name in (twin, model):
        alone = {task: kinds[name, (task,), fraction] for task in tasks if (name, (task,), fraction) in kinds}
        if name is not None and alone:
            yield Fewer(name, (), alone)
    for (name, fewer, share), runs in kinds.items():
        if name == model and share == fraction and len(fewer) > 1 and set(fewer) < set(tasks):
            yield Fewer(name, fewer, dict.fromkeys(fewer, runs))


def _rows(kind: Kind, runs: Mapping[int, str], fewer: Fewer, task: str, resamples: Resamples) -> Iterator[Accounted]:
    seeds = sorted(runs.keys() & fewer.runs[task].keys())
    if not seeds:
        return
    for metric in TASKS[task].metrics:
        sides = [[side[seed] for seed in seeds] for side in (runs, fewer.runs[task])]
        first, second = (resamples.scores(side, task, metric) for side in sides)
        gap = difference(first, second)
        if np.isfinite(gap.value):
            yield Accounted(*kind, fewer, task, metric, len(seeds), score(first), score(second), gap)


def _adjusted(rows: Sequence[Accounted]) -> list[Accounted]:
    """Holm over the tasks, separately for the first, second, ... metric of each."""
    result = list(rows)
    families: dict[int, list[int]] = {}
    for index, row in enumerate(rows):
        families.setdefault(TASKS[row.task].metrics.index(row.metric), []).append(index)
    for members in families.values():
        for index, p in zip(members, holm([rows[index].gap.p for index in members]), strict=True):
            result[index] = replace(rows[index], gap=replace(rows[index].gap, p=p))
    return result


def transfer_sheet(stored: Stored, entries: Mapping[str, ModelEntry], resamples: Resamples) -> Sheet:
    """Gains and losses by training on more tasks."""
    rows = account(stored, entries, resamples)
    lines = [
        {"task": row.task, "label_fraction": row.label_fraction, "metric": row.metric, "model": row.model}
        | {"tasks": " ".join(row.tasks), "fewer_model": row.fewer.model}
        | {"fewer_tasks": " ".join(row.fewer.tasks or (row.task,)), "seeds": row.seeds}
        | figures(row.more_score, "more")
        | figures(row.fewer_score, "fewer")
        | figures(row.gap, "difference")
        | {"p": row.gap.p, "verdict": row.verdict}
        for row in rows
    ]
    shown = [
        {
            "model": f"{stored.titles[row.model]}, {len(row.tasks)} tasks",
            "against": _against(row, stored.titles),
            "task": task_title(row.task, row.label_fraction),
            "metric": metric_title(row.metric),
            "more tasks": number(row.more_score.value),
            "fewer": number(row.fewer_score.value),
            "difference": interval(row.gap, sign=True),
            "p": p_value(row.gap.p),
            "verdict": row.verdict,
        }
        for row in rows
        if row.metric in TASKS[row.task].metrics[:2]
    ]
    title = "Gain or loss by training on more tasks on"
    return Sheet("transfer", title, pd.DataFrame(lines), printed(shown, 3), NOTES)


def _against(row: Accounted, titles: Mapping[str, str]) -> str:
    trained = ", ".join(TASKS[task].title for task in row.fewer.tasks)
    return f"{titles[row.fewer.model]}, {trained or 'one task each'}"
