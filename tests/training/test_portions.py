"""Batches computed in parts when memory does not suffice, and losses that are not finite."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from prepared_data import ENCODER, NOTE_WIDTH, write_prepared
from torch import nn

from benchmark.data.batches import BatchSource, LabelledBatch
from benchmark.data.dataset import PreparedData
from benchmark.errors import UserError
from benchmark.registry import models
from benchmark.training import TrainingPlan, train
from benchmark.training.faults import Diverged
from benchmark.training.portions import Portions, cut, out_of_memory
from benchmark.training.predict import predict
from models import parts
from models.contract import MODALITIES, Batch, Dimensions, Head, ModelEntry
from models.layers import Dropout

pytestmark = pytest.mark.reliability

CPU = torch.device("cpu")
DIMENSIONS = Dimensions(
    width=8, layers=1, dropout=0.0, note_features=NOTE_WIDTH, film=32, patch=16, hours=24, note_tokens=8
)
DIVISIBLE = [entry for entry in models().values() if entry.divisible != "no"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_prepared(tmp_path_factory.mktemp("prepared") / "data", ("dia",))


@pytest.fixture(scope="module")
def source(folder: Path) -> BatchSource:
    data = PreparedData.open(folder)
    return BatchSource(data, data.task("dia"), "train", DIMENSIONS, ENCODER, 0, CPU)


@pytest.fixture(scope="module")
def batch(source: BatchSource) -> LabelledBatch:
    return source.batch(np.arange(13))


def build(entry: ModelEntry) -> nn.Module:
    torch.manual_seed(0)
    model = entry.build(DIMENSIONS, [Head(14, "multilabel", "cxr")], entry.config()).train()
    for module in model.modules():
        if isinstance(module, Dropout):
            module.rate = 0.0
        if isinstance(getattr(module, "dropout", None), float):
            module.dropout = 0.0
        if hasattr(module, "noise"):
            module.noise = False
    return model


@pytest.mark.parametrize("entry", DIVISIBLE, ids=lambda entry: entry.name)
def test_parts_give_the_step_of_the_whole_batch(entry: ModelEntry, source: BatchSource) -> None:
    readable = source.present[:, [MODALITIES.index(name) for name in entry.reads]].any(1)
    batch = source.batch(np.flatnonzero(readable)[:13])
    model = build(entry)
    aux = getattr(model, "aux_weights", {})
    found = []
    for number in (1, 3, 13):
        loss = Portions(entry.divisible, number).backward(model, "multilabel", batch, aux, 0.7)
        found.append((loss, {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}))
    for loss, gradients in found[1:]:
        torch.testing.assert_close(loss, found[0][0])
        zero = {name: torch.zeros_like(value) for name, value in found[0][1].items()}
        torch.testing.assert_close(zero | gradients, found[0][1], rtol=1e-4, atol=1e-6)
    assert any(value.abs().max() > 1e-4 for value in found[0][1].values())


def test_pieces_hold_all_of_the_batch_once(batch: LabelledBatch) -> None:
    pieces = list(cut(batch, 4))
    assert [piece.inputs.size for piece in pieces] == [3, 3, 3, 4]
    for name in ("ehr", "note"):
        values = torch.cat([own.values for piece in pieces if (own := getattr(piece.inputs, name)) is not None])
        assert torch.equal(values, getattr(batch.inputs, name).values)
    assert torch.equal(torch.cat([piece.inputs.cxr.pixels for piece in pieces]), batch.inputs.cxr.pixels)
    assert torch.equal(torch.cat([piece.labels.y for piece in pieces]), batch.labels.y)
    for piece in pieces:
        rows = [row for own in (piece.inputs.ehr, piece.inputs.note) if own for row in own.layout.rows]
        assert set(rows) <= set(range(piece.inputs.size))
        assert list(piece.inputs.cxr.rows) == piece.inputs.present[:, 1].nonzero()[:, 0].tolist()


def plan(model: str, **changes: object) -> TrainingPlan:
    settings = {
        "config": models()[model].config(),
        "dimensions": DIMENSIONS,
        "tasks": ("dia",),
        "seed": 40,
        "batch_size": 16,
        "epochs": 1,
        "learning_rate": 1e-2,
        "task_weights": {"dia": 1.0},
        "halve_learning_rate": False,
        "augmentation": "none",
        "encoder": ENCODER,
    }
    return TrainingPlan(model=model, **(settings | changes))


@pytest.fixture
def small_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory for four samples at a time."""
    whole = Portions._sum

    def limited(self, model, kind, batch, *rest):
        if batch.inputs.size / self.parts > 4:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB")
        return whole(self, model, kind, batch, *rest)

    monkeypatch.setattr(Portions, "_sum", limited)


