"""A trace sees every segment and changes nothing."""

from __future__ import annotations

import pandas as pd
import pytest
import torch
from prepared_data import ENCODER, NOTE_WIDTH, write_prepared
from torch import Tensor, nn

from benchmark.data.batches import BatchSource
from benchmark.data.dataset import PreparedData
from benchmark.errors import UserError
from benchmark.registry import models
from benchmark.training import TrainingPlan, train
from benchmark.training.loop import Schedule, fit
from benchmark.training.trace import START, Trace
from models.contract import Batch, Dimensions, Output

CPU = torch.device("cpu")
TASKS = ("ihm", "los", "dia")
DIMENSIONS = Dimensions(8, 1, 2, 0.1, hours=12, note_features=NOTE_WIDTH, note_tokens=5, film=32, patch=16)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> PreparedData:
    return PreparedData.open(write_prepared(tmp_path_factory.mktemp("prepared") / "data", TASKS))


def _plan(trace: bool, tasks: tuple[str, ...] = TASKS) -> TrainingPlan:
    weights = dict.fromkeys(tasks, 1.0)
    config = models()["flexcare"].config()
    return TrainingPlan(
        "flexcare", config, DIMENSIONS, tasks, 3, 16, 2, 3e-3, weights, True, "mild", ENCODER, trace=trace
    )


def test_a_traced_run_is_the_untraced_one_and_more(data: PreparedData) -> None:
    plain, traced = (train(_plan(trace), data, CPU) for trace in (False, True))
    assert plain.trace is None
    assert plain.state.keys() == traced.state.keys()
    assert all(torch.equal(value, traced.state[name]) for name, value in plain.state.items())
    for task in TASKS:
        pd.testing.assert_frame_equal(plain.predictions[task], traced.predictions[task], check_exact=True)
    timeless = [run.history.drop(columns="seconds") for run in (plain, traced)]
    pd.testing.assert_frame_equal(*timeless, check_exact=True)
    trace = traced.trace
    assert trace.groupby("segment")["trained"].first().tolist() == [START, *TASKS, *TASKS]
    assert trace.groupby("segment")["epoch"].first().tolist() == [0, 1, 1, 1, 2, 2, 2]
    assert set(trace.groupby("segment").size()) == {6}  # three tasks, two metrics each
    if traced.info["best_epoch"] == 2:  # then the last segment is the kept state, and was tested as such
        last = trace[trace["segment"] == 6].set_index(["task", "metric"])["value"]
        assert all(traced.metrics[task][metric] == value for (task, metric), value in last.items())


class Restless(nn.Module):
    """Remembers every batch in training, and draws random numbers in eval mode too."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(3, momentum=0.3)
        self.dropout = nn.Dropout(0.5)
        self.heads = nn.ModuleList(nn.Linear(3, classes) for classes in (1, 14))

    def forward(self, batch: Batch) -> Output:
        noise: Tensor = 0.1 * torch.randn(batch.size, 3)
        return Output(self.heads[batch.task](self.dropout(self.norm(batch.present.float() + noise))))


def test_batch_statistics_modes_and_random_streams_are_left_alone(data: PreparedData) -> None:
    states, histories = [], []
    for traced in (False, True):
        torch.manual_seed(0)
        model = Restless()
        sources = {
            split: {
                name: BatchSource(data, data.task(name), split, DIMENSIONS, ENCODER, head, CPU)
                for head, name in enumerate(("ihm", "dia"))
            }
            for split in ("train", "val", "test")
        }
        schedule = Schedule(1, 3, 16, 1e-2, True, {}, None, False)
        trace = Trace(model, sources["test"], False, 16) if traced else None
        fitted = fit(model, sources["train"], sources["val"], schedule, lambda report: None, trace)
        states.append(fitted.state)
        histories.append(pd.DataFrame(fitted.history).drop(columns="seconds"))
    assert len(trace.rows) == (1 + 3 * 2) * 4
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    pd.testing.assert_frame_equal(*histories, check_exact=True)


def test_a_trace_leaves_the_modes_as_they_were(data: PreparedData) -> None:
    model = Restless().train()
    model.norm.eval()
    source = BatchSource(data, data.task("ihm"), "test", DIMENSIONS, ENCODER, 0, CPU)
    Trace(model, {"ihm": source}, False, 16).begin()
    assert [model.training, model.norm.training, model.dropout.training] == [True, False, True]


def test_a_single_task_has_no_trace(data: PreparedData) -> None:
    with pytest.raises(UserError, match="flexcare is trained on ihm alone"):
        train(_plan(True, ("ihm",)), data, CPU)
