"""Plots of measured speed; every one says that its samples are made up, and on what device it was measured."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from benchmark.reporting.figures.style import GREY, INK, PALE, STRONG, STYLE, WIDTH
from benchmark.throughput.clock import Spread
from benchmark.throughput.output import SIMULATED
from benchmark.throughput.scaling import QUANTITIES, Point, by_work, groups
from benchmark.throughput.steps import Measurement, Row


def page(height: float, caption: str) -> Figure:
    """An empty page with the line that names the samples and the device; use within `matplotlib.rc_context`."""
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    figure.supxlabel(f"{SIMULATED}. {caption}", x=0.005, ha="left", fontsize=6, color=INK, weight="bold")
    return figure


def draw_steps(found: Measurement, caption: str) -> Figure:
    """Training samples a second of every model, task and form; whiskers from the slowest to the fastest round."""
    rows = [row for comparison in found.comparisons for row in comparison.rows]
    labels = [
        f"{row.title}, {row.task.upper()}: {row.form} {row.dtype}" + f" x {row.seeds}" * (row.seeds > 1) for row in rows
    ]
    places = np.arange(len(rows))[::-1]
    rates = np.array([_rates(row) for row in rows])  # (rows, 3)
    with matplotlib.rc_context(STYLE):
        figure = page(1.0 + 0.15 * len(rows), caption)
        axes = figure.add_subplot()
        colours = [PALE if row.form == "dense" else STRONG for row in rows]
        around = np.abs(rates[:, 1:] - rates[:, :1]).T
        axes.barh(places, rates[:, 0], color=colours, xerr=around, error_kw={"lw": 0.7, "ecolor": GREY})
        axes.set_yticks(places, labels)
        axes.set_xscale("log")
        axes.set_xlabel("training samples a second, all seeds of a step together")
    return figure


def _rates(row: Row) -> tuple[float, float, float]:
    """Median, least, largest."""
    time, samples = Spread.of(row.train), row.seeds * row.batch_size
    return samples / time.median, samples / time.high, samples / time.low


def draw_scaling(points: Sequence[Point], caption: str) -> Figure:
    """Every quantity in a panel of its own: measured points, and the curve of their work."""
    found = groups(points)
    columns = len(QUANTITIES)
    kinds = list(dict.fromkeys((group[0].model, group[0].task) for group in found))
    with matplotlib.rc_context(STYLE):
        figure = page(0.6 + 1.6 * len(kinds), caption)
        panels = figure.subplots(len(kinds), columns, squeeze=False)
        for panel in panels.flat:
            panel.set_visible(False)
        for group in found:
            first = group[0]
            axes = panels[kinds.index((first.model, first.task)), QUANTITIES.index(first.quantity)]
            axes.set_visible(True)
            values = [point.value for point in group]
            middle = np.array([1e3 * point.time.median for point in group])
            around = [
                [m - 1e3 * point.time.low for m, point in zip(middle, group, strict=True)],
                [1e3 * point.time.high - m for m, point in zip(middle, group, strict=True)],
            ]
            axes.plot(values, [1e3 * each for each in by_work(group)], color=GREY, lw=0.9, label="by its work")
            axes.errorbar(values, middle, yerr=around, fmt="o", ms=3, color=STRONG, lw=0.8, label="measured")
            axes.set_title(f"{first.title}, {first.task.upper()}, {first.form}", fontsize=6)
            axes.set_xlabel(first.quantity)
            axes.set_yscale("log")
            if first.quantity != "missing rate":
                axes.set_xscale("log", base=2)
        for row in panels:
            row[0].set_ylabel("ms a step (an epoch)")
        figure.legend(*panels[0, 0].get_legend_handles_labels(), frameon=False, ncols=2, loc="outside upper right")
    return figure
