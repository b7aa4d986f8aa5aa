"""Tables of analyses: a short one to read and a complete one as CSV."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from tabulate import tabulate

from benchmark.evaluation.comparison import Estimate
from benchmark.files import replace_text
from benchmark.reporting.formats import markdown_text
from benchmark.reporting.names import number
from benchmark.runs.groups import RunGroup


@dataclass(frozen=True)
class Sheet:
    """One table of an analysis.

    Attributes:
        name: begin of the file's name. title: what it shows, up to the word before the name of the data. lines: one
            line a figure, full precision. shown: what is printed, as text; empty if the lines are for plotting only.
            notes: sentences below.
    """

    name: str
    title: str
    lines: pd.DataFrame
    shown: pd.DataFrame
    notes: tuple[str, ...] = ()

    def caption(self, group: RunGroup) -> str:
        """The title with the data and protocol of the group."""
        data, protocol = group.caption["data"], group.caption["protocol"]["name"]
        return f"{'SIMULATED DATA. ' if data['simulated'] else ''}{self.title} {data['name']}, protocol {protocol}."


def to_markdown(sheet: Sheet, group: RunGroup) -> str:
    """Title, table and notes."""
    parts = [f"**{markdown_text(sheet.caption(group))}**"]
    if len(sheet.shown):
        cells = [[markdown_text(str(cell)) for cell in row] for row in sheet.shown.itertuples(index=False)]
        header = [markdown_text(name) for name in sheet.shown.columns]
        parts.append(tabulate(cells, headers=header, tablefmt="github", disable_numparse=True))
    return "\n\n".join([*parts, *map(markdown_text, sheet.notes)]) + "\n"


def write_csv(sheet: Sheet, group: RunGroup, folder: Path) -> Path:
    """Writes the lines with the facts of the group; returns the file."""
    caption = group.caption
    facts = {"data": caption["data"]["name"], "simulated": bool(caption["data"]["simulated"])}
    facts |= {"protocol": caption["protocol"]["name"], "group": group.id}
    if clash := set(facts) & set(sheet.lines.columns):
        raise ValueError(f"columns of {sheet.name} called like facts of the group: {', '.join(sorted(clash))}")
    path = folder / f"{sheet.name}-{group.id}.csv"
    replace_text(path, sheet.lines.assign(**facts).to_csv(index=False, lineterminator="\n"))
    return path


def printed(rows: Sequence[Mapping[str, str]], columns: int) -> pd.DataFrame:
    """Lines that agree in the first columns together, in the order in which they first come, said once.

    >>> printed([{"a": "x", "b": "1"}, {"a": "y", "b": "2"}, {"a": "x", "b": "3"}], 1).to_numpy().tolist()
    [['x', '1'], ['', '3'], ['y', '2']]
    """
    frame = pd.DataFrame(list(rows))
    if frame.empty:
        return frame
    begins = [["\0".join(row[:count]) for row in frame.itertuples(index=False)] for count in range(1, columns + 1)]
    order = np.lexsort([pd.factorize(np.array(begin, dtype=object))[0] for begin in reversed(begins)])
    frame = frame.iloc[order].reset_index(drop=True)
    for name, begin in zip(frame.columns, begins, strict=False):
        ordered = np.array(begin, dtype=object)[order]
        frame.loc[np.r_[False, ordered[1:] == ordered[:-1]], name] = ""
    return frame


def interval(found: Estimate | None, sign: bool = False) -> str:
    """A figure with its interval, as printed.

    >>> interval(Estimate(0.81234, 0.8, 0.825)), interval(None)
    ('.8123 (.8000 to .8250)', '-')
    """
    if found is None:
        return "-"
    return f"{number(found.value, sign=sign)} ({number(found.low, sign=sign)} to {number(found.high, sign=sign)})"


def figures(found: Estimate | None, name: str = "") -> dict[str, float | None]:
    """A figure with its interval as columns of a CSV."""
    keys = (name or "value", f"{name}_low" if name else "low", f"{name}_high" if name else "high")
    return dict(zip(keys, (found.value, found.low, found.high) if found else (None,) * 3, strict=True))
