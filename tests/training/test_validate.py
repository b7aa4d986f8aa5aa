"""Training for decisions that must not know the test patients."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import torch
from prepared_data import ENCODER, NOTE_WIDTH, spoil_test_samples, write_prepared

from benchmark.data.dataset import PreparedData
from benchmark.errors import UserError
from benchmark.registry import models
from benchmark.training import TrainingPlan, kept_metrics, train, validate
from models.contract import Dimensions

CPU = torch.device("cpu")
DIMENSIONS = Dimensions(width=8, layers=1, note_features=NOTE_WIDTH, film=32, patch=16, hours=24, note_tokens=8)


def _plan(**changes: object) -> TrainingPlan:
    settings = {
        "model": "flexcare",
        "tasks": ("ihm", "los", "dia"),
        "config": models()["flexcare"].config(),
        "dimensions": DIMENSIONS,
        "seed": 40,
        "batch_size": 16,
        "epochs": 3,
        "learning_rate": 3e-3,
        "task_weights": {"ihm": 0.2},
        "halve_learning_rate": True,
        "augmentation": "none",
        "encoder": ENCODER,
    }
    return TrainingPlan(**(settings | changes))


def _without_times(history: pd.DataFrame) -> pd.DataFrame:
    return history.drop(columns="seconds")


def test_a_validated_model_is_the_one_that_would_be_tested_and_never_sees_the_test_samples(tmp_path: Path) -> None:
    whole = PreparedData.open(write_prepared(tmp_path / "whole"))
    spoilt = PreparedData.open(spoil_test_samples(write_prepared(tmp_path / "spoilt")))
    trained, validated = train(_plan(), whole, CPU), validate(_plan(), spoilt, CPU)
    pd.testing.assert_frame_equal(_without_times(trained.history), _without_times(validated.history), check_exact=True)
    assert validated.best_epoch == trained.info["best_epoch"]
    assert validated.metrics == kept_metrics(trained.history, trained.info["best_epoch"])
    assert set(validated.metrics["los"]) == {"macro_f1", "micro_f1"}
    with pytest.raises(UserError, match="a label is 99"):
        train(_plan(), spoilt, CPU)


def test_what_the_watcher_raises_ends_the_training_and_it_sees_the_selection_metrics(tmp_path: Path) -> None:
    data, seen = PreparedData.open(write_prepared(tmp_path / "data")), []

    def stop(report) -> None:
        seen.append(report.metrics)
        if report.epoch == 2:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        validate(_plan(tasks=("ihm",)), data, CPU, stop)
    assert [set(metrics) for metrics in seen] == [{"auroc", "auprc"}] * 2


def test_a_task_has_its_own_factor_on_the_learning_rate(tmp_path: Path) -> None:
    data = PreparedData.open(write_prepared(tmp_path / "data"))
    history = validate(_plan(epochs=1, task_rates={"los": 0.5}), data, CPU).history
    assert history.set_index("task")["learning_rate"].to_dict() == {"ihm": 3e-3, "los": 1.5e-3, "dia": 3e-3}
