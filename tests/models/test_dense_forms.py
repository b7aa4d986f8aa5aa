"""Each model's dense, padded form: the same state, values and gradients as the packed form, and really padded."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from random_batches import BINARY, PATTERNS, SMALL, make_batch, randomise
from torch import Tensor, nn

from baselines import ENTRIES as BASELINES
from models import ENTRIES
from models.contract import Batch, ModelEntry
from models.cost import forward_flops

TRAINED = [entry for entry in (*ENTRIES, *BASELINES) if not entry.fits]
entries = pytest.mark.parametrize("entry", TRAINED, ids=lambda entry: entry.name)
MIXTURES = [(pattern,) * 3 for pattern in PATTERNS] + [PATTERNS, ("ehr", "cxr"), (*PATTERNS, "note", "ehr+cxr+note")]


def both(entry: ModelEntry) -> tuple[nn.Module, nn.Module]:
    """The model and its dense form, of equal values, without dropout."""
    config = entry.config()
    config = replace(config, dropout=0.0) if hasattr(config, "dropout") else config
    torch.manual_seed(0)
    heads = [BINARY] * (2 if entry.multitask else 1)
    model, dense = (build(SMALL, heads, config).double() for build in (entry.build, entry.dense))
    dense.load_state_dict(randomise(model).state_dict())
    return model, dense


def trained_once(model: nn.Module, batch: Batch, y: Tensor) -> dict[str, Tensor]:
    """Loss, gradients (zero where there is none) and buffers after a training pass."""
    model.train().zero_grad()
    torch.manual_seed(1)  # noise of gates
    output = model(batch)
    loss = (output.logits - y).square().mean() + sum(output.aux.values())
    for readout in output.readouts:
        labels = y.index_select(0, readout.rows)
        loss = loss + (readout.weight * (readout.logits - labels).square().mean(1)).sum()
    loss.backward()
    grads = {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in model.named_parameters()}
    return {"loss": loss.detach(), **grads, **dict(model.named_buffers())}


@entries
def test_dense_equals_packed_over_all_patterns(entry: ModelEntry) -> None:
    model, dense = both(entry)
    for seed, patterns in enumerate(MIXTURES):
        batch, y = make_batch(patterns, seed=seed)
        predicted = [module.eval()(batch).logits for module in (dense, model)]
        torch.testing.assert_close(*predicted, rtol=0, atol=1e-10)
        ours, theirs = trained_once(dense, batch, y), trained_once(model, batch, y)
        for name, value in theirs.items():
            torch.testing.assert_close(ours[name], value, rtol=0, atol=1e-10, msg=f"{patterns}: {name}")


@entries
def test_dense_work_does_not_shrink_with_what_is_absent_or_short(entry: ModelEntry) -> None:
    """One sample of full length that owns everything sets the work of all others."""
    whole = [(SMALL.hours, SMALL.note_tokens)] * 4
    everything, _ = make_batch(["ehr+cxr+note"] * 4, lengths=whole)
    little, _ = make_batch(["ehr+cxr+note", "ehr", "note", "ehr"], lengths=[whole[0], (1, 1), (1, 1), (2, 1)])
    model, dense = (module.float() for module in both(entry))  # counting makes them double again
    # FlexCare's dense encoder pads what embeddings give it, so that these alone are spared.
    assert forward_flops(dense, little) > 0.8 * forward_flops(dense, everything)
    if not entry.name.startswith("flexcare"):
        assert forward_flops(dense, little) == forward_flops(dense, everything)
    assert forward_flops(model, little) < 0.6 * forward_flops(dense, little)
