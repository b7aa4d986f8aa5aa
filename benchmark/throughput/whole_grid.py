"""What the measured steps mean for a whole grid: seeds side by side, and the paper's Table 3 in full."""

from __future__ import annotations

import pandas as pd

from benchmark.registry import models
from benchmark.reporting.names import task_title
from benchmark.reporting.sheets import Sheet
from benchmark.tasks import TASKS
from benchmark.throughput.clock import Spread
from benchmark.throughput.steps import Measurement, Row, ratio
from benchmark.throughput.tables import times

TOGETHER = (
    "Time of as many runs one after another, each alone in the fixed form, by that of one step for all of them: median "
    "over rounds (least to largest).",
)
TABLE3 = (
    "Hours of training and validation = seeds * epochs * sum over tasks of (steps an epoch * training ms / seeds in a "
    "step + validation samples / inference samples a second). Epochs, seeds and batch size are the protocol's, steps "
    "and samples those of the paper's Table 2 (70 % of training, 10 % of validation). Computed from the medians of the "
    "measured steps; the making of batches, the tests at the end and the note encoder are not in it, and neither is "
    "that a few steps of the fixed form in a hundred are done in two rooms. Runs "
    "predict 256 samples at a time, or more, as a GPU's memory allows.",
)


def together_sheet(found: Measurement) -> Sheet | None:
    """Several seeds in a step against one; None where not both were measured."""
    lines, shown = [], []
    for comparison in found.comparisons:
        for row in comparison.rows:
            alone = next((r for r in comparison.rows if (r.form, r.dtype) == ("alone", row.dtype)), None)
            if row.form != "fixed" or alone is None:
                continue
            gain = ratio(alone, row)
            key = {"model": row.model, "task": row.task, "dtype": row.dtype, "seeds": row.seeds}
            lines.append(key | {"ratio": gain.median, "ratio_low": gain.low, "ratio_high": gain.high})
            names = {"model": row.title, "task": task_title(row.task), "dtype": row.dtype, "seeds": str(row.seeds)}
            shown.append(names | {"one after another takes": times(gain)})
    if not lines:
        return None
    return Sheet("together", "Seeds side by side", pd.DataFrame(lines), pd.DataFrame(shown), TOGETHER)


def table3_sheet(found: Measurement, epochs: dict[bool, int], seeds: int) -> Sheet | None:
    """The paper's main table at the measured speed; None where no column of it was measured on all of its tasks.

    Args:
        epochs: of models trained on all tasks together (True) and on one (False). seeds: of each model.
    """
    tasks = [name for name, task in TASKS.items() if task.in_table3]
    columns = [entry for entry in models().values() if entry.group == "table3"]
    cells: dict[tuple[str, str, int], dict[str, dict[str, Row]]] = {}
    for row in (row for comparison in found.comparisons for row in comparison.rows):
        cells.setdefault((row.form, row.dtype, row.seeds), {}).setdefault(row.model, {})[row.task] = row
    lines, shown = [], []
    for (form, dtype, side_by_side), of_models in cells.items():
        total, complete = 0.0, 0
        for entry in columns:
            rows = of_models.get(entry.name, {})
            if set(rows) < set(tasks):
                continue
            hours = seeds * epochs[entry.multitask] * sum(_seconds_an_epoch(row) for row in rows.values()) / 3600
            total, complete = total + hours, complete + 1
            steps = sum(row.steps for row in rows.values())
            names = {"form": form, "dtype": dtype, "seeds in a step": str(side_by_side)}
            work = f"{seeds} seeds x {epochs[entry.multitask]} epochs x {steps:,} steps"
            lines.append({"model": entry.name, "hours": hours, "steps": steps} | names)
            shown.append({"model": entry.title} | names | {"work": work, "hours": f"{hours:,.2f}"})
        if complete:
            names = {"form": form, "dtype": dtype, "seeds in a step": str(side_by_side)}
            title = f"{complete} of {len(columns)} columns"
            shown.append({"model": title} | names | {"work": "together", "hours": f"{total:,.2f}"})
            lines.append({"model": title, "hours": total, "steps": 0} | names)
    if not lines:
        return None
    return Sheet("table3", "Table 3 of the paper at this speed", pd.DataFrame(lines), pd.DataFrame(shown), TABLE3)


def _seconds_an_epoch(row: Row) -> float:
    """Of one seed: training steps, and validation at the speed of predictions."""
    return row.steps * Spread.of(row.train).median / row.seeds + row.validation / row.infer_rate
