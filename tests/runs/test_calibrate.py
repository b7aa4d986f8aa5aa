"""Speeds of jobs before anything runs, and what follows from them for a plan."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
from prepared_data import ENCODER, NOTE_WIDTH
from tuning_data import configured, plan_of, prepare

from benchmark.runs import calibrate as calibrating
from benchmark.runs.calibrate import Excerpt, Extent, Speed, Speeds, _speed, calibrate, kind_of, stored_speeds
from benchmark.runs.launch import context_of
from benchmark.runs.outlook import outlook
from benchmark.runs.schedule import pieces_of

SAMPLES = {task: {"train": 1600, "val": 100, "test": 200} for task in ("ihm", "dia")}


def test_the_time_of_a_job_follows_from_steps_and_samples_of_the_fastest_epoch(tmp_path: Path) -> None:
    config = configured(tmp_path, prepare(tmp_path), tasks="ihm,dia", seeds="1,2,3")
    first, *others = plan_of(config).jobs  # two epochs of two tasks in batches of 32
    seconds = {"ihm": [9.0, 0.2, 4.2], "dia": [9.0, 0.3, 0.3]}  # the third one is slow
    rows = [
        {"epoch": e, "task": task, "seconds": seconds[task][e - 1], "samples": 32}
        for e in (1, 2, 3)
        for task in first.tasks
    ]
    reports = [SimpleNamespace(epoch=e, validating=v) for e, v in ((1, 3.0), (2, 0.2), (2, 0.3), (3, 0.5), (3, 0.5))]
    speed = _speed(first, pd.DataFrame(rows), reports, 2, 27.0, {"val": 50, "test": 100}, memory=7)
    # Two seeds: 0.5 seconds of an epoch are for 100 predictions, the test took another 200.
    expected = Speed({"ihm": 0.1, "dia": 0.15}, 0.005, once=23.0, memory=7, together=2, timed=4)
    assert speed == expected
    alone, epoch = replace(expected, together=1), 100 * 0.1 + 100 * 0.15
    predicted = (2 * 200 + 400) * 0.005
    assert alone.seconds([first], SAMPLES) == pytest.approx(23.0 + 2 * epoch + predicted)
    assert speed.seconds([first, *others], SAMPLES) == pytest.approx(2 * (23.0 + 2 * epoch) + 3 * predicted)
    tenth = replace(first, label_fraction=0.1, epochs=1, trace=True)
    traced = (200 + 400 + 2 * 400) * 0.005
    assert alone.seconds([tenth], SAMPLES) == pytest.approx(23.0 + epoch / 10 + traced)
    assert kind_of([first], "packed") == kind_of(others, "packed") == kind_of([tenth], "packed")
    assert kind_of([first], "fixed") != kind_of(others, "fixed")


@pytest.mark.slow
@pytest.mark.parametrize("form", ["packed", "fixed"])
def test_kinds_are_calibrated_once_and_on_a_part_of_the_data(tmp_path: Path, monkeypatch, form: str) -> None:
    config = configured(tmp_path, prepare(tmp_path), models="mt,mmf,boosted-trees", tasks="ihm", form=form)
    plan, told = plan_of(config), []
    first = outlook(config, plan, lambda *step: told.append(step))
    assert told == [("calibration", 1, 2), ("calibration", 2, 2)], "two seeds are of one kind"
    (course,) = first.courses
    assert (course.devices, first.unknown, set(first.models)) == (1, 2, {"mt", "mmf"})
    context = context_of(config, plan)
    speeds = stored_speeds(context, 1)
    assert {speed.together for speed in speeds.kinds.values()} == {1 if form == "packed" else 2}
    assert course.seconds == pytest.approx(first.work + speeds.start) and speeds.start > 0
    assert 0 < first.longest < first.work
    assert course.memory > 50 * 2**20, "of a process with its libraries"

    monkeypatch.setattr(calibrating, "get_context", None)
    assert outlook(config, plan) == first
    assert [one.devices for one in outlook(replace(config, devices=(1, 4)), plan).courses] == [1, 4]
    slow = [job for job in plan.jobs if job.model == "mmf"]
    kind = kind_of(slow if form == "fixed" else slow[:1], form)
    slower = replace(speeds.kinds[kind], once=1e6)
    pieces = pieces_of(plan.jobs, context, Speeds({**speeds.kinds, kind: slower}), plan.data.samples)
    assert [job.model for piece in pieces for job in piece.jobs][:2] == ["mmf", "mmf"]


def test_an_excerpt_has_so_many_samples_of_each_part(tmp_path: Path) -> None:
    excerpt = Excerpt.open(prepare(tmp_path, size=900))
    excerpt.batch_size, excerpt.extent = 16, Extent(steps=3, samples=100)
    assert {name: len(part) for name, part in excerpt.task("ihm").partitions.items()} == {
        "train": 48,
        "val": 90,
        "test": 100,
    }


def test_noise_of_notes_need_not_be_there_yet(tmp_path: Path) -> None:
    plan = plan_of(config := configured(tmp_path, prepare(tmp_path), models="mmf", tasks="ihm", seeds="1"))
    sizes = plan.jobs[0].dimensions | {"note_features": NOTE_WIDTH}
    noisy = replace(plan.jobs[0], encoder=ENCODER, note_dropout=2, dimensions=sizes)
    speed = calibrate([noisy], context_of(config, plan), SAMPLES, Extent(steps=1, samples=8))
    assert speed.steps["ihm"] > 0
