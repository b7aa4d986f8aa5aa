"""From measured steps to a grid of runs: arithmetic by hand."""

from __future__ import annotations

import pytest

from benchmark.tasks import TASKS
from benchmark.throughput.steps import Comparison, Measurement, Row
from benchmark.throughput.whole_grid import table3_sheet, together_sheet

TASKS_OF_TABLE3 = [name for name, task in TASKS.items() if task.in_table3]


def row(model: str, task: str, form: str, seeds: int, train: float, infer: float = 0.5) -> Row:
    counts = {"operations": 1, "waits": 0, "kernels": None, "cuda_waits": None, "train_flops": 1, "infer_flops": 1}
    more = {"peak_bytes": 1, "difference": 0.0, "steps": 100, "validation": 80, "idle": None}
    times = {"train": (train,) * 3, "infer": (infer,) * 3}
    names = {"model": model, "title": model.upper(), "task": task, "form": form, "dtype": "float32"}
    return Row(**names, seeds=seeds, batch_size=8, **times, **counts, **more)


def found(model: str, tasks: list[str]) -> Measurement:
    comparisons = []
    for task in tasks:
        rows = (row(model, task, "fixed", 5, train=2.0), row(model, task, "alone", 1, train=1.6))
        comparisons.append(Comparison(rows, rows[0]))
    return Measurement(tuple(comparisons), {"float32": 1.0})


def test_runs_one_after_another_take_their_number_times_one() -> None:
    sheet = together_sheet(found("mmf", ["ihm"]))
    assert sheet.lines["ratio"].tolist() == [pytest.approx(5 * 1.6 / 2.0)]


def test_table_3_is_the_sum_of_its_columns() -> None:
    sheet = table3_sheet(found("mmf", TASKS_OF_TABLE3), {True: 25, False: 40}, seeds=5)
    fixed = sheet.lines.set_index(["model", "form"])["hours"]
    # six tasks, 5 seeds, 40 epochs: 100 steps of 2 s for five seeds, and 80 samples at 16 a second
    assert fixed["mmf", "fixed"] == pytest.approx(6 * 5 * 40 * (100 * 2.0 / 5 + 5.0) / 3600)
    assert fixed["mmf", "alone"] == pytest.approx(6 * 5 * 40 * (100 * 1.6 + 5.0) / 3600)
    assert fixed["1 of 7 columns", "fixed"] == fixed["mmf", "fixed"]


def test_what_was_not_measured_is_not_extrapolated() -> None:
    assert table3_sheet(found("mmf", TASKS_OF_TABLE3[:5]), {True: 25, False: 40}, seeds=5) is None
    assert together_sheet(Measurement((), {})) is None
