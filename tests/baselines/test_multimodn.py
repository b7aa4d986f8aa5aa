"""MultiModN: a missing modality's module is skipped for that sample, and every executed stage is trained."""

from __future__ import annotations

import itertools

import pytest
import torch
from random_batches import PATTERNS, collate, make_batch, make_samples
from torch.nn import functional as F

from baselines.multimodn import ENTRY
from benchmark.data.batches import Labels
from benchmark.training.losses import prediction_loss
from models.contract import MODALITIES

MIXED = (*PATTERNS, "ehr+note", "ehr+cxr+note")


def stage_logits(model, sample, order=MODALITIES):
    """One sample alone: logits of s_0 and after each module of a modality it owns."""
    embedded = dict(zip(MODALITIES, model.embeddings(collate([sample])), strict=True))
    state, logits = model.state[None], [model.decoder(model.state)]
    for name in order:
        if embedded[name] is not None:
            state = model.stages[MODALITIES.index(name)](embedded[name], state)
            logits.append(model.decoder(state)[0])
    return logits


def test_a_module_is_skipped_for_the_samples_that_lack_its_modality(build):
    model = build(ENTRY)
    samples = make_samples(MIXED)
    for sample, got in zip(samples, model(collate(samples)).logits, strict=True):
        torch.testing.assert_close(got, stage_logits(model, sample)[-1], rtol=0, atol=1e-10)


def test_the_order_of_modules_matters(build):
    model = build(ENTRY)
    (sample,) = make_samples(["ehr+cxr+note"])
    results = [stage_logits(model, sample, order)[-1] for order in itertools.permutations(MODALITIES)]
    for a, b in itertools.combinations(results, 2):
        assert (a - b).abs().max() > 1e-6


def test_every_executed_stage_is_read_out_with_equal_weight(build):
    model = build(ENTRY)
    samples = make_samples(MIXED)
    output = model(collate(samples))
    stages = [[] for _ in samples]
    for readout in output.readouts:
        assert readout.weight.eq(0.25).all()
        for row, logits in zip(readout.rows.tolist(), readout.logits, strict=True):
            stages[row].append(logits)
    for sample, got in zip(samples, stages, strict=True):
        torch.testing.assert_close(got, stage_logits(model, sample), rtol=0, atol=1e-10)


def test_loss_is_a_quarter_of_the_sum_over_executed_stages(build):
    model = build(ENTRY)
    samples = make_samples(MIXED)
    y = torch.randint(2, (len(samples), 3), generator=torch.Generator().manual_seed(0)).double()
    total = sum(
        F.binary_cross_entropy_with_logits(logits, label, reduction="sum")
        for sample, label in zip(samples, y, strict=True)
        for logits in stage_logits(model, sample)
    )
    loss = prediction_loss("multilabel", model(collate(samples)), Labels(y, torch.ones_like(y, dtype=torch.bool)))
    assert loss.item() == pytest.approx((total / 4 / y.numel()).item(), rel=1e-5)


def test_prediction_from_the_series_is_the_intermediate_one_of_the_full_sample(build):
    model = build(ENTRY)
    (full,), (series,) = (make_samples([pattern], lengths=[(5, 4)]) for pattern in ("ehr+cxr+note", "ehr"))
    intermediate = model(collate([full])).readouts[1].logits
    torch.testing.assert_close(model(collate([series])).logits, intermediate, rtol=0, atol=1e-12)


def test_skipped_modules_get_no_gradient(build):
    model = build(ENTRY)
    output = model(make_batch(["ehr"] * 3)[0])
    sum(readout.logits.square().sum() for readout in output.readouts).backward()
    assert all(parameter.grad is None for stage in model.stages[1:] for parameter in stage.parameters())
    assert all(parameter.grad.any() for parameter in model.stages[0].parameters())
    assert model.state.grad.any()
