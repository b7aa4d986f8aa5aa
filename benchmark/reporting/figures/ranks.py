"""Mean ranks over tasks on a line, with the distance below which two models are not told apart."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib
import pandas as pd

from benchmark.evaluation.comparison import Ranking
from benchmark.reporting.figures.style import INK, STRONG, STYLE, Drawn, Facts, new_figure
from benchmark.reporting.names import p_value


def draw_ranks(found: Ranking, titles: Mapping[str, str], facts: Facts) -> Drawn:
    """The critical-difference diagram.

    Args:
        found: mean ranks, best first. titles: of models.
    """
    names, ranks = list(found.ranks), list(found.ranks.values())
    groups = alike(ranks, found.critical)
    left = (len(names) + 1) // 2
    with matplotlib.rc_context(STYLE):
        figure = new_figure(1.0 + 0.17 * (left + len(groups)), facts)
        axes = figure.add_subplot()
        axes.set_xlim(len(names) + 0.6, 0.4)  # the best on the right, as in the literature
        top, step = 0.0, 1.0
        bars = top - 0.7 * len(groups) - 0.6
        axes.plot([1, len(names)], [top, top], color=INK, lw=0.8)
        for rank in range(1, len(names) + 1):
            axes.plot([rank, rank], [top, top + 0.25], color=INK, lw=0.8)
            axes.text(rank, top + 0.4, str(rank), ha="center", va="bottom")
        for level, (first, last) in enumerate(groups):
            height = top - 0.55 - 0.7 * level
            axes.plot(
                [ranks[first] - 0.04, ranks[last] + 0.04], [height, height], color=STRONG, lw=3, solid_capstyle="round"
            )
        for place, (name, rank) in enumerate(zip(names, ranks, strict=True)):
            best_side = place < left
            height = bars - step * (place if best_side else len(names) - 1 - place)
            edge = 0.55 if best_side else len(names) + 0.45
            axes.plot([rank, rank, edge], [top, height, height], color=INK, lw=0.6)
            text = f"{titles[name]}  {rank:.2f}"
            axes.text(edge, height, text, ha="left" if best_side else "right", va="center")
        axes.plot([1, 1 + found.critical], [top + 1.7, top + 1.7], color=INK, lw=1.2)
        axes.text(
            1 + found.critical / 2, top + 1.8, f"critical difference {found.critical:.2f}", ha="center", va="bottom"
        )
        axes.set_ylim(bars - step * left, top + 3.0)
        axes.set_axis_off()
    caption = (
        f"Mean ranks by the first metric of {found.tasks} tasks (1 is best). Bars join models whose mean ranks differ "
        f"by less than the critical difference of the Nemenyi test at 0.05 ({found.critical:.2f}); Friedman test: p "
        f"{p_value(found.p)}. With so few tasks this describes; it does not decide."
    )
    table = pd.DataFrame({"model": names, "mean_rank": ranks}).assign(critical_difference=found.critical, p=found.p)
    return Drawn("ranks", caption, figure, facts, {"": table})


def alike(ranks: list[float], critical: float) -> list[tuple[int, int]]:
    """First and last place of each largest run of models that differ by less than the critical difference.

    >>> alike([1.0, 1.5, 3.0, 3.2], 1.6)
    [(0, 1), (1, 2), (2, 3)]
    >>> alike([1.0, 1.5, 2.0], 1.6)
    [(0, 2)]
    """
    runs: list[tuple[int, int]] = []
    for first in range(len(ranks)):
        last = max(place for place in range(first, len(ranks)) if ranks[place] - ranks[first] < critical)
        if last > first and (not runs or last > runs[-1][1]):
            runs.append((first, last))
    return runs