@pytest.mark.parametrize("model", ["mmf", "flexcare", "m3care"])
def test_out_of_memory_cuts_batches_and_says_so(model: str, folder: Path, small_memory: None) -> None:
    with pytest.warns(UserWarning, match=r"batch of 16 samples; batches are computed in 4 parts"):
        trained = train(plan(model), PreparedData.open(folder), CPU)
    assert trained.info["parts"] == 4


@pytest.mark.parametrize("entry", DIVISIBLE, ids=lambda entry: entry.name)
def test_predictions_that_do_not_fit_are_made_in_parts(entry: ModelEntry, source: BatchSource) -> None:
    def limited(model: nn.Module, arguments: tuple[Batch]) -> None:
        if arguments[0].size / parts._parts.get() > 4:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB")

    model = build(entry)
    expected = predict(model, source, entry.couples_samples, 16)
    model.register_forward_pre_hook(limited)
    with pytest.warns(UserWarning, match=r"parts, with the same predictions"):
        found = predict(model, source, entry.couples_samples, 16)
    np.testing.assert_allclose(found.logits, expected.logits, rtol=1e-4, atol=1e-5)
    model.register_forward_pre_hook(lambda *_: limited(model, (source.batch(np.arange(16)).inputs,)))
    with pytest.raises(UserError, match="one sample at a time; lower the dimensions"), pytest.warns(UserWarning):
        predict(model, source, False, 16)


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB"), True),
        (RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be reported later"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), False),
    ],
)
def test_want_of_memory_is_known_wherever_a_gpu_has_it(fault: Exception, expected: bool) -> None:
    assert out_of_memory(fault) is expected


def test_a_model_that_does_not_say_how_it_is_cut_stops(batch: LabelledBatch, small_memory: None) -> None:
    with pytest.raises(UserError, match=r"batch of 13 samples; this model does not say .* lower training.batch_size"):
        Portions("no").backward(build(models()["mmf"]), "multilabel", batch, {}, 1.0)


def test_a_batch_that_is_tried_again_counts_once_in_running_statistics(
    batch: LabelledBatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build(models()["m3care"])
    whole, before = model.fuse, {name: value.clone() for name, value in model.named_buffers()}

    def limited(filled, contents):  # after the batch norms, as memory may give out anywhere
        if len(filled[0]) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB")
        return whole(filled, contents)

    def after(portions: Portions) -> dict[str, torch.Tensor]:
        for name, value in model.named_buffers():
            value.copy_(before[name])
        portions.backward(model, "multilabel", batch, model.aux_weights, 1.0)
        return {name: value.clone() for name, value in model.named_buffers()}

    expected = after(Portions("stages", 4))
    monkeypatch.setattr(model, "fuse", limited)
    with pytest.warns(UserWarning, match="in 4 parts"):
        found = after(Portions("stages"))
    torch.testing.assert_close(found, expected)
    assert not torch.equal(expected["norms.0.mean"], before["norms.0.mean"])


def test_other_errors_are_not_taken_for_a_lack_of_memory(batch: LabelledBatch) -> None:
    model = build(models()["mmf"])
    model.head = nn.Linear(3, 14)
    with pytest.raises(RuntimeError, match="shapes"):
        Portions("samples").backward(model, "multilabel", batch, {}, 1.0)


def test_a_loss_that_is_not_finite_names_its_batch(folder: Path) -> None:
    settings = dataclasses.replace(plan("mmf"), learning_rate=1e30)
    with pytest.raises(Diverged, match=r"task dia: loss is nan in step 2 of epoch 1; lower the learning rate") as told:
        train(settings, PreparedData.open(folder), CPU)
    own = set(PreparedData.open(folder).task("dia").partitions["train"].sample.tolist())
    assert len(told.value.samples) == 16 and set(told.value.samples) <= own


def test_inputs_that_are_not_finite_are_named(tmp_path: Path) -> None:
    folder = write_prepared(tmp_path / "data", ("dia",))
    values = np.load(folder / "series" / "values.npy", mmap_mode="r+")
    values[:] = np.nan
    values.flush()
    with pytest.raises(Diverged, match=r"the ehr of its samples hold values that are not finite: prepare"):
        train(plan("mmf"), PreparedData.open(folder), CPU)
