"""The fixed form of a batch gives what the packed one gives: values, losses, gradients, running statistics, for every
model; alone, and for several seeds at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import pytest
import torch
from baseline_variants import VARIANTS, build_variant, name_of
from random_batches import BINARY, PATTERNS, SMALL, make_batch, randomise
from torch import Tensor, nn
from torch.func import functional_call

from baselines import ENTRIES as BASELINES
from models import ENTRIES
from models.contract import Batch, Bounds, Films, ModelEntry, Packed, Slots
from models.layers import Dropout, EncoderLayer
from models.noise import Drawn, drawn_from
from models.room import Room, into_slots
from models.variants import FLEXCARE

ROOM = Room(
    ehr=Bounds((7,) * 11 + (5,) * 2, 60),
    cxr=9,
    note=Bounds((6,) * 8 + (3,), 47),
    joint=Bounds((17,) * 9 + (14, 14), 130),
    film_tokens=4,
)
"""More than the batches below need, with slots of nobody in each modality; samples take less than all modalities."""
MORE = Room(
    ehr=Bounds.full((7,) * 13),
    cxr=12,
    note=Bounds.full((6,) * 10 + (5, 4)),
    joint=Bounds.full((18,) * 11),
    film_tokens=4,
)
PRIMARY = ("ehr", "ehr+cxr", "ehr+note", "ehr+cxr+note")
"""Patterns for read-outs that need the series of all samples."""


@dataclass(frozen=True)
class Case:
    """A model to be tested, without dropout, and the presence patterns of its batches."""

    name: str
    build: Callable[[], nn.Module]
    patterns: tuple[str, ...] = PATTERNS

    def model(self) -> nn.Module:
        return self.build().train()

    def another(self, seed: int) -> nn.Module:
        """The model with values of its own, and with dropout."""
        model = self.model()
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.05 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        for module in model.modules():
            if isinstance(module, EncoderLayer):
                module.dropout = 0.1
            elif isinstance(module, Dropout):
                module.rate = 0.2
        return model

    def batch(self, seed: int = 3) -> tuple[Batch, Tensor]:
        chosen = [*self.patterns, *self.patterns][seed % 5 :]
        return make_batch([*chosen, "ehr+cxr+note", *PRIMARY, *PRIMARY][:11], seed=seed)


def build(entry: ModelEntry) -> nn.Module:
    torch.manual_seed(0)
    return randomise(entry.build(SMALL, [BINARY] * (2 if entry.multitask else 1), without_dropout(entry)).double())


def without_dropout(entry: ModelEntry) -> object:
    config = entry.config()
    return replace(config, dropout=0.0) if hasattr(config, "dropout") else config


def variant(name: str, options: dict) -> Case:
    dropout = {} if name in ("mt", "mmf") else {"dropout": 0.0}
    patterns = PRIMARY if options.get("readout") == "primary" else PATTERNS
    return Case(name_of(name, options), partial(build_variant, name, options | dropout), patterns)


ALL = [Case(entry.name, partial(build, entry)) for entry in (*ENTRIES, *BASELINES) if not entry.fits]
ALL += [variant(*each) for each in VARIANTS]
CASES = [case for case in ALL if getattr(case.build(), "fixed_shapes", False)]
PACKED_ONLY = {"medfuse-pretrain_epochs=1", "mt-subset_tasks=all", "mt-subset_tasks=one-fusion_start=1"}
cases = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def loss_of(output, y: Tensor) -> Tensor:
    loss = (output.logits - y).square().mean() + sum(output.aux.values())
    for readout in output.readouts:
        labels = y.index_select(0, readout.rows)
        loss = loss + (readout.weight * (readout.logits - labels).square().mean(1)).sum()
    return loss


def noise(seed: int = 0) -> tuple[Tensor, Tensor]:
    """Random numbers of one forward pass: bits for dropout, and noise of gates."""
    generator = torch.Generator().manual_seed(seed)
    bits = torch.randint(-(2**15), 2**15, (400_000,), generator=generator, dtype=torch.int16)
    return bits, torch.randn(5000, generator=generator, dtype=torch.float64)


def train_once(model: nn.Module, batch: Batch, y: Tensor, seed: int = 0) -> dict[str, Tensor]:
    """Loss, gradients (zero where there is none) and buffers after a training pass."""
    model.train().zero_grad()
    with drawn_from(Drawn(*noise(seed))):
        loss = loss_of(model(batch), y)
    loss.backward()
    grads = {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in model.named_parameters()}
    return {"loss": loss.detach(), **grads, **{name: value.clone() for name, value in model.named_buffers()}}


def assert_same(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, rtol=0, atol=1e-10, msg=lambda text, name=name: f"{name}: {text}")


def test_who_has_no_fixed_form() -> None:
    assert {case.name for case in ALL} - {case.name for case in CASES} == PACKED_ONLY


@cases
def test_fixed_equals_packed(case: Case) -> None:
    packed, y = case.batch()
    fixed = into_slots(packed, ROOM)
    predicted = [case.model().eval()(batch).logits for batch in (fixed, packed)]
    torch.testing.assert_close(*predicted, rtol=0, atol=1e-10)
    assert_same(train_once(case.model(), fixed, y), train_once(case.model(), packed, y))


@cases
def test_filler_and_spare_room_change_nothing(case: Case) -> None:
    packed, y = case.batch()
    expected = train_once(case.model(), packed, y)
    assert_same(train_once(case.model(), filled(into_slots(packed, ROOM), 1e4), y), expected)
    assert_same(train_once(case.model(), into_slots(packed, MORE), y), expected)


@pytest.mark.parametrize("mask_mode", ["strict", "additive_one"])
@pytest.mark.parametrize("task_token", ["per_task", "none"])
@pytest.mark.parametrize("fused", ["modalities", "open_modalities"])
def test_filler_that_sees_nobody_makes_nothing_infinite(fused: str, task_token: str, mask_mode: str) -> None:
    """With dropout probabilities are written out, and a softmax without a key is NaN."""
    entry = replace(FLEXCARE, config=partial(FLEXCARE.config, fused=fused, task_token=task_token, mask_mode=mask_mode))
    case = Case("flexcare", partial(build, entry))
    packed, y = case.batch()
    for batch in (packed, into_slots(packed, ROOM)):
        for name, value in train_once(case.another(1), batch, y).items():
            assert value.isfinite().all(), name


def filled(batch: Batch, value: float) -> Batch:
    """The fixed batch with `value` wherever nothing is somebody's."""

    def sequences(packed: Packed) -> Packed:
        filler = torch.arange(packed.layout.tokens) >= packed.layout.used.sum()
        assert filler.any()
        return packed.with_values(packed.values.masked_fill(filler[:, None], value))

    pixels = batch.cxr.pixels.masked_fill((batch.cxr.rows == batch.size)[:, None, None], value)
    cxr = replace(batch.cxr, pixels=pixels)
    return replace(batch, ehr=sequences(batch.ehr), cxr=cxr, note=sequences(batch.note))


