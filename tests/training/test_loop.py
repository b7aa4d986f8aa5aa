"""The training loop and the predictions, seen through models that write down what happens to them."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from prepared_data import ENCODER, NOTE_WIDTH, write_prepared
from torch import Tensor, nn

from benchmark.data.batches import BatchSource, LabelledBatch, Labels
from benchmark.data.dataset import PreparedData
from benchmark.training import loop, step
from benchmark.training.loop import EpochReport, Fitted, Schedule, fit
from benchmark.training.predict import EVALUATION_BATCH, LARGEST_BATCH, Predictions, evaluation_batch, predict
from models.contract import Batch, Dimensions, Output

SCHEDULE = Schedule(
    seed=1,
    epochs=3,
    batch_size=4,
    learning_rate=0.5,
    halve_learning_rate=True,
    task_weights={"a": 1.0, "b": 1.0},
    clip_norm=None,
    couples_samples=False,
)


class Slope(nn.Module):
    """Logits, and so gradients, that are the same in every batch: logit = level * 1."""

    def __init__(self) -> None:
        super().__init__()
        self.level = nn.Parameter(torch.zeros(1))

    def forward(self, batch: Batch) -> Output:
        return Output(self.level.expand(batch.size, 1))


class FakeSource:
    """A binary task of eight positive samples, each worth a gradient of -0.5 at level 0."""

    device, dimensions = torch.device("cpu"), SimpleNamespace(width=16)

    def __init__(self, name: str, log: list[str], size: int = 8) -> None:
        self.task = SimpleNamespace(
            task=SimpleNamespace(name=name, kind="binary", metrics=("first", "second", "third"))
        )
        self.log, self.size = log, size

    def __len__(self) -> int:
        return self.size

    def labels(self, chosen: np.ndarray) -> Labels:
        return Labels(torch.ones(len(chosen), 1), torch.ones(len(chosen), 1, dtype=torch.bool))

    def batch(self, chosen: np.ndarray) -> LabelledBatch:
        inputs = Batch(None, None, None, torch.ones(len(chosen), 3, dtype=torch.bool), 0, torch.from_numpy(chosen))
        return LabelledBatch(inputs, self.labels(chosen))

    def samples_an_epoch(self, batch_size: int) -> int:
        return self.size

    def epoch(self, seed: int, number: int, batch_size: int) -> Iterator[LabelledBatch]:
        for start in range(0, self.size, batch_size):
            self.log.append(self.task.task.name)
            yield self.batch(np.arange(start, start + batch_size))


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[..., SimpleNamespace]:
    """Trains on tasks "b" and "a" while plain SGD stands in for Adam and validation says what the test wants."""

    def run(
        losses: dict[str, list[float]], metrics: dict[str, list[tuple[float, float]]] | None = None, **changes: object
    ) -> SimpleNamespace:
        seen = SimpleNamespace(order=[], rates=[], steps=[], coupled=[], reports=[])
        left = {task: iter(values) for task, values in losses.items()}
        scores = {task: iter(values) for task, values in (metrics or dict.fromkeys(losses, [(0.0, 0.0)] * 9)).items()}

        class Recorder(torch.optim.SGD):
            def __init__(self, parameters: list[nn.Parameter], lr: float, fused: bool) -> None:
                super().__init__(parameters, lr)

            def step(self) -> None:
                seen.rates.append(self.param_groups[0]["lr"])
                before = model.level.item()
                super().step()
                seen.steps.append(model.level.item() - before)

        def fake_predict(model: nn.Module, source: FakeSource, couples_samples: bool, batch_size: int) -> Predictions:
            seen.coupled.append((couples_samples, batch_size))
            return Predictions(np.zeros((8, 1), np.float32), np.zeros((8, 1), np.float32))

        def fake_score(source: FakeSource, predictions: Predictions, names: tuple[str, ...]) -> dict[str, float]:
            assert names == ("first", "second")
            return dict(zip(names, next(scores[source.task.task.name]), strict=True))

        monkeypatch.setattr(step, "Adam", Recorder)
        monkeypatch.setattr(loop, "predict", fake_predict)
        monkeypatch.setattr(loop, "score", fake_score)
        monkeypatch.setattr(loop, "partition_loss", lambda source, _: next(left[source.task.task.name]))
        model = Slope()
        sources = {name: FakeSource(name, seen.order) for name in losses}
        schedule = dataclasses.replace(SCHEDULE, **changes)
        seen.fitted = fit(model, sources, sources, schedule, seen.reports.append)
        seen.model = model
        return seen

    return run


FLAT = {"b": [3.0, 2.0, 1.0], "a": [3.0, 2.0, 1.0]}


def test_tasks_come_in_sequence_each_with_its_own_learning_rate(run) -> None:
    seen = run({"b": [3.0, 3.0, 2.0], "a": [1.0, 0.5, 0.6]}, learning_rate=0.5)
    assert seen.order == ["b", "b", "a", "a"] * 3
    assert seen.rates == [0.5] * 8 + [0.25, 0.25, 0.5, 0.5]  # b's loss did not fall in epoch 2
    assert [(row["task"], row["learning_rate"]) for row in seen.fitted.history][-2:] == [("b", 0.25), ("a", 0.5)]
    assert seen.steps[8] / seen.steps[10] == pytest.approx(0.5, rel=0.2)  # what counts is the step taken
    assert [(report.epoch, report.task, report.val_loss) for report in seen.reports][:3] == [
        (1, "b", 3.0),
        (1, "a", 1.0),
        (2, "b", 3.0),
    ]
    assert all(isinstance(report, EpochReport) for report in seen.reports)


def test_learning_rates_stay_where_they_are_not_to_be_halved(run) -> None:
    assert set(run({"b": [1.0, 2.0, 3.0]}, halve_learning_rate=False).rates) == {0.5}


def test_a_tasks_weight_scales_its_gradient(run) -> None:
    seen = run(FLAT, task_weights={"b": 0.25, "a": 1.0}, learning_rate=1e-3, epochs=1)
    np.testing.assert_allclose(seen.steps, [1.25e-4, 1.25e-4, 5e-4, 5e-4], rtol=1e-3)


def test_gradients_are_clipped_before_the_step_and_do_not_pile_up(run) -> None:
    seen = run(FLAT, clip_norm=0.1, learning_rate=1e-3, epochs=1)
    np.testing.assert_allclose(seen.steps, [1e-4] * 4, rtol=1e-3)
    np.testing.assert_allclose(run(FLAT, learning_rate=1e-3, epochs=1).steps, [5e-4] * 4, rtol=1e-2)


def test_the_kept_epoch_is_best_in_the_sum_over_tasks_and_metrics(run) -> None:
    metrics = {  # sums 1.8, 2.4, 2.3, 2.2; "a" alone would choose epoch 3, "b" alone epoch 1, the last is not kept
        "b": [(0.9, 0.5), (0.5, 0.8), (0.3, 0.3), (0.6, 0.6)],
        "a": [(0.2, 0.2), (0.6, 0.5), (0.8, 0.9), (0.5, 0.5)],
    }
    seen = run({task: [1.0, 2.0, 3.0, 4.0] for task in FLAT}, metrics, epochs=4, halve_learning_rate=False)
    assert (seen.fitted.best_epoch, seen.fitted.selected_by) == (2, "validation metrics")
    assert len(seen.steps) == 16
    assert seen.fitted.state["level"].item() == pytest.approx(sum(seen.steps[:8]), rel=1e-5)  # the state of that epoch
    assert seen.model.level.item() == pytest.approx(sum(seen.steps), rel=1e-5)


def test_equal_epochs_keep_the_first(run) -> None:
    assert run(FLAT, dict.fromkeys(FLAT, [(0.5, 0.5)] * 3)).fitted.best_epoch == 1


def test_a_metric_without_value_is_left_out_of_the_sum(run) -> None:
    nan = float("nan")
    metrics = {"b": [(nan, nan)] * 3, "a": [(0.5, nan), (0.7, nan), (0.6, nan)]}
    fitted: Fitted = run(FLAT, metrics).fitted
    assert (fitted.best_epoch, fitted.selected_by) == (2, "validation metrics")


def test_without_any_metric_the_sum_of_the_validation_losses_decides(run) -> None:
    metrics = dict.fromkeys(FLAT, [(float("nan"), float("nan"))] * 3)
    fitted = run({"b": [2.0, 1.0, 1.5], "a": [1.0, 1.5, 1.2]}, metrics).fitted  # sums 3, 2.5, 2.7
    assert (fitted.best_epoch, fitted.selected_by) == (2, "validation loss")


@pytest.mark.parametrize("coupled", [False, True])
def test_validation_is_coupled_where_the_model_is(run, coupled: bool) -> None:
    assert run(FLAT, couples_samples=coupled, epochs=1).coupled == [(coupled, 4)] * 2


class Numbers(nn.Module):
    """Answers with the sample's number, and notes the batches that it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[list[int]] = []

    def forward(self, batch: Batch) -> Output:
        assert not self.training
        self.batches.append(batch.sample.tolist())
        size = torch.tensor(float(batch.size))
        diagnostics = {"size": size, "patient": torch.zeros(batch.size, 2)}
        return Output(batch.sample[:, None].to(torch.float32), diagnostics=diagnostics)


