"""The fixed form of a batch gives what the packed one gives: values, losses and gradients, for every model."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from random_batches import BINARY, PATTERNS, SMALL, make_batch, randomise
from torch import Tensor, nn

from baselines import ENTRIES as BASELINES
from models import ENTRIES
from models.contract import Batch, ModelEntry
from models.room import Room, into_slots

TRAINED = [entry for entry in (*ENTRIES, *BASELINES) if not entry.fits]
ROOM = Room(ehr=(7,) * 6 + (5,) * 2, cxr=7, note=(6,) * 6 + (3,), joint=(17,) * 9 + (14, 14), film_tokens=4)
"""More than the batch below needs, with slots of nobody in each modality."""


def batch_of(dtype: torch.dtype = torch.float64) -> tuple[Batch, Tensor]:
    return make_batch([*PATTERNS, "ehr", "ehr+note", "cxr", "ehr+cxr+note"], dtype=dtype, seed=3)


def build(entry: ModelEntry) -> nn.Module:
    torch.manual_seed(0)
    config = entry.config()
    if hasattr(config, "dropout"):
        config = replace(config, dropout=0.0)
    return randomise(entry.build(SMALL, [BINARY] * (2 if entry.multitask else 1), config).double())


def grads(model: nn.Module, batch: Batch, y: Tensor) -> list[Tensor]:
    torch.manual_seed(1)  # noise of gates
    output = model(batch)
    loss = (output.logits - y).square().mean() + sum(output.aux.values())
    for readout in output.readouts:
        loss = loss + (readout.weight * (readout.logits - y[readout.rows]).square().mean(1)).sum()
    model.zero_grad()
    loss.backward()
    return [loss.detach(), *(p.grad if p.grad is not None else torch.zeros_like(p) for p in model.parameters())]


@pytest.mark.parametrize("entry", TRAINED, ids=lambda entry: entry.name)
def test_fixed_equals_packed(entry: ModelEntry) -> None:
    packed, y = batch_of()
    fixed = into_slots(packed, ROOM)
    model = build(entry).eval()
    torch.testing.assert_close(model(fixed).logits, model(packed).logits, rtol=0, atol=1e-10)
    model.train()
    for ours, theirs in zip(grads(model, fixed, y), grads(model, packed, y), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)