# ------------------------------------------------------------------------------------------------- several seeds


def tensors_of(batch: Batch) -> dict[str, Tensor]:
    """What differs between two batches in the same slots."""
    content = {"pixels": batch.cxr.pixels, "films": batch.cxr.rows, "present": batch.present, "sample": batch.sample}
    for name in ("ehr", "note"):
        part = getattr(batch, name)
        content |= {name: part.values, f"{name}_rows": part.layout.rows, f"{name}_used": part.layout.used}
    return content


def batch_with(content: dict[str, Tensor], like: Batch) -> Batch:
    """The batch that has these tensors in the slots of `like`."""

    def sequences(name: str) -> Packed:
        layout = getattr(like, name).layout
        own = (content[f"{name}_rows"], content[f"{name}_used"])
        return Packed(content[name], Slots.end_to_end(layout.bounds, *own, layout.size, layout.joint))

    films = Films(content["pixels"], content["films"], like.cxr.joint)
    present, sample = content["present"], content["sample"]
    return Batch(sequences("ehr"), films, sequences("note"), present, like.task, sample)


@pytest.mark.parametrize(
    "case", [case for case in CASES if getattr(case.build(), "vmappable", True)], ids=lambda case: case.name
)
def test_seeds_side_by_side_are_as_each_alone(case: Case) -> None:
    """With weights, batches and noise of their own, dropout included."""
    models = [case.another(seed) for seed in range(3)]
    batches = [case.batch(seed) for seed in range(3)]
    fixed = [into_slots(batch, ROOM) for batch, _ in batches]
    stacked = {name: torch.stack([tensors_of(batch)[name] for batch in fixed]) for name in tensors_of(fixed[0])}
    parameters = {
        name: torch.stack([model.get_parameter(name).detach() for model in models]).requires_grad_()
        for name, _ in models[0].named_parameters()
    }
    buffers = {
        name: torch.stack([dict(model.named_buffers())[name] for model in models])
        for name, _ in models[0].named_buffers()
    }

    def loss(parameters: dict, buffers: dict, content: dict, y: Tensor, *drawn: Tensor) -> Tensor:
        with drawn_from(Drawn(*drawn)):
            batch = batch_with(content, fixed[0])
            return loss_of(functional_call(models[0], (parameters, buffers), (batch,)), y)

    drawn = [torch.stack(numbers) for numbers in zip(*map(noise, range(3)), strict=True)]
    labels = torch.stack([y for _, y in batches])
    losses = torch.vmap(loss, randomness="error")(parameters, buffers, stacked, labels, *drawn)
    losses.sum().backward()
    together = {"loss": losses.detach(), **{name: p.grad for name, p in parameters.items()}, **buffers}
    for seed, model in enumerate(models):
        own = {
            name: torch.zeros_like(parameters[name][seed]) if value is None else value[seed]
            for name, value in together.items()
        }
        assert_same(own, train_once(model, fixed[seed], batches[seed][1], seed))