@pytest.mark.parametrize(
    ("coupled", "size", "batch_size", "sizes"),
    [
        (False, 2 * EVALUATION_BATCH + 9, 32, [EVALUATION_BATCH, EVALUATION_BATCH, 9]),
        (True, 70, 32, [32, 32, 32]),
        (True, 64, 32, [32, 32]),
        (True, 20, 32, [20]),
    ],
)
@pytest.mark.parametrize("permutation", [0, 3])
def test_every_prediction_lands_on_its_own_sample(coupled, size, batch_size, sizes, permutation) -> None:
    model = Numbers().train()
    predictions = predict(model, FakeSource("a", [], size), coupled, batch_size, permutation)
    np.testing.assert_array_equal(predictions.logits[:, 0], np.arange(size))
    np.testing.assert_allclose(predictions.probability[:, 0], 1 / (1 + np.exp(-np.arange(size))), rtol=1e-5)
    assert [len(batch) for batch in model.batches] == sizes
    assert (
        list(itertools.chain(*model.batches))[:size] == list(range(size))
    ) != coupled  # coupled batches are drawn, not in order
    assert all(len(set(batch)) == len(batch) for batch in model.batches)  # nobody is their own batch mate
    assert predictions.diagnostics == {"size": pytest.approx(np.mean(sizes))}


