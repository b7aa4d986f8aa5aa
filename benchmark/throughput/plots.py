"""Plots of measured speed; every one says that its samples are made up, and on what device it was measured."""

from __future__ import annotations

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from benchmark.reporting.figures.style import GREY, INK, PALE, STRONG, STYLE, WIDTH
from benchmark.throughput.clock import Spread
from benchmark.throughput.output import SIMULATED
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
