"""Estimates of time and memory before anything runs."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from tuning_data import configured, plan_of, prepare

from benchmark.runs import calibrate as calibrating
from benchmark.runs.calibrate import (
    SAMPLES,
    STEPS,
    Estimate,
    Excerpt,
    _seconds,
    kind_of,
    longest_first,
    makespan,
    stored_estimates,
)
from benchmark.runs.execute import Context
from benchmark.runs.outlook import outlook


class Clock:
    before, epoch_seconds = 2.0, 1.0


def test_the_time_of_a_job_follows_from_steps_and_samples_of_the_second_epoch(tmp_path: Path) -> None:
    config = configured(tmp_path, prepare(tmp_path), tasks="ihm,dia", seeds="1")
    (job,) = plan_of(config).jobs  # two epochs of two tasks in batches of 16
    samples = {task: {"train": 1600, "val": 100, "test": 200} for task in job.tasks}
    seconds = {"ihm": [9.0, 0.2], "dia": [9.0, 0.3]}
    rows = [
        {"epoch": e, "task": task, "seconds": seconds[task][e - 1], "samples": 32} for e in (1, 2) for task in job.tasks
    ]
    # An epoch: 100 steps of 0.1 and 100 of 0.15; the 0.5 seconds left of the second one are for 200 samples.
    expected = 2.0 + 2 * (10 + 15 + 0.5) + 400 * 0.5 / 200
    assert _seconds(job, samples, pd.DataFrame(rows), Clock()) == pytest.approx(expected)


def test_kinds_are_calibrated_once_and_on_a_part_of_the_data(tmp_path: Path, monkeypatch) -> None:
    data = prepare(tmp_path, size=900)
    config = configured(tmp_path, data, models="flexcare,mt,boosted-trees", tasks="ihm")
    plan, told = plan_of(config), []
    first = outlook(config, plan, lambda *step: told.append(step))
    assert told == [("calibration", 1, 2), ("calibration", 2, 2)], "two seeds are of one kind"
    assert (first.workers, first.unknown, set(first.by_model)) == (1, 2, {"flexcare", "mt"})
    assert first.seconds == first.work == pytest.approx(sum(2 * one.seconds for one in first.by_model.values()))
    assert 0 < first.longest < first.work
    assert first.memory > 50 * 2**20, "of a process with its libraries"
    excerpt = Excerpt.open(data)
    excerpt.batch_size = 16
    parts = excerpt.task("ihm").partitions
    assert (len(parts["train"]), set(parts)) == (min(STEPS * 16, 630), {"train", "val"})
    assert len(parts["val"]) == min(SAMPLES, 90)

    monkeypatch.setattr(calibrating, "_apart", None)
    assert outlook(config, plan) == first
    known = stored_estimates(Context(data, config.out, "cpu", 1))
    slow = next(job for job in plan.jobs if job.model == "mt")
    ordered = longest_first(plan.jobs, known | {kind_of(slow): Estimate(1e6, 1)}, plan.data.samples)
    assert [job.model for job in ordered[:2]] == ["mt", "mt"]


def test_a_plan_ends_when_its_last_worker_does() -> None:
    assert makespan([5, 4, 3, 3], 2) == 8
    assert makespan([5, 4, 3, 3], 1) == 15
