"""The figures of the cohort report, as SVG text that stands in a page by itself."""

from __future__ import annotations

import io
import re
import textwrap
from collections.abc import Callable
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from benchmark.tasks import TASKS

BLUE, ORANGE, GREY, PALE, INK = "#2a6f97", "#d97706", "#8a94a0", "#e8eff4", "#1f2933"

_STYLE = {
    "font.family": "sans-serif",
    "font.size": 9,
    "svg.fonttype": "none",
    "svg.hashsalt": "cohort report",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "text.color": INK,
}

WIDTH = 9.5
"""Inches of every figure, so that all have letters of one size on the page."""


def figures(report: dict[str, Any]) -> dict[str, str]:
    """SVG of every figure that the report's data allow, by name."""
    drawn = {}
    with matplotlib.rc_context(_STYLE):
        for name, draw in _DRAW.items():
            figure = draw(report)
            if figure is not None:
                drawn[name] = _svg(figure, name)
    return drawn


def _svg(figure: Figure, name: str) -> str:
    stream = io.StringIO()
    figure.savefig(stream, format="svg", bbox_inches="tight", metadata={"Date": None, "Creator": None})
    text = stream.getvalue()
    text = text[text.index("<svg") :]
    # Several figures share a page: their inner names must not meet.
    text = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", text)
    return re.sub(r'width="[\d.]+pt" height="[\d.]+pt"', 'width="100%"', text, count=1)


def _new(height: float, columns: int = 1) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    axes = figure.subplots(1, columns, squeeze=False)[0]
    return figure, list(axes)


def _flow(report: dict[str, Any]) -> Figure:
    """Boxes from top to bottom for the stays, then one row of boxes a task."""
    selection = [step for step in report["selection"] if step["dropped"] or not step["reason"]]
    tasks = list(report["tasks"].items())
    height = 0.62 * len(selection) + 0.55 + sum(_task_height(facts) for _, facts in tasks)
    figure = Figure(figsize=(WIDTH, height))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, WIDTH), ylim=(-height, 0))
    axes.axis("off")
    y = -0.3
    for number, step in enumerate(selection):
        _box(axes, 0.1, y, 3.9, f"{step['name']}:  {step['kept']:,}", PALE)
        if number:
            _arrow(axes, (2.05, y + 0.42), (2.05, y + 0.2))
            _box(axes, 4.9, y, 4.5, f"left out {step['dropped']:,}: {step['reason']}", "white", size=8)
            _arrow(axes, (4.0, y), (4.9, y))
        y -= 0.62
    y -= 0.1
    axes.plot([0.1, WIDTH - 0.1], [y + 0.2, y + 0.2], color=GREY, linewidth=0.6)
    for task, facts in tasks:
        y -= 0.12
        first, *further = facts["flow"]
        _box(axes, 0.1, y, 3.9, f"{first['name']}:  {first['kept']:,}", PALE)
        _box(axes, 7.9, y, 1.5, f"{TASKS[task].title}:  {facts['samples']:,}", BLUE, "white")
        losses = [step for step in further if step["dropped"]]
        _arrow(axes, (4.0, y), (7.9, y))
        lines = [line for step in losses for line in _lost(step)]
        for place, line in enumerate(lines):
            axes.text(4.15, y - 0.14 - 0.2 * place, line, fontsize=8, va="center")
        y -= _task_height(facts) - 0.12
    return figure


def _task_height(facts: dict[str, Any]) -> float:
    return max(0.62, 0.4 + 0.2 * sum(len(_lost(step)) for step in facts["flow"] if step["dropped"]))


def _lost(step: dict[str, Any]) -> list[str]:
    """What a step leaves out, in lines that fit between the boxes."""
    return textwrap.wrap(f"left out {step['dropped']:,}: {step['reason']}", 58, subsequent_indent="    ")


def _box(axes: Axes, x: float, y: float, width: float, text: str, colour: str, ink: str = INK, size: float = 9) -> None:
    shape = FancyBboxPatch((x, y - 0.2), width, 0.4, boxstyle="round,pad=0,rounding_size=0.06", facecolor=colour,
                           edgecolor=GREY, linewidth=0.8)  # fmt: skip
    axes.add_patch(shape)
    axes.text(x + width / 2, y, text, ha="center", va="center", color=ink, fontsize=size)


def _arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    axes.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "color": GREY, "shrinkA": 0, "shrinkB": 0})


