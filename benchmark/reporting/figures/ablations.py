"""Figure 4: bars of the variants, one panel a task and metric."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib
import pandas as pd
from matplotlib.axes import Axes

from benchmark.analysis.ablations import over_seeds
from benchmark.reporting.figures.style import GREY, INK, PALE, STRONG, STYLE, Drawn, Facts, new_figure, tick
from benchmark.reporting.names import metric_title, task_title
from benchmark.tasks import TASKS


def draw_ablations(scores: pd.DataFrame, labels: Mapping[str, str], original: str, facts: Facts) -> Drawn:
    """Args: scores: as `ablation_scores` gives them. labels: of the models, in the order of the bars."""
    means = over_seeds(scores)
    tasks = [name for name in TASKS if name in set(means["task"])]
    shown = {name: label for name, label in labels.items() if name in set(means["model"])}
    with matplotlib.rc_context(STYLE):
        figure = new_figure(2.9, facts)
        panels = figure.subplots(2, len(tasks), squeeze=False)
        for column, task in enumerate(tasks):
            for row, metric in enumerate(TASKS[task].metrics[:2]):
                part = means[(means["task"] == task) & (means["metric"] == metric)].set_index("model")
                seeds = scores[(scores["task"] == task) & (scores["metric"] == metric)]
                _bars(panels[row, column], part, seeds, shown, original)
                panels[row, column].set_ylabel(metric_title(metric), labelpad=2)
            panels[0, column].set_title(task_title(task), weight="bold")
    counts = sorted(scores.groupby("model")["seed"].nunique())
    spread = "error bars: one sample standard deviation" if max(counts) > 1 else "one seed, so that no spread is known"
    number = " to ".join(str(count) for count in dict.fromkeys((counts[0], counts[-1])))
    caption = (
        f"{facts.line}. Ablations: mean test scores over {number} seed{'s' * (counts[-1] > 1)} of the variants "
        f"{', '.join(shown.values())}; {spread}; dots: single seeds. The axes do not begin at zero."
    )
    return Drawn("figure4", caption, figure, facts, {"": means, "seeds": scores})


def _bars(axes: Axes, means: pd.DataFrame, seeds: pd.DataFrame, labels: Mapping[str, str], original: str) -> None:
    places = range(len(labels))
    values = [means["mean"].get(name, float("nan")) for name in labels]
    errors = [0.0 if pd.isna(spread := means["std"].get(name, float("nan"))) else spread for name in labels]
    colours = [STRONG if name == original else PALE for name in labels]
    axes.bar(places, values, width=0.74, color=colours)
    axes.errorbar(places, values, yerr=errors, fmt="none", ecolor=INK, elinewidth=0.8, capsize=1.8, capthick=0.8)
    for place, name in enumerate(labels):
        single = seeds.loc[seeds["model"] == name, "value"]
        axes.scatter(
            [place] * len(single), single, s=3, color="white", edgecolor=INK, linewidth=0.4, zorder=3, clip_on=False
        )
    edges = [value + sign * error for value, error in zip(values, errors, strict=True) for sign in (-1, 1)]
    edges = [edge for edge in [*edges, *seeds["value"]] if pd.notna(edge)]
    axes.set_xlim(-0.6, len(labels) - 0.4)  # also where a variant has no bar
    axes.set_xticks(places, list(labels.values()))
    axes.tick_params(axis="x", length=0)
    if not edges:  # a class is absent from the test samples
        axes.text(0.5, 0.5, "not defined", ha="center", transform=axes.transAxes, color=GREY)
        axes.set_yticks([])
        return
    room = max(max(edges) - min(edges), 0.005)
    axes.set_ylim(max(0.0, min(edges) - 0.35 * room), min(1.0, max(edges) + 0.12 * room))
    axes.yaxis.set_major_locator(matplotlib.ticker.MaxNLocator(4))
    axes.yaxis.set_major_formatter(tick)
    axes.grid(axis="y", color=GREY, alpha=0.25, linewidth=0.5)
    axes.set_axisbelow(True)
