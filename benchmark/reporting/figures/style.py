"""What all figures share: sizes, colours, the line that names the data, and the files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from benchmark.files import replace_text, replacing
from benchmark.reporting.names import number
from benchmark.tasks import TASKS

WIDTH = 7.0
"""Inches: the text of a two-column page."""

INK, GREY, PALE, STRONG = "#1f2933", "#8a94a0", "#a9c3d6", "#0072b2"

# The eight colours of Okabe and Ito, which people with any kind of colour vision can tell apart, without yellow.
_COLOURS = ("#0072b2", "#e69f00", "#56b4e9", "#009e73", "#cc79a7", "#d55e00", "#000000")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
COLOURS: Mapping[str, str] = dict(zip(TASKS, _COLOURS, strict=True))
MARKERS: Mapping[str, str] = dict(zip(TASKS, _MARKERS, strict=True))
"""Colour and marker of each task."""

LEGEND = {"handletextpad": 0.1, "columnspacing": 1.6, "borderpad": 0.2}

STYLE = {
    "font.family": "sans-serif",
    "font.size": 7,
    "axes.titlesize": 7.5,
    "axes.labelsize": 7,
    "xtick.labelsize": 6.5,
    "ytick.labelsize": 6.5,
    "legend.fontsize": 7,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "text.color": INK,
    "pdf.fonttype": 42,
    "svg.fonttype": "none",
    "svg.hashsalt": "flexcare-bench",
}
"""Letters stay letters in PDF and SVG, and equal data give equal files."""

_FORMATS = {"pdf": {"CreationDate": None}, "svg": {"Date": None}, "png": {}}


@dataclass(frozen=True)
class Facts:
    """What the runs of a figure share: name of the data, whether they are made up, protocol, id of the group."""

    data: str
    simulated: bool
    protocol: str
    group: str

    @property
    def line(self) -> str:
        """Stands in every picture."""
        kind = "SIMULATED DATA" if self.simulated else "Data"
        return f"{kind}: {self.data}; protocol {self.protocol}"


@dataclass(frozen=True)
class Drawn:
    """A figure and what belongs to it.

    Attributes:
        name: begin of its files' names. caption: complete sentences. figure: the picture. facts: of its runs.
        tables: its data; the one named "" has the figure's own name, others have theirs behind it.
    """

    name: str
    caption: str
    figure: Figure
    facts: Facts
    tables: Mapping[str, pd.DataFrame]


def new_figure(height: float, facts: Facts) -> Figure:
    """An empty page of full width with the line that names the data at its foot; use within `matplotlib.rc_context`."""
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    weight = "bold" if facts.simulated else "normal"
    figure.supxlabel(facts.line, x=0.005, ha="left", fontsize=6, color=INK if facts.simulated else GREY, weight=weight)
    figure.get_layout_engine().set(w_pad=0.03, h_pad=0.03)
    return figure


def tick(value: float, _: int | None = None) -> str:
    """A tick's label as the paper prints figures, without the zero before the point.

    >>> tick(0.9), tick(0.0), tick(-0.125), tick(1.0)
    ('.9', '0', '\N{MINUS SIGN}.125', '1')
    """
    digits = f"{abs(value):.3f}".rstrip("0").rstrip(".")
    text = digits if digits == "0" else digits.removeprefix("0")
    return f"\N{MINUS SIGN}{text}" if value < 0 and text != "0" else text


def heat(
    axes: Axes, values: pd.DataFrame, colours: str, low: float, high: float, digits: int, sign: bool = False
) -> AxesImage:
    """A matrix as coloured cells, each with its number in ink that can be read on it."""
    image = axes.imshow(values.to_numpy(float), cmap=colours, vmin=low, vmax=high, aspect="auto")
    for (row, column), value in _cells(values):
        red, green, blue, _ = image.cmap(image.norm(value))
        dark = 0.299 * red + 0.587 * green + 0.114 * blue < 0.5
        text = number(value, digits, sign=sign).replace("-", "\N{MINUS SIGN}")
        axes.text(column, row, text, ha="center", va="center", fontsize=5.5, color="white" if dark else INK)
    axes.set_xticks(range(values.shape[1]), [str(name) for name in values.columns])
    axes.set_yticks(range(values.shape[0]), [str(name) for name in values.index])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return image


def _cells(values: pd.DataFrame) -> list[tuple[tuple[int, int], float]]:
    rows, columns = values.shape
    return [
        ((row, column), float(values.iat[row, column]))
        for row in range(rows)
        for column in range(columns)
        if pd.notna(values.iat[row, column])
    ]


def write(drawn: Drawn, folder: Path) -> list[Path]:
    """Writes a figure's picture in three formats, its data and its caption; returns the files."""
    folder.mkdir(parents=True, exist_ok=True)
    stem = f"{drawn.name}-{drawn.facts.group}"
    files = []
    with matplotlib.rc_context(STYLE):
        if drawn.figure.get_layout_engine() is not None:
            # Placed once: a second layout of the same page moves it by fractions of a point.
            drawn.figure.draw_without_rendering()
            drawn.figure.set_layout_engine("none")
        for ending, metadata in _FORMATS.items():
            files.append(folder / f"{stem}.{ending}")
            with replacing(files[-1]) as stream:
                drawn.figure.savefig(stream, format=ending, dpi=300, metadata=metadata)
    facts = {"data": drawn.facts.data, "simulated": drawn.facts.simulated, "protocol": drawn.facts.protocol}
    for name, table in drawn.tables.items():
        files.append(folder / (f"{stem}-{name}.csv" if name else f"{stem}.csv"))
        text = table.assign(**facts, group=drawn.facts.group).to_csv(index=False, lineterminator="\n")
        replace_text(files[-1], text)
    files.append(folder / f"{stem}.txt")
    replace_text(files[-1], drawn.caption + "\n")
    return files