def _missing(report: dict[str, Any]) -> Figure:
    tasks = list(report["tasks"].items())
    figure, panels = _new(0.6 + 0.33 * len(tasks), 3)
    for axes, (name, title) in zip(
        panels, (("ehr", "ICU series"), ("cxr", "chest film"), ("note", "note")), strict=True
    ):
        own = [facts["missing_percent"][name] for _, facts in tasks]
        paper = [facts["published"][name] for _, facts in tasks]
        places = range(len(tasks))
        axes.barh(places, own, height=0.6, color=BLUE, label="these data")
        known = [(share, place) for place, share in zip(places, paper, strict=True) if share is not None]
        axes.scatter([share for share, _ in known], [place for _, place in known], marker="D", s=22, color=ORANGE,
                     zorder=3, label="paper")  # fmt: skip
        axes.set(xlim=(0, 103), xlabel="% of samples without", title=title)
        axes.set_yticks(list(places), [TASKS[task].title for task, _ in tasks] if axes is panels[0] else [])
        axes.invert_yaxis()
    panels[-1].legend(frameon=False, loc="lower right")
    return figure


def _by_note(report: dict[str, Any]) -> Figure | None:
    tasks = [(TASKS[task].title, facts["by_note"]) for task, facts in report["tasks"].items() if "by_note" in facts]
    if not tasks:
        return None
    figure, (axes,) = _new(2.4)
    for shift, key, colour, label in ((-0.2, "present", BLUE, "with a note"), (0.2, "missing", ORANGE, "without")):
        shares = [100 * facts[key]["positives"] / max(facts[key]["samples"], 1) for _, facts in tasks]
        bars = axes.bar([place + shift for place in range(len(tasks))], shares, width=0.38, color=colour, label=label)
        axes.bar_label(bars, [f"{facts[key]['positives']:,} of {facts[key]['samples']:,}" for _, facts in tasks],
                       fontsize=8, padding=2)  # fmt: skip
    axes.set_xticks(range(len(tasks)), [title for title, _ in tasks])
    axes.set_ylabel("outcome, % of samples")
    axes.legend(frameon=False)
    return figure


def _phenotypes(report: dict[str, Any]) -> Figure | None:
    versions = report.get("phenotypes_by_icd_version")
    if not versions:
        return None
    names = list(report["tasks"]["phe"]["positives"])
    figure, (axes,) = _new(0.6 + 0.27 * len(names))
    for shift, (version, facts), colour in zip((-0.2, 0.2), versions.items(), (BLUE, ORANGE), strict=True):
        shares = [0.0 if share is None else 100 * share for share in facts["prevalence"]]
        places = [place + shift for place in range(len(names))]
        axes.barh(places, shares, height=0.38, color=colour, label=f"ICD-{version} ({facts['stays']:,} stays)")
    axes.set_yticks(range(len(names)), [name if len(name) < 60 else f"{name[:57]}..." for name in names])
    axes.set(xlabel="% of stays", ylim=(len(names) - 0.4, -0.6))
    axes.legend(frameon=False, loc="lower right")
    return figure


def _lengths(report: dict[str, Any]) -> Figure:
    lengths = report["lengths"]
    figure = Figure(figsize=(WIDTH, 2.3 * ((len(lengths) + 1) // 2)), layout="constrained")
    panels = figure.subplots((len(lengths) + 1) // 2, 2, squeeze=False).ravel()
    for axes in panels[len(lengths) :]:
        axes.axis("off")
    for axes, (name, facts) in zip(panels, lengths.items(), strict=False):
        edges, counts = facts["edges"], facts["counts"]
        shares = [100 * count / max(facts["n"], 1) for count in counts]
        axes.bar(range(len(counts)), shares, width=0.92, align="edge", color=[BLUE] * (len(counts) - 1) + [GREY])
        axes.set_xticks(range(len(edges)), [f"{edge:g}" for edge in edges], fontsize=8)
        axes.set(xlabel=name, ylabel="%")
    return figure


def _observed(report: dict[str, Any]) -> Figure:
    shares = {name: 100 * share for name, share in report["observed_hours"].items()}
    figure, (axes,) = _new(0.6 + 0.24 * len(shares))
    bars = axes.barh(range(len(shares)), list(shares.values()), height=0.65, color=BLUE)
    axes.bar_label(bars, [f"{share:.1f}" for share in shares.values()], fontsize=8, padding=3)
    axes.set_yticks(range(len(shares)), list(shares))
    axes.set(xlabel="% of hours observed", xlim=(0, 105), ylim=(len(shares) - 0.4, -0.6))
    return figure


_DRAW: dict[str, Callable[[dict[str, Any]], Figure | None]] = {
    "flow": _flow,
    "missing": _missing,
    "by_note": _by_note,
    "phenotypes": _phenotypes,
    "lengths": _lengths,
    "observed": _observed,
}
