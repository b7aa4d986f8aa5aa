"""The results in plain sentences: what was compared, what can be told apart, and what is not shown."""

from __future__ import annotations

from collections.abc import Sequence

from benchmark.evaluation.comparison import Ranking, ranking
from benchmark.reporting.names import metric_title, number
from benchmark.reporting.page.blocks import Block
from benchmark.reporting.significance import uncompared
from benchmark.reporting.stored import Stored
from benchmark.reporting.tables import ResultTable, Row


def plain_reading(stored: Stored, tables: Sequence[ResultTable]) -> list[Block]:
    """Sentences for a reader who reads nothing else."""
    main = next((table for table in tables if not table.title), tables[0] if tables else None)
    if main is None:
        return ["There are no finished runs."]
    others = [table.title.rstrip(".") for table in tables if table is not main]
    said: list[Block] = [_compared(main) + (f" Further tables: {'; '.join(others)}." if others else "")]
    for row in (row for row in main.rows if row.main):
        if sentence := _row(row, main):
            said.append(f"- {sentence}")
    said.append(_not_shown(stored, main))
    return said


def _compared(table: ResultTable) -> str:
    seeds = len(table.seeds)
    models = ", ".join(table.titles[name] for name in table.columns)
    tasks = len({row.task for row in table.rows})
    text = f"{_count(len(table.columns), 'model')} ({models}) on {_count(tasks, 'task')}, "
    short = any(cell is not None and cell.seeds < seeds for row in table.rows for cell in row.cells.values())
    text += f"{'up to ' if short else ''}{seeds} training run{'s' if seeds > 1 else ''} each "
    text += f"(seeds {', '.join(map(str, table.seeds))})."
    if table.simulated:
        text += " The patients are simulated: nothing here says how well a model does on real ones."
    return text


def _count(number: int, noun: str) -> str:
    """How many there are.

    >>> _count(1, "task"), _count(6, "task")
    ('1 task', '6 tasks')
    """
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _row(row: Row, table: ResultTable) -> str:
    """Who leads a row, and who cannot be told apart from the leader."""
    cells = {name: cell for name, cell in row.cells.items() if cell is not None and cell.mean is not None}
    if len(cells) < 2 or all(cell.p is None for cell in cells.values()):
        return ""
    best = max(cells, key=lambda name: cells[name].mean)
    close = [table.titles[name] for name, cell in cells.items() if cell.close]
    untested = [table.titles[name] for name in uncompared(row)]
    worse = len(cells) - 1 - len(close) - len(untested)
    lead = f"{row.title} {metric_title(row.metric)}: {table.titles[best]} has the highest mean, "
    lead += number(cells[best].mean)
    if row.ceiling is not None:
        lead += f" of {number(row.ceiling)} that the true probabilities reach"
    if untested:
        lead += f"; {', '.join(untested)} {'is' if len(untested) == 1 else 'are'} not tested against it"
        if not close and not worse:
            return f"{lead}."
    if not close:
        others = _count(worse, "other")
        return f"{lead}; the {others} {'is' if worse == 1 else 'are'} behind it by more than chance."
    if not worse and not untested:
        return f"{lead}; none of the others can be told apart from it."
    behind = ", 1 is behind" if worse == 1 else f", {worse} are behind" if worse else ""
    return f"{lead}; {', '.join(close)} cannot be told apart from it{behind}."


def _not_shown(stored: Stored, table: ResultTable) -> str:
    text = (
        "Not shown: which model is best beyond these patients, this split and this training budget. Intervals and p "
        "values resample test patients and seeds, not training patients; the best of a row is chosen on the same "
        "test set. "
    )
    if len(table.seeds) < 3:
        text += f"With {len(table.seeds)} seed{'s' if len(table.seeds) > 1 else ''} the spread of training runs is "
        text += "hardly known. "
    tasks = {task for tasks in stored.runs["tasks"] for task in tasks}
    if {"phe", "rea", "drg"} & tasks:
        text += "Tasks that read the whole stay or the hospital course look back; they do not forecast."
    return text.strip()


def ranking_of(table: ResultTable) -> Ranking | None:
    """Ranks by the first metric of each task, over models and tasks without gaps; None if too few are left.

    Of a task with several shares of the labels the largest counts: it is one task all the same.
    """
    most = {row.task: max(one.label_fraction for one in table.rows if one.task == row.task) for row in table.rows}
    rows = [row for row in table.rows if row.main and row.metric == _first(row, table)]
    rows = [row for row in rows if row.label_fraction == most[row.task]]
    complete = [row for row in rows if all(cell and cell.mean is not None for cell in row.cells.values())]
    if len(table.columns) < 3 or len(complete) < 2:
        return None
    return ranking({name: [row.cells[name].mean for row in complete] for name in table.columns})


def _first(row: Row, table: ResultTable) -> str:
    return next(one.metric for one in table.rows if (one.task, one.label_fraction) == (row.task, row.label_fraction))
