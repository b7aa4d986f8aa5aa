"""Figure 5: patient representations without and with task token."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from benchmark.analysis.representations import perplexity
from benchmark.reporting.figures.style import COLOURS, GREY, LEGEND, MARKERS, STYLE, Drawn, Facts, new_figure
from benchmark.reporting.names import task_title
from benchmark.tasks import TASKS

_LAYER = 400
"""Points that are drawn before the next task may cover them."""

_PICTURES = {"tsne": "t-SNE", "pca": "PCA"}


def draw_representations(
    points: Mapping[str, pd.DataFrame], separation: pd.DataFrame, seed: int, most: int, facts: Facts
) -> Drawn:
    """The picture of one seed, with numbers over all seeds.

    Args:
        points: for each side, in order, the two-dimensional points as `project` gives them.
        separation: the numbers of `separation`, with columns side and seed. seed: whose points these are.
        most: number of samples a task that was asked for.
    """
    tasks = [name for name in TASKS if any(name in set(frame["task"]) for frame in points.values())]
    with matplotlib.rc_context(STYLE):
        figure = new_figure(6.3, facts)
        panels = figure.subplots(2, 2, squeeze=False)
        for column, (side, frame) in enumerate(points.items()):
            for row, (name, title) in enumerate(_PICTURES.items()):
                _scatter(panels[row, column], frame, name)
                panels[row, column].set_xlabel(f"{title} 1", labelpad=2)
                panels[row, column].set_ylabel(f"{title} 2", labelpad=2)
            panels[0, column].set_title(f"{side}\n{_numbers(separation[separation['side'] == side])}", linespacing=1.4)
        handles = [
            Line2D(
                [], [], linestyle="", marker=MARKERS[name], color=COLOURS[name], markersize=4, label=task_title(name)
            )
            for name in tasks
        ]
        figure.legend(handles=handles, loc="outside upper center", ncols=len(tasks), frameon=False, **LEGEND)
    frames = [frame.assign(side=side, seed=seed) for side, frame in points.items()]
    caption = _caption(points, separation, seed, most, facts)
    return Drawn(
        "figure5", caption, figure, facts, {"": pd.concat(frames, ignore_index=True), "separation": separation}
    )


def _scatter(axes: Axes, frame: pd.DataFrame, name: str) -> None:
    # In random order: no task may cover another because it came later.
    mixed = frame.sample(frac=1, random_state=0)
    for start in range(0, len(mixed), _LAYER):
        part = mixed.iloc[start : start + _LAYER]
        for task, own in part.groupby("task", sort=False):
            axes.scatter(
                own[f"{name}_1"], own[f"{name}_2"], s=5, marker=MARKERS[task], color=COLOURS[task], alpha=0.65,
                linewidths=0, rasterized=True,
            )  # fmt: skip
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(True)
    axes.spines[:].set_color(GREY)


def _numbers(rows: pd.DataFrame) -> str:
    silhouette, whole, vector = (rows[name].mean() for name in ("silhouette", "probe", "probe_vector"))
    text = f"silhouette {silhouette:.2f}; probe {100 * whole:.0f} % (vector part {100 * vector:.0f} %)"
    return text.replace("-", "\N{MINUS SIGN}")


def _caption(points: Mapping[str, pd.DataFrame], separation: pd.DataFrame, seed: int, most: int, facts: Facts) -> str:
    sizes = next(iter(points.values()))["task"].value_counts()
    fewer = [f"{task_title(name)} {sizes[name]}" for name in TASKS if name in sizes and sizes[name] < most]
    short = f" (fewer where the test set is smaller: {', '.join(fewer)})" if fewer else ""
    what = f"{most} test samples a task{short}" if len(fewer) < len(sizes) else f"all test samples ({', '.join(fewer)})"
    seeds = separation["seed"].nunique()
    near, chance = perplexity(int(sizes.sum())), 100 * separation["chance"].mean()
    return (
        f"{facts.line}. Patient representations of {what}, {', '.join(points)}; seed "
        f"{seed}, the same samples on both sides. Above t-SNE (perplexity {near:g}), below principal components. "
        f"Numbers: mean over {seeds} seed{'s' * (seeds > 1)} of the silhouette by task and of the accuracy with which "
        "a logistic regression tells the task from the whole representation and from its vector part alone (five folds "
        "that keep a patient's samples together; naming the most frequent task would reach "
        f"{chance:.0f} %). The whole representation contains the encoded task token, so that telling the task from it "
        "is no finding."
    )
