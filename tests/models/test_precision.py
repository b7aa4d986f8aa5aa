"""bfloat16 autocast against float32: every model within stated tolerances, and what stays in float32."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from random_batches import BINARY, PATTERNS, SMALL, make_batch, randomise
from torch import Tensor, nn

from baselines import ENTRIES as BASELINES
from benchmark.data.batches import Labels
from benchmark.training.losses import total_loss
from models import ENTRIES as OWN
from models.contract import ModelEntry
from models.flexcare import FlexCare, FlexCareConfig
from models.layers import EncoderLayer

DIMS = dataclasses.replace(SMALL, width=32)
MIXED = (*PATTERNS, "ehr", "ehr+cxr+note", "ehr+note")
OF_LOGITS = 0.06
"""Nine logits of ten differ by less than this part of their root mean square. Not all: a choice of experts, or of
neighbours by a threshold, can turn over where it is nearly even."""
OF_LOSS = 0.005
OF_GRADIENT = 0.97
"""Least cosine between the gradients."""


def build(entry: ModelEntry, seed: int) -> nn.Module:
    config = entry.config()
    rates = {f.name: 0.0 for f in dataclasses.fields(config) if "dropout" in f.name and isinstance(f.default, float)}
    torch.manual_seed(seed)
    return randomise(entry.build(DIMS, [BINARY], dataclasses.replace(config, **rates)), seed)


@pytest.mark.parametrize("entry", [entry for entry in (*OWN, *BASELINES) if not entry.fits], ids=lambda e: e.name)
@pytest.mark.parametrize("seed", [0, 1])
def test_half_precision_gives_nearly_the_same(entry, seed):
    batch, y = make_batch(MIXED * 3, dtype=torch.float32, dims=DIMS, seed=seed)
    labels = Labels(y, torch.ones_like(y, dtype=torch.bool))
    logits, losses, gradients = [], [], []
    for half in (False, True):
        model = build(entry, seed)
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            with torch.no_grad():
                logits.append(model.eval()(batch).logits.float())
            torch.manual_seed(5)
            loss = total_loss("binary", model.train()(batch), labels, getattr(model, "aux_weights", {}), 1.0)
        loss.backward()
        losses.append(loss.item())
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    assert not torch.equal(*logits), "nothing was computed in half precision"
    difference = (logits[1] - logits[0]).abs() / logits[0].square().mean().sqrt()
    assert difference.quantile(0.9) < OF_LOGITS
    assert losses[1] == pytest.approx(losses[0], rel=OF_LOSS)
    assert nn.functional.cosine_similarity(*gradients, 0) > OF_GRADIENT


@pytest.mark.parametrize("dropout", [0.0, 1e-12], ids=["fused", "plain"])
@pytest.mark.parametrize("biased", [False, True])
def test_scores_and_softmax_of_attention_are_not_rounded_to_half_precision(dropout, biased):
    """Over 2,000 keys of scores up to 40, a sum of rounded weights would be off by far more than one rounding."""
    torch.manual_seed(0)
    layer = EncoderLayer(64, 1, dropout).train()
    q, k = (torch.randn(1, 1, n, 64).mul(3).bfloat16() for n in (8, 2000))
    v = torch.rand(1, 1, 2000, 64).bfloat16()
    mask = torch.rand(1, 1, 8, 2000).gt(0.5).float() if biased else None
    with torch.autocast("cpu", torch.bfloat16):
        half = layer.attend(q, k, v, mask)
    scores = q.double() @ k.double().transpose(-1, -2) * 64**-0.5 + (0.0 if mask is None else mask.double())
    assert scores.abs().max() > 30
    exact = scores.softmax(-1) @ v.double()
    rounded = scores.bfloat16().double().softmax(-1) @ v.double()
    one_rounding = 2.0**-8 * exact.abs().max()
    assert (half - exact).abs().max() < 2 * one_rounding
    assert (rounded - exact).abs().max() > 4 * one_rounding


def test_auxiliary_terms_gates_and_weights_are_in_float32_under_autocast():
    torch.manual_seed(0)
    model = randomise(FlexCare(DIMS, (BINARY,), FlexCareConfig()))
    batch, _ = make_batch(MIXED, dtype=torch.float32, dims=DIMS)
    with torch.autocast("cpu", torch.bfloat16):
        training, evaluation = model.train()(batch), model.eval()(batch)
    kept: dict[str, Tensor] = {**training.aux, "alpha": evaluation.diagnostics["alpha"]}
    kept["gates"] = evaluation.diagnostics["gates"]
    assert {name: value.dtype for name, value in kept.items()} == dict.fromkeys(kept, torch.float32)
    torch.testing.assert_close(kept["alpha"].sum(-1), torch.ones(len(MIXED)))
