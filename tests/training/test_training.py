"""Whole training runs on a small data set."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from prepared_data import ENCODER, NOTE_WIDTH, write_prepared

from benchmark.data.dataset import PreparedData
from benchmark.errors import UserError
from benchmark.registry import models
from benchmark.training import TrainingPlan, ceiling, train
from benchmark.training.predict import _coupled_chunks
from models.contract import Dimensions

CPU = torch.device("cpu")
DIMENSIONS = Dimensions(
    width=8, layers=2, dropout=0.1, note_features=NOTE_WIDTH, film=32, patch=16, hours=24, note_tokens=8
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> PreparedData:
    return PreparedData.open(write_prepared(tmp_path_factory.mktemp("prepared") / "data"))


def _plan(model: str, tasks: tuple[str, ...], **changes: object) -> TrainingPlan:
    settings = {
        "config": models()[model].config(),
        "dimensions": DIMENSIONS,
        "seed": 40,
        "batch_size": 16,
        "epochs": 2,
        "learning_rate": 3e-3,
        "task_weights": {"ihm": 0.2, "los": 0.5, "dia": 0.2},
        "halve_learning_rate": models()[model].multitask,
        "augmentation": "mild",
        "encoder": ENCODER,
    }
    return TrainingPlan(model=model, tasks=tasks, **(settings | changes))


@pytest.mark.parametrize("model", list(models()))
def test_every_model_repeats_bit_by_bit_and_depends_on_its_seed(model: str, data: PreparedData) -> None:
    entry = models()[model]
    tasks = ("ihm", "los", "dia") if entry.multitask else ("ihm" if entry.fits else "dia",)  # trees: one a label
    first, again = (train(_plan(model, tasks, epochs=1), data, CPU) for _ in range(2))
    other = train(_plan(model, tasks, seed=42, epochs=1), data, CPU)
    for task in tasks:
        pd.testing.assert_frame_equal(first.predictions[task], again.predictions[task], check_exact=True)
        assert not np.array_equal(first.predictions[task]["p0"], other.predictions[task]["p0"])
    assert all(torch.equal(value, again.state[name]) for name, value in first.state.items())


def test_a_run_tells_what_it_took_from_another_model_and_a_wrong_one_is_named(data: PreparedData) -> None:
    source = train(_plan("flexcare", ("ihm", "los"), epochs=1), data, CPU).state
    carried = train(_plan("flexcare-pretrained", ("dia",), epochs=1, initial=source), data, CPU)
    told = carried.info["pretrained"]
    assert set(told["new"]) == {"tasks", "heads.0.weight", "heads.0.bias"}
    assert set(told["loaded"]) | set(told["new"]) == set(carried.state)
    assert "pretrained" not in train(_plan("flexcare-st", ("dia",), epochs=1), data, CPU).info
    other = train(_plan("flexcare-b", ("ihm",), epochs=1), data, CPU).state
    with pytest.raises(UserError, match=r"^flexcare-pretrained cannot start from flexcare: .* no experts\.route_token"):
        train(_plan("flexcare-pretrained", ("dia",), initial=other), data, CPU)


def test_training_learns_and_keeps_the_best_epoch(data: PreparedData) -> None:
    result = train(_plan("flexcare-st", ("ihm",), epochs=12, augmentation="none"), data, CPU)
    history = result.history
    assert history["train_loss"].iloc[-1] < 0.6 * history["train_loss"].iloc[0]
    assert result.metrics["ihm"]["auroc"] > 0.85
    scores = history["val_auroc"] + history["val_auprc"]
    assert result.info["best_epoch"] == scores.idxmax() + 1
    assert list(history["learning_rate"].unique()) == [3e-3]
    assert result.info["selected_by"] == "validation metrics"
    trained = 12 * 48  # of 63 training samples, in full batches of 16
    assert result.info["training_samples_per_second"] == pytest.approx(trained / history["seconds"].sum())


def test_a_multitask_model_with_one_task_is_the_single_task_model(data: PreparedData) -> None:
    pair = [train(_plan(name, ("ihm",), halve_learning_rate=False), data, CPU) for name in ("flexcare", "flexcare-st")]
    pd.testing.assert_frame_equal(pair[0].predictions["ihm"], pair[1].predictions["ihm"], check_exact=True)


def test_predictions_carry_what_later_analyses_need(data: PreparedData) -> None:
    frame = train(_plan("mt", ("dia",), epochs=1), data, CPU).predictions["dia"]
    test = data.task("dia").partitions["test"]
    assert frame["sample"].tolist() == test.sample.tolist()
    assert frame["present_cxr"].all()
    assert {f"p{c}" for c in range(14)} | {f"y{c}" for c in range(14)} | {"patient"} <= set(frame.columns)
    np.testing.assert_array_equal(frame[[f"y{c}" for c in range(14)]].to_numpy(np.float32), test.labels)


def test_scalar_diagnostics_of_the_test_batches_are_kept(data: PreparedData) -> None:
    diagnostics = train(_plan("m3care", ("dia",), epochs=1), data, CPU).info["diagnostics"]
    assert list(diagnostics) == ["dia"]
    assert list(diagnostics["dia"]) == ["graph_density"]
    assert 0 <= diagnostics["dia"]["graph_density"] <= 1
    assert train(_plan("mt", ("dia",), epochs=1), data, CPU).info["diagnostics"] == {}


def test_the_ceiling_scores_the_truth_but_knows_none_of_macro_f1(tmp_path: Path) -> None:
    data = PreparedData.open(write_prepared(tmp_path / "data", ("ihm", "los"), size=60))
    assert ceiling(data, data.task("ihm")) == {}
    (data.folder / "truth").mkdir()
    for name in ("ihm", "los"):
        samples = data.task(name).partitions["test"]
        classes = len(data.task(name).classes) if name == "los" else 1
        truth = np.eye(classes)[samples.labels[:, 0].astype(int)] if name == "los" else samples.labels
        frame = pd.DataFrame({"sample": samples.sample} | {f"p{c}": truth[:, c] for c in range(classes)})
        frame.to_parquet(data.folder / "truth" / f"{name}.parquet")
    assert ceiling(data, data.task("ihm")) == dict.fromkeys(data.task("ihm").task.metrics, 1.0)
    assert ceiling(data, data.task("los")) == {"micro_f1": 1.0}


def test_coupled_evaluation_fills_the_last_batch_and_scores_each_sample_once() -> None:
    chunks = _coupled_chunks(70, 32, 0)
    assert [len(chosen) for chosen, _ in chunks] == [32, 32, 32]
    assert sorted(np.concatenate([chosen[:fresh] for chosen, fresh in chunks])) == list(range(70))
    assert np.array_equal(chunks[2][0][6:], np.concatenate([chosen for chosen, _ in chunks])[:26])
    ((alone, fresh),) = _coupled_chunks(3, 8, 0)  # a partition smaller than a batch is not filled up
    assert (sorted(alone), fresh) == ([0, 1, 2], 3)


def test_an_empty_partition_is_named(tmp_path: Path) -> None:
    small = PreparedData.open(write_prepared(tmp_path / "small", ("ihm",), size=7))
    with pytest.raises(UserError, match=r"ihm .* has no test sample"):
        train(_plan("mt", ("ihm",)), small, CPU)
