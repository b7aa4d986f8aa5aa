"""A training that is stopped and taken up again gives what an undisturbed one gives, bit by bit."""

from __future__ import annotations

import itertools
from pathlib import Path

import pandas as pd
import pytest
import torch
from prepared_data import ENCODER, NOTE_WIDTH, write_prepared

from benchmark.data.dataset import PreparedData
from benchmark.errors import UserError
from benchmark.registry import models
from benchmark.training import EpochReport, Trained, TrainingPlan, train
from benchmark.training.resume import Bookmark
from models.contract import Dimensions

pytestmark = pytest.mark.reliability

CPU = torch.device("cpu")
DIMENSIONS = Dimensions(width=8, layers=1, note_features=NOTE_WIDTH, film=32, patch=16, hours=24, note_tokens=8)
EPOCHS = 4


class Stopped(Exception):
    """Stands in for the end of the process."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> PreparedData:
    return PreparedData.open(write_prepared(tmp_path_factory.mktemp("prepared") / "data"))


def plan(model: str, **changes: object) -> TrainingPlan:
    multitask = models()[model].multitask
    settings = {
        "config": models()[model].config(),
        "dimensions": DIMENSIONS,
        "tasks": ("ihm", "dia") if multitask else ("dia",),
        "seed": 40,
        "batch_size": 16,
        "epochs": EPOCHS,
        "learning_rate": 1e-2,
        "task_weights": {"ihm": 0.2, "dia": 0.2},
        "halve_learning_rate": multitask,
        "augmentation": "mild",
        "encoder": ENCODER,
    }
    return TrainingPlan(model=model, **(settings | changes))


def stop_in(epoch: int):
    def notify(report: EpochReport) -> None:
        if report.epoch == epoch:
            raise Stopped

    return notify


def equal(first: Trained, second: Trained) -> None:
    for task, frame in first.predictions.items():
        pd.testing.assert_frame_equal(frame, second.predictions[task], check_exact=True)
    histories = [trained.history.drop(columns="seconds") for trained in (first, second)]
    pd.testing.assert_frame_equal(*histories, check_exact=True)
    assert first.state.keys() == second.state.keys()
    assert all(torch.equal(value, second.state[name]) for name, value in first.state.items())
    assert first.metrics == second.metrics
    assert first.info["best_epoch"] == second.info["best_epoch"]


COMPARED = [name for name, entry in models().items() if entry.group == "table3"]


@pytest.mark.parametrize("model", [*COMPARED, "flexcare-authors"])
def test_every_model_goes_on_as_if_it_had_not_been_stopped(model: str, data: PreparedData, tmp_path: Path) -> None:
    file = tmp_path / "course.safetensors"
    undisturbed = train(plan(model), data, CPU)
    for epoch in (2, 4):  # two deaths: in the epoch after the first, and in the last one
        torch.manual_seed(epoch)  # the state that another process finds
        with pytest.raises(Stopped):
            train(plan(model), data, CPU, stop_in(epoch), Bookmark(file, "job", 0))
    bookmark, seen = Bookmark(file, "job", 0), []
    resumed = train(plan(model), data, CPU, seen.append, bookmark)
    assert {report.epoch for report in seen} == {4}
    assert resumed.info["resumed_after"] == 3 and bookmark.earlier > 0
    equal(undisturbed, resumed)


def test_a_training_stopped_after_its_last_epoch_is_tested_alone(data: PreparedData, tmp_path: Path) -> None:
    first = train(plan("flexcare"), data, CPU, bookmark=Bookmark(tmp_path / "course", "job", 0))
    again = train(plan("flexcare"), data, CPU, stop_in(1), Bookmark(tmp_path / "course", "job", 0))
    equal(first, again)


def test_a_trace_goes_on_with_its_rows(data: PreparedData, tmp_path: Path) -> None:
    traced = plan("flexcare", trace=True)
    undisturbed = train(traced, data, CPU)
    with pytest.raises(Stopped):
        train(traced, data, CPU, stop_in(3), Bookmark(tmp_path / "course", "job", 0))
    resumed = train(traced, data, CPU, bookmark=Bookmark(tmp_path / "course", "job", 0))
    pd.testing.assert_frame_equal(undisturbed.trace, resumed.trace, check_exact=True)
    equal(undisturbed, resumed)


def test_a_short_training_never_writes_and_a_long_one_at_most_once_a_while(data: PreparedData, tmp_path: Path) -> None:
    train(plan("mt"), data, CPU, bookmark=Bookmark(tmp_path / "short", "job", 60))
    assert not (tmp_path / "short").exists()
    times, ticks = [], itertools.count(0.0, 25.0)  # the clock is read once an epoch, and once more when it has written

    class Noting(Bookmark):
        def after_epoch(self, course) -> None:
            super().after_epoch(course)
            times.append(self.file.stat().st_mtime_ns if self.file.exists() else 0)

    train(plan("mt"), data, CPU, bookmark=Noting(tmp_path / "long", "job", 45, lambda: next(ticks)))
    assert [bool(now - before) for before, now in itertools.pairwise([0, *times])] == [False, True, False, True]


@pytest.mark.parametrize("damage", ["truncated", "empty", "text", "another job", "no facts"])
def test_a_file_that_cannot_be_used_costs_time_only(damage: str, data: PreparedData, tmp_path: Path) -> None:
    file, job = tmp_path / "course.safetensors", "job"
    undisturbed = train(plan("mt"), data, CPU, bookmark=Bookmark(file, job, 0))
    content = file.read_bytes()
    if damage == "another job":
        job = "other"
    elif damage == "no facts":
        file.write_bytes(content.replace(b'\\"job\\"', b'\\"jab\\"'))
    else:
        file.write_bytes({"truncated": content[:-100], "empty": b"", "text": b"no tensors " * 9}[damage])
    with pytest.warns(UserWarning, match="starts from its first epoch"):
        equal(undisturbed, train(plan("mt"), data, CPU, bookmark=Bookmark(file, job, 0)))


def test_a_file_that_does_not_fit_the_model_is_an_error_that_says_what_to_do(data: PreparedData, tmp_path) -> None:
    file = tmp_path / "course.safetensors"
    train(plan("mt"), data, CPU, bookmark=Bookmark(file, "job", 0))
    with pytest.raises(UserError, match=r"cannot go on from .*course\.safetensors: .*; delete it"):
        train(plan("mmf"), data, CPU, bookmark=Bookmark(file, "job", 0))
