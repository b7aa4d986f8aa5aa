"""Figure 7: test scores of all tasks after each task's part of each epoch, and the matrix of effects."""

from __future__ import annotations

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.lines import Line2D

from benchmark.analysis.segments import effect_matrix, effects, over_seeds
from benchmark.reporting.figures.style import (
    COLOURS,
    GREY,
    INK,
    LEGEND,
    MARKERS,
    STYLE,
    Drawn,
    Facts,
    heat,
    new_figure,
    tick,
)
from benchmark.reporting.names import metric_title, task_title
from benchmark.tasks import TASKS
from benchmark.training.trace import START

_COLUMNS = 4
_FEW = 8
"""Epochs up to which every segment has its marker; of more, only those of the panel's own task have one."""


def draw_segments(traces: pd.DataFrame, facts: Facts) -> list[Drawn]:
    """The curves and the matrix. `traces`: as `read_traces` gives them."""
    means = over_seeds(traces)
    tasks = list(dict.fromkeys(means.loc[means["trained"] != START, "trained"]))  # in the order of training
    seeds = traces["seed"].nunique()
    over = f"mean over {seeds} seeds" if seeds > 1 else f"seed {traces['seed'].iloc[0]}"
    return [_curves(means, tasks, over, seeds, facts), _matrix(traces, tasks, over, facts)]


def _curves(means: pd.DataFrame, tasks: list[str], over: str, seeds: int, facts: Facts) -> Drawn:
    panels_wanted = [(task, metric) for task in tasks for metric in TASKS[task].metrics[:2]]
    rows = -(-len(panels_wanted) // _COLUMNS)
    with matplotlib.rc_context(STYLE):
        figure = new_figure(0.5 + 1.35 * rows, facts)
        panels = figure.subplots(rows, _COLUMNS, squeeze=False, sharex=True).ravel()
        for axes in panels[len(panels_wanted) :]:
            axes.axis("off")
        for axes, (task, metric) in zip(panels, panels_wanted, strict=False):
            part = means[(means["task"] == task) & (means["metric"] == metric)].sort_values("segment")
            _curve(axes, part, task, len(tasks))
            axes.set_title(f"{task_title(task)}  {metric_title(metric)}")
        for axes in panels[max(0, len(panels_wanted) - _COLUMNS) : len(panels_wanted)]:
            axes.set_xlabel("epoch", labelpad=2)
            axes.tick_params(labelbottom=True)  # also above a place without a panel
        handles = [
            Line2D([], [], linewidth=1, marker=MARKERS[name], color=COLOURS[name], markersize=4,
                   label=f"after {task_title(name)}")
            for name in tasks
        ]  # fmt: skip
        figure.legend(
            handles=handles,
            loc="outside upper center",
            ncols=len(tasks),
            frameon=False,
            **(LEGEND | {"handletextpad": 0.4}),
        )
    band = "; band: one sample standard deviation" if seeds > 1 else ""
    caption = (
        f"{facts.line}. Test scores after each task's part of each epoch ({over}{band}), one panel a tested task and "
        "metric; the colour of a step is that of the task trained in it, a ring stands after the panel's own. The test "
        "sets are only watched: no choice in training knows of these scores."
    )
    return Drawn("figure7", caption, figure, facts, {"": means})


def _curve(axes: Axes, part: pd.DataFrame, task: str, segments: int) -> None:
    x, y, epochs = (part["segment"] / segments).to_numpy(), part["mean"].to_numpy(), int(part["epoch"].max())
    if part["std"].notna().any():
        low, high = (y - part["std"]).clip(lower=0), (y + part["std"]).clip(upper=1)  # as far as scores go
        axes.fill_between(x, low, high, color=GREY, alpha=0.2, linewidth=0, zorder=0)
    steps = [((x[k - 1], y[k - 1]), (x[k], y[k])) for k in range(1, len(x))]
    axes.add_collection(LineCollection(steps, colors=[COLOURS[name] for name in part["trained"][1:]], linewidths=1.0))
    short = epochs <= _FEW
    for name, own in part[part["trained"] != START].groupby("trained", sort=False):
        if short or name == task:
            ring = {"edgecolors": INK, "linewidths": 0.6 if short else 0.3} if name == task else {"linewidths": 0}
            size = (22 if name == task else 13) if short else 6
            axes.scatter(own["segment"] / segments, own["mean"], s=size, marker=MARKERS[name], color=COLOURS[name],
                         zorder=3 if name == task else 2.5, **ring)  # fmt: skip
    for epoch in range(1, epochs if short else 0):
        axes.axvline(epoch, color=GREY, linewidth=0.4, alpha=0.35, zorder=0)
    axes.set_xlim(0, 1.02 * epochs)
    axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(6, integer=True))
    axes.yaxis.set_major_locator(matplotlib.ticker.MaxNLocator(4))
    axes.yaxis.set_major_formatter(tick)


def _matrix(traces: pd.DataFrame, tasks: list[str], over: str, facts: Facts) -> Drawn:
    epochs = int(traces["epoch"].max())
    first = min(2, epochs)
    found = effects(traces, first)
    with matplotlib.rc_context(STYLE):
        figure = new_figure(2.75, facts)
        panels = figure.subplots(1, 2)
        matrices = [
            effect_matrix(found, {task: TASKS[task].metrics[place] for task in tasks}, tasks) for place in (0, 1)
        ]
        limit = max(float(matrix.abs().max().max()) for matrix in matrices) or 1.0
        for place, (axes, matrix) in enumerate(zip(panels, matrices, strict=True)):
            titles = [task_title(task) for task in tasks]
            labels = [f"{task_title(task)}\n{metric_title(TASKS[task].metrics[place])}" for task in tasks]
            titled = matrix.set_axis(titles, axis=0).set_axis(labels, axis=1)
            heat(axes, titled, "RdBu", -limit, limit, digits=3 if limit > 0.05 else 4, sign=True)
            axes.set_xlabel("tested", labelpad=3)
        panels[0].set_ylabel("trained", labelpad=2)
    left_out = "; the first epoch, which starts from random values, is left out" if first > 1 else ""
    caption = (
        f"{facts.line}. Mean change of each task's test scores (columns) by one part of an epoch in which the task of "
        f"the row is trained ({over}, {epochs} epochs{left_out}). Blue: better, red: worse."
    )
    tables = [found.assign(first_epoch=first)]
    if first > 1:
        tables.append(effects(traces, 1).assign(first_epoch=1))
    return Drawn("figure7-effects", caption, figure, facts, {"": pd.concat(tables, ignore_index=True)})