@pytest.mark.parametrize(("gib", "expected"), [(4, EVALUATION_BATCH), (24, 768), (141, LARGEST_BATCH)])
def test_a_gpu_predicts_as_many_samples_at_a_time_as_its_memory_allows(monkeypatch, gib: int, expected: int) -> None:
    properties = SimpleNamespace(total_memory=gib * 2**30)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    assert evaluation_batch(torch.device("cuda", 0), 128) == expected
    assert [evaluation_batch(torch.device("cpu"), width) for width in (16, 32, 128, 768)] == [256, 256, 64, 32]


def test_evaluation_orders_differ() -> None:
    orders = []
    for permutation in (0, 1, 0):
        model = Numbers()
        predict(model, FakeSource("a", [], 70), True, 32, permutation)
        orders.append(model.batches)
    assert orders[0] == orders[2] != orders[1]


def test_predictions_on_a_real_source_belong_to_its_samples(tmp_path: Path) -> None:
    data = PreparedData.open(write_prepared(tmp_path / "data", ("los",), size=60))
    dimensions = Dimensions(note_features=NOTE_WIDTH, film=32, patch=16)
    source = BatchSource(data, data.task("los"), "train", dimensions, ENCODER, 0, torch.device("cpu"))

    class Classes(nn.Module):
        def forward(self, batch: Batch) -> Output:
            logits: Tensor = torch.stack([batch.sample, -batch.sample], 1).to(torch.float32)
            return Output(logits)

    for coupled in (False, True):
        predictions = predict(Classes(), source, coupled, 16)
        np.testing.assert_array_equal(predictions.logits[:, 0], source.samples.sample)
        np.testing.assert_allclose(predictions.probability.sum(1), 1, rtol=1e-6)
