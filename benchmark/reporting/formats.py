"""A results table as Markdown, LaTeX, CSV, and on the screen."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from rich.console import Group
from rich.table import Table
from rich.text import Text
from tabulate import tabulate

from benchmark.files import replace_text
from benchmark.reporting.names import metric_title, number
from benchmark.reporting.tables import Cell, ResultTable, Row

_LATEX_SPECIAL = (
    {"\N{DEGREE SIGN}": r"$^{\circ}$"}
    | {character: f"\\{character}" for character in "&%$#_{}"}
    | {
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "|": r"\textbar{}",
    }
)

_PADDING = 1


@dataclass(frozen=True)
class _Style:
    """How a format marks and escapes."""

    best: str
    second: str
    escape: Callable[[str], str]
    minus: str = "-"
    close: str = "\N{DEGREE SIGN}"


def latex_text(text: str) -> str:
    """Text with LaTeX's special characters made harmless.

    >>> latex_text("5 % of a_b")
    '5 \\\\% of a\\\\_b'
    """
    return "".join(_LATEX_SPECIAL.get(character, character) for character in text)


def markdown_text(text: str) -> str:
    """Text that Markdown shows as it is, also inside a table."""
    return re.sub(r"([|*_<>`\\])", r"\\\1", text)


MARKDOWN = _Style("**{}**", "<u>{}</u>", markdown_text)
LATEX = _Style(r"\textbf{{{}}}", r"\underline{{{}}}", latex_text, "$-$", r"$^{\circ}$")
SCREEN = _Style("[bold]{}[/bold]", "[underline]{}[/underline]", lambda text: text.replace("[", r"\["))


def to_markdown(table: ResultTable, all_metrics: bool = False) -> str:
    """Caption, table and notes."""
    frame = _frame(table, MARKDOWN, all_metrics)
    body = tabulate(frame, headers="keys", tablefmt="github", showindex=False, disable_numparse=True)
    notes = [markdown_text(note) for note in table.notes]
    return "\n\n".join([f"**{markdown_text(table.caption)}**", body, *notes]) + "\n"


def to_latex(table: ResultTable, all_metrics: bool = False) -> str:
    """A floating table for papers; needs the package booktabs."""
    frame = _frame(table, LATEX, all_metrics)
    lines = []
    for position, cells in enumerate(frame.itertuples(index=False)):
        if position and cells[0]:
            lines.append(r"\addlinespace")
        lines.append(_latex_row(cells))
    return "\n".join(
        [
            r"% needs \usepackage{booktabs}",
            r"\begin{table*}[t]",
            r"\centering",
            r"\footnotesize",
            r"\setlength{\tabcolsep}{3pt}",
            rf"\caption{{{latex_text(' '.join([table.caption, *table.notes]))}}}",
            rf"\label{{tab:{table.name}-{table.group.id}}}",
            rf"\begin{{tabular}}{{ll{'c' * (frame.shape[1] - 2)}}}",
            r"\toprule",
            _latex_row(frame.columns),
            r"\midrule",
            *lines,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table*}",
            "",
        ]
    )


def _latex_row(cells: Iterable[str]) -> str:
    return " & ".join(cells) + r" \\"


def to_csv(table: ResultTable) -> str:
    """One line a figure, all metrics, full precision."""
    caption = table.group.caption
    facts = {
        "data": caption["data"]["name"],
        "simulated": table.simulated,
        "protocol": caption["protocol"]["name"],
        "encoder": caption["encoder"]["name"] if caption["encoder"] else "",
        "group": table.group.id,
    }
    lines = []
    for row in table.rows:
        for model, cell in row.cells.items():
            line = {
                "task": row.task,
                "label_fraction": row.label_fraction,
                "metric": row.metric,
                "model": model,
                "seeds": cell.seeds if cell else 0,
            }
            line |= {"mean": cell.mean if cell else None, "std": cell.std if cell else None, "ceiling": row.ceiling}
            if table.has_intervals:
                line |= {"low": cell.low if cell else None, "high": cell.high if cell else None}
                line["p_best"] = cell.p if cell else None
            if table.with_published:
                line["published_mean"] = cell.published_mean if cell else None
                line["published_std"] = cell.published_std if cell else None
                line["difference"] = cell.difference if cell else None
            lines.append({**line, **facts})
    return pd.DataFrame(lines).to_csv(index=False, lineterminator="\n")


def to_screen(table: ResultTable, all_metrics: bool = False, width: int | None = None) -> Group:
    """The table for a terminal, caption and notes below; in several blocks of models if it is wider than `width`."""
    frame = _frame(table, SCREEN, all_metrics)
    widths = [
        2 * _PADDING + max(Text.from_markup(text).cell_len for text in (name, *frame.iloc[:, position]))
        for position, name in enumerate(frame.columns)
    ]
    room = math.inf if width is None else width - sum(widths[:2])
    blocks: list[list[int]] = [[]]
    for position in range(2, len(widths)):
        if blocks[-1] and sum(widths[other] for other in blocks[-1]) + widths[position] > room:
            blocks.append([])
        blocks[-1].append(position)
    shown = [part for block in blocks for part in (_screen_block(frame.iloc[:, [0, 1, *block]]), "")]
    return Group(*shown, *(Text(line) for line in (table.caption, *table.notes)), "")


def _screen_block(frame: pd.DataFrame) -> Table:
    shown = Table(padding=(0, _PADDING), box=None)
    for position, name in enumerate(frame.columns):
        shown.add_column(name, justify="left" if position < 2 else "right", no_wrap=True)
    for row in frame.itertuples(index=False):
        shown.add_row(*row)
    return shown


def write_tables(table: ResultTable, folder: Path, all_metrics: bool = False) -> dict[str, Path]:
    """Writes the three files of a table; returns their paths by format."""
    protocol = re.sub(r"[^A-Za-z0-9.+-]+", "-", table.group.caption["protocol"]["name"])
    ending = "-published" * table.with_published + "-all-metrics" * all_metrics
    stem = f"{table.name}-{protocol}-{table.group.id}{ending}"
    texts = {
        "Markdown": (".md", to_markdown(table, all_metrics)),
        "LaTeX": (".tex", to_latex(table, all_metrics)),
        "CSV": (".csv", to_csv(table)),
    }
    paths = {}
    for name, (suffix, text) in texts.items():
        paths[name] = folder / (stem + suffix)
        replace_text(paths[name], text)
    return paths


def _frame(table: ResultTable, style: _Style, all_metrics: bool) -> pd.DataFrame:
    """Printed cells; the task stands in the first of its rows only."""
    header = ["task", "metric", *(style.escape(table.titles[name]) for name in table.columns)]
    if table.has_ceiling:
        header.append("ceiling")
    lines, before = [], None
    for row in (row for row in table.rows if all_metrics or row.main):
        task = style.escape(row.title) if row.title != before else ""
        before = row.title
        cells = [_print(row.cells[name], style) for name in table.columns]
        lines.append(
            [
                task,
                style.escape(metric_title(row.metric)),
                *cells,
                *_end(table, number(row.ceiling) if row.ceiling is not None else "-"),
            ]
        )
        if table.with_published and row.published:
            lines += _published_lines(table, row, style)
    return pd.DataFrame(lines, columns=header)


def _published_lines(table: ResultTable, row: Row, style: _Style) -> list[list[str]]:
    cells = [row.cells[name] for name in table.columns]
    paper = [_mean_std(cell.published_mean, cell.published_std) if _has_published(cell) else "" for cell in cells]
    difference = [number(cell.difference, sign=True) if _has_published(cell) else "" for cell in cells]
    difference = [text.replace("-", style.minus) for text in difference]
    return [["", "- paper", *paper, *_end(table, "")], ["", "- difference", *difference, *_end(table, "")]]


def _has_published(cell: Cell | None) -> bool:
    return cell is not None and cell.published_mean is not None


def _end(table: ResultTable, ceiling: str) -> list[str]:
    return [ceiling] if table.has_ceiling else []


def _print(cell: Cell | None, style: _Style) -> str:
    if cell is None:
        return "-"
    if cell.mean is None:
        return "n.a."
    mark = {1: style.best, 2: style.second}.get(cell.rank, "{}")
    return mark.format(number(cell.mean)) + (style.close if cell.close else "") + _spread(cell.std)


def _mean_std(mean: float | None, std: float | None) -> str:
    return number(mean) + _spread(std)


def _spread(std: float | None) -> str:
    return "" if std is None or math.isnan(std) else f" ({number(std, 3)})"
