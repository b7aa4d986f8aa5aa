"""Models with a training of their own: fitted in one go, in stages, or with a support set."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from prepared_data import ENCODER, NOTE_WIDTH, overwrite_unseen, write_prepared

from benchmark.data.batches import BatchSource
from benchmark.data.dataset import PreparedData
from benchmark.errors import UserError
from benchmark.registry import models
from benchmark.training import Trained, TrainingPlan, train
from benchmark.training.support import stratified
from models.contract import Dimensions, Head

CPU = torch.device("cpu")
DIMENSIONS = Dimensions(
    width=8, layers=2, dropout=0.1, note_features=NOTE_WIDTH, film=32, patch=16, hours=24, note_tokens=8
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> PreparedData:
    return PreparedData.open(write_prepared(tmp_path_factory.mktemp("prepared") / "data", size=200))


def run(data: PreparedData, model: str, task: str, epochs: int = 2, **options: object) -> Trained:
    plan = TrainingPlan(
        model=model,
        config=models()[model].config(**options),
        dimensions=DIMENSIONS,
        tasks=(task,),
        seed=40,
        batch_size=16,
        epochs=epochs,
        learning_rate=3e-3,
        task_weights={},
        halve_learning_rate=False,
        augmentation="mild",
        encoder=ENCODER,
    )
    return train(plan, data, CPU)


@pytest.mark.parametrize("task", ["ihm", "los", "dia"])
def test_boosted_trees_learn_and_are_cut_back_to_their_best_round(data: PreparedData, task: str) -> None:
    result = run(data, "boosted-trees", task, rounds=25, leaf_samples=5)
    history, best = result.history, result.info["best_epoch"]
    names = [f"val_{name}" for name in data.task(task).task.metrics[:2]]
    assert len(history) == 25
    assert best == history[names].sum(axis=1).idxmax() + 1
    assert history["train_loss"].iloc[-1] < history["train_loss"].iloc[0]
    assert int(result.state["round"].max()) == best - 1
    assert next(iter(result.metrics[task].values())) > (0.3 if task == "los" else 0.85)


def test_boosted_trees_predict_from_a_restored_checkpoint(data: PreparedData) -> None:
    result = run(data, "boosted-trees", "dia", rounds=5)
    task = data.task("dia")
    entry = models()["boosted-trees"]
    model = entry.build(DIMENSIONS, [Head(len(task.classes), "multilabel", "cxr")], entry.config(rounds=5))
    model.load_state_dict(result.state)
    source = BatchSource(data, task, "test", DIMENSIONS, ENCODER, 0, CPU)
    logits = model(source.batch(np.arange(len(source))).inputs).logits
    frame = result.predictions["dia"][[f"p{c}" for c in range(14)]]
    np.testing.assert_allclose(logits.sigmoid().numpy(), frame.to_numpy(), rtol=0, atol=1e-7)


@pytest.mark.parametrize("task", ["ihm", "dia"])
def test_boosted_trees_see_nothing_that_a_sample_must_not_see(task: str, tmp_path: Path) -> None:
    clean, filled = (write_prepared(tmp_path / name, (task,), size=60) for name in ("clean", "filled"))
    overwrite_unseen(filled, task, DIMENSIONS, 1e4)
    first, second = (run(PreparedData.open(folder), "boosted-trees", task, rounds=3) for folder in (clean, filled))
    assert all(torch.equal(value, second.state[name]) for name, value in first.state.items())
    assert first.predictions[task].equals(second.predictions[task])


def test_a_model_with_a_support_set_is_evaluated_batch_by_batch_without_spread(data: PreparedData) -> None:
    result = run(data, "m3care", "dia", evaluation="bank", support_samples=50)
    assert result.info["permutation_spread"] == {}
    assert result.info["diagnostics"] == {}
    assert result.state["support.owned"].any(1).sum() == 50
    assert result.state["support.mates"] == 15
    task = data.task("dia")
    entry = models()["m3care"]
    config = entry.config(evaluation="bank", support_samples=50)
    model = entry.build(DIMENSIONS, [Head(14, "multilabel", "cxr")], config).eval()
    model.load_state_dict(result.state)
    source = BatchSource(data, task, "test", DIMENSIONS, ENCODER, 0, CPU)
    alone = torch.cat([model(source.batch(np.array([i])).inputs).logits for i in range(len(source))])
    frame = result.predictions["dia"][[f"p{c}" for c in range(14)]]
    np.testing.assert_allclose(alone.sigmoid().detach().numpy(), frame.to_numpy(), rtol=0, atol=1e-5)


def test_a_support_set_holds_every_pattern_with_its_share() -> None:
    present = np.array([[True, False, False]] * 60 + [[True, True, False]] * 30 + [[True, True, True]] * 10)
    chosen = stratified(present, 20, np.random.default_rng(0))
    assert len(set(chosen.tolist())) == 20
    assert present[chosen].sum(0).tolist() == [20, 8, 2]
    assert not np.array_equal(chosen, stratified(present, 20, np.random.default_rng(1)))
    assert stratified(present, 500, np.random.default_rng(0)).tolist() == list(range(100))


def test_epochs_of_a_first_stage_are_not_kept(data: PreparedData) -> None:
    result = run(data, "medfuse", "dia", epochs=3, pretrain_epochs=2)
    assert result.info["best_epoch"] == 3
    with pytest.raises(UserError, match="none of the 3 epochs can be kept"):
        run(data, "medfuse", "dia", epochs=3, pretrain_epochs=3)
