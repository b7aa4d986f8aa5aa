"""Models whose samples meet: batches computed in parts give the step of the whole batch, in less memory."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from random_batches import PATTERNS, SMALL, make_batch, randomise
from torch import Tensor, nn

from benchmark.registry import models
from benchmark.throughput.counting import counted
from models import parts
from models.contract import Batch, Dimensions, Films, Head, ModelEntry, Output
from models.layers import Dropout
from models.parts import in_parts, of_samples, samplewise

pytestmark = pytest.mark.reliability

STAGED = [entry for entry in models().values() if entry.divisible == "stages"]
OPTIONS = [(entry, {}) for entry in STAGED] + [
    (models()["flexcare"], {"fused": "open_modalities"}),
    (models()["flexcare"], {"cov_scope": "complete_only", "incomplete_combo": "keep", "task_sees_incomplete": False}),
    (models()["m3care"], {"evaluation": "bank"}),
    (models()["m3care"], {"form": "ov", "batch_norm": "shared", "depth": "one", "encoder_layer": "original"}),
    (models()["m3care"], {"donor_mask": "pairwise"}),
]
SHALLOW = replace(SMALL, layers=2)
MIXES = [*((pattern,) * 4 for pattern in PATTERNS), PATTERNS]
"""Batches of one presence pattern each, and one in which every part owns something else."""


def build(entry: ModelEntry, options: dict, dims: Dimensions = SHALLOW) -> nn.Module:
    torch.manual_seed(0)
    model = randomise(entry.build(dims, [Head(3, "multilabel", "ehr")], entry.config(**options)).double()).train()
    for module in model.modules():
        if isinstance(module, Dropout) and not dims.dropout:
            module.rate = 0.0
        if hasattr(module, "noise"):
            module.noise = bool(dims.dropout)  # of the gates: (B, 7, E) numbers at once, drawn after the stages
    return model


def step(model: nn.Module, batch: Batch, number: int) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss of some prediction loss that is not linear and the auxiliary ones; and all gradients."""
    model.zero_grad()
    torch.manual_seed(1)
    with in_parts(number):
        output: Output = model(batch)
    loss = output.logits.square().mean() + output.logits.sum()
    for name, value in output.aux.items():
        loss = loss + max(model.aux_weights[name], 0.1) * value
    loss.backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return loss.detach(), gradients


def test_all_models_whose_samples_meet_take_parts() -> None:
    rest = {entry.name for entry in models().values() if entry.divisible == "no" and not entry.fits}
    assert not rest and {"flexcare", "flexcare-authors", "flexcare-a", "m3care"} <= {entry.name for entry in STAGED}


@pytest.mark.parametrize("entry, options", OPTIONS, ids=lambda value: getattr(value, "name", None))
def test_parts_give_loss_and_gradients_of_the_whole_batch(entry: ModelEntry, options: dict) -> None:
    model, reached = build(entry, options), set()
    for mix in MIXES if entry.group in ("table3", "preset") else MIXES[-1:]:  # ablations differ after the stages
        batch, _ = make_batch(mix)
        state = {name: value.clone() for name, value in model.state_dict().items()}
        loss, gradients = step(model, batch, 1)
        after = {name: value.clone() for name, value in model.state_dict().items()}
        reached |= {name for name, value in gradients.items() if value.abs().max() > 1e-6}
        for number in (2, 3, batch.size) if mix is PATTERNS else (3,):
            model.load_state_dict(state)
            in_some_parts, of_parts = step(model, batch, number)
            torch.testing.assert_close(in_some_parts, loss, rtol=1e-10, atol=1e-10)
            assert of_parts.keys() == gradients.keys()
            torch.testing.assert_close(of_parts, gradients, rtol=1e-10, atol=1e-10)
            torch.testing.assert_close(model.state_dict(), after, rtol=1e-10, atol=1e-10)
    learns = {name for name, p in model.named_parameters() if p.requires_grad}
    assert not {name for name in learns - reached if name.startswith(("encoder", "embeddings", "layers"))}


@pytest.mark.parametrize("name", ["flexcare", "flexcare-authors", "m3care"])
def test_a_stage_that_is_run_again_draws_what_it_drew(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = build(models()[name], {}, replace(SHALLOW, dropout=0.3))
    batch, _ = make_batch(PATTERNS)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    found = step(model, batch, 3)
    after = torch.rand(1)
    model.load_state_dict(state)
    monkeypatch.setattr(parts, "_run_twice", lambda stage, present, inputs: stage(*inputs))
    once = step(model, batch, 3)
    torch.testing.assert_close(found, once, rtol=0, atol=0)
    assert torch.equal(torch.rand(1), after), "random numbers go on as if nothing had been run again"
    other, _ = step(model, batch, 2)
    assert not torch.isclose(other, once[0]), "dropout would make no difference"


@pytest.mark.parametrize("name", ["flexcare", "flexcare-authors", "flexcare-a", "m3care"])
def test_memory_falls_with_the_number_of_parts(name: str) -> None:
    dims = replace(SMALL, width=32, hours=40, note_tokens=40, film=32)
    model = build(models()[name], {}, dims)
    batch, _ = make_batch(PATTERNS[3:] * 4, lengths=[(40, 40)] * 16, dims=dims)
    peaks = [counted(lambda number=number: step(model, batch, number)).peak_bytes for number in (1, 2, 4, 8)]
    assert all(fewer < 0.85 * more for more, fewer in pairwise(peaks)), peaks


def test_inputs_and_results_of_stages_are_cut_and_joined_as_batches_are() -> None:
    batch, _ = make_batch(("note", "note", *PATTERNS))
    asked = []

    def stage(own: Batch, vectors: list[Tensor | None]) -> tuple:
        asked.append(own)
        series = None if own.ehr is None else own.ehr.with_values(2 * own.ehr.values)
        return None, [own.present.double(), None if series is None else vectors[1]], series

    vectors = [None, torch.arange(9.0)[:, None]]
    with in_parts(5):
        nothing, (present, times), series = samplewise(stage, batch.present, batch, vectors)
    assert [own.size for own in asked] == [1, 2, 2, 2, 2] and asked[0].ehr is None
    assert nothing is None and torch.equal(present, batch.present.double())
    assert series.layout == batch.ehr.layout and torch.equal(series.values, 2 * batch.ehr.values)
    owners = torch.tensor([0, 1, 1, 0, 0, 1, 1, 1, 1])[:, None]  # parts of which somebody owns a series
    assert torch.equal(times, vectors[1] * owners)
    with in_parts(2), pytest.raises(TypeError, match="dict cannot be cut"):
        samplewise(stage, batch.present, {}, vectors)
    with pytest.raises(TypeError, match="batches of fixed shapes neither"):
        of_samples(Films(batch.cxr.pixels, torch.tensor(batch.cxr.rows)), 0, 2)
