"""Models that are broken on purpose: the check that is meant to find the fault does find it."""

from __future__ import annotations

import pytest
import torch
from invariants import never_reads_padding, reads_members_only, stands_alone, task_token_is_silent
from random_batches import BINARY, PATTERNS, SMALL, make_batch, make_samples, randomise
from torch import Tensor, nn

from baselines import ENTRIES as BASELINES
from models import ENTRIES
from models.contract import Head, Packed
from models.flexcare import FlexCare, FlexCareConfig
from models.layers import EncoderLayer
from models.ragged import mean_by_row

MIXED = (*PATTERNS, "ehr", "ehr+cxr+note", "ehr+note")
BY_NAME = {entry.name: entry for entry in (*ENTRIES, *BASELINES)}
TRANSFORMERS = ("flexcare", "flexcare-a", "mt", "mmf", "multimodn", "medfuse")


def build(name: str, heads: tuple[Head, ...] = (BINARY,), **options) -> nn.Module:
    torch.manual_seed(0)
    entry = BY_NAME[name]
    return randomise(entry.build(SMALL, heads, entry.config(**options)).double()).eval()


def squares(model: nn.Module, batch) -> Tensor:
    return model(batch).logits.square().sum()


@pytest.fixture
def unmasked(monkeypatch):
    """Attention that sees padding."""
    attend = EncoderLayer.attend
    monkeypatch.setattr(EncoderLayer, "attend", lambda self, q, k, v, mask: attend(self, q, k, v, None))


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_unmasked_attention_is_found(name, unmasked):
    batch, _ = make_batch(MIXED, seed=5)
    with pytest.raises(AssertionError):
        never_reads_padding(lambda: build(name), batch, squares)
    with pytest.raises(AssertionError):
        stands_alone(build(name), make_samples(MIXED))


def test_a_mean_over_the_longest_length_is_found(monkeypatch):
    def mean_over_longest(packed: Packed, size: int) -> Tensor:
        lengths = torch.ones(size, 1, dtype=packed.values.dtype)
        lengths[list(packed.layout.rows), 0] = torch.tensor(packed.layout.lengths, dtype=lengths.dtype)
        return mean_by_row(packed, size) * lengths / max(packed.layout.lengths)

    model, samples = build("flexcare-a"), make_samples(MIXED)
    stands_alone(model, samples)
    monkeypatch.setattr("models.flexcare.mean_by_row", mean_over_longest)
    with pytest.raises(AssertionError, match="alone"):
        stands_alone(model, samples)


def two_tasks(config: FlexCareConfig) -> FlexCare:
    torch.manual_seed(0)
    return randomise(FlexCare(SMALL, (BINARY, BINARY), config).double()).eval()


def test_a_mask_that_is_not_enforced_is_found():
    for check in (reads_members_only, task_token_is_silent):
        check(two_tasks(FlexCareConfig()))
        with pytest.raises(AssertionError):
            check(two_tasks(FlexCareConfig(mask_mode="additive_one")))


def test_a_router_that_leaks_the_batch_is_found(monkeypatch):
    """Gates that are normalised over the batch instead of a row."""
    model, samples = build("flexcare"), make_samples(MIXED)
    gates = type(model.experts)._gates
    monkeypatch.setattr(
        type(model.experts), "_gates", lambda self, logits, complete: gates(self, logits - logits.mean(0), complete)
    )
    with pytest.raises(AssertionError):
        stands_alone(model, samples)
