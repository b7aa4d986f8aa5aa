"""Which models and tasks stand together in one table, after the tables of the paper.

Models are chosen by the group of their registry entry, or by the published table that they appear in, never by name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import pandas as pd

from benchmark.published import published
from benchmark.tasks import TASKS
from models.contract import ModelEntry


@dataclass(frozen=True)
class Layout:
    """One kind of table.

    Attributes:
        name: begin of its files' names. title: opens the caption; empty for the main table.
        models: names that may be columns; None: all. tasks: names that may be rows.
        needs: the table is made if one of these models has runs; None: if any model of `models` has.
        paper: published figures for its cells: task, metric, model, label_fraction, mean, std.
        notes: sentences below it.
    """

    name: str
    title: str
    models: frozenset[str] | None
    tasks: tuple[str, ...]
    paper: pd.DataFrame
    needs: frozenset[str] | None = None
    notes: tuple[str, ...] = ()

    def holds(self, model: str, task: str) -> bool:
        """Whether a run of `model` on `task` belongs into the table."""
        return task in self.tasks and (self.models is None or model in self.models)

    def wanted(self, runs: Iterable[tuple[str, str]]) -> bool:
        """Whether runs, each a model and a task, give reason to make the table."""
        return any(self.holds(model, task) and (self.needs is None or model in self.needs) for model, task in runs)


def layouts(entries: Mapping[str, ModelEntry], known: Iterable[str]) -> tuple[Layout, ...]:
    """All layouts, the main one first.

    Args:
        entries: the registered models. known: models with runs; those that are registered no more stand in the main
            table.
    """
    groups = {name: entry.group for name, entry in entries.items()}

    def of(*names: str) -> frozenset[str]:
        return frozenset(model for model, group in groups.items() if group in names)

    main = of("table3", "preset") | (frozenset(known) - groups.keys())
    variants = of("ablation")
    originals = frozenset(entries[name].variant_of for name in variants) - {None}
    compared = frozenset(published("table6")["model"])
    six = tuple(name for name, task in TASKS.items() if task.in_table3)
    further = tuple(name for name, task in TASKS.items() if not task.in_table3)
    table3 = _paper("table3")
    return (
        Layout("table3", "", main, six, table3),
        Layout(
            "ablation", "Ablations (Table 4 and Figure 4).", variants | originals, six, table3, variants, (_removed(),)
        ),
        Layout("table5", "Extension task (Table 5).", None, further, _paper("table5")),
        Layout("table6", "Task token (Table 6).", compared, six, _paper("table6"), compared & variants),
        Layout("references", "Simple references.", of("reference", "table3"), six, table3, of("reference")),
    )


def _removed() -> str:
    """What the paper's ablations are made of, from its Table 4.

    >>> _removed()[:73]
    'Parts of the variants (Table 4). a: none of combinations, decorrelation, '
    """
    table = published("table4")
    parts = ("combinations", "decorrelation", "experts")
    said = []
    for row in table.itertuples():
        held = [part for part in parts if getattr(row, part)]
        said.append(f"{row.name}: {', '.join(held) or 'none of ' + ', '.join(parts)}")
    return f"Parts of the variants (Table 4). {'; '.join(said)}."


def _paper(table: str) -> pd.DataFrame:
    figures = published(table)
    if "label_fraction" not in figures:
        figures = figures.assign(label_fraction=1.0)
    return figures[["table", "task", "metric", "model", "label_fraction", "mean", "std"]]
