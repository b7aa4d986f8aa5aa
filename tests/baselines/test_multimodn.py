"""MultiModN: a missing modality's module is skipped for that sample, and every executed stage is trained."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
from dense_reference import dense_stack, embedded_tokens
from random_batches import PATTERNS, collate, make_batch, make_samples
from torch import nn
from torch.nn import functional as F

from baselines.multimodn import ENTRY, MultiModN
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


def authors_state_update(stage, vector, state):
    """The clinical module of the authors' code, in eval mode: three linear maps, each with ReLU, on [input; state]."""
    first, second, third = (part for part in stage.update if isinstance(part, nn.Linear))
    hidden = torch.cat([vector, state])
    for linear in (first, second, third):
        hidden = (linear.weight @ hidden + linear.bias).clamp(min=0)
    return hidden


def test_states_and_losses_of_a_sample_written_out(build):
    """One sample through the modules' weights: encoding at a class token, state update, decoder after each stage."""
    model = build(ENTRY)
    for sample, output in ((sample, model(collate([sample]))) for sample in make_samples(MIXED)):
        batch, state, logits = collate([sample]), model.state, [model.decoder(model.state)]
        for name, tokens in embedded_tokens(model, batch)[0].items():
            stage = model.stages[MODALITIES.index(name)]
            encoding = dense_stack(stage.layers, torch.cat([stage.token[None], tokens]))[0]
            state = authors_state_update(stage, encoding, state)
            logits.append(model.decoder(state))
        torch.testing.assert_close(output.diagnostics["patient"][0], state, rtol=0, atol=1e-10)
        torch.testing.assert_close(torch.cat([r.logits for r in output.readouts]), torch.stack(logits))


@pytest.mark.parametrize("order", list(itertools.permutations(MODALITIES)))
def test_modules_follow_the_order_asked_for(build, order):
    model = build(ENTRY, order=order)
    samples = make_samples(MIXED)
    for sample, got in zip(samples, model(collate(samples)).logits, strict=True):
        torch.testing.assert_close(got, stage_logits(model, sample, order)[-1], rtol=0, atol=1e-10)


def test_a_samples_loss_can_be_divided_by_its_own_number_of_stages(build):
    for readout in build(ENTRY, norm="executed")(make_batch(["ehr", "ehr+note", "ehr+cxr+note"])[0]).readouts:
        for row, weight in zip(readout.rows.tolist(), readout.weight.tolist(), strict=True):
            assert weight == pytest.approx(1 / (2, 3, 4)[row])


def test_the_state_can_be_the_token_that_reads_a_modality(build):
    model = build(ENTRY, state_as_token=True)
    (sample,) = make_samples(["ehr+note"])
    state, logits = model.state, [model.decoder(model.state)]
    for name, tokens in embedded_tokens(model, collate([sample]))[0].items():
        state = dense_stack(model.stages[MODALITIES.index(name)].layers, torch.cat([state[None], tokens]))[0]
        logits.append(model.decoder(state))
    readouts = model(collate([sample])).readouts
    torch.testing.assert_close(torch.cat([r.logits for r in readouts]), torch.stack(logits), rtol=0, atol=1e-10)


def test_the_penalty_on_state_changes_counts_skipped_modules_as_no_change(build):
    model = build(ENTRY, state_penalty=2.0, dropout=0.0).train()
    assert model.aux_weights == {"state_change": 0.02}
    samples = make_samples(["ehr", "ehr+cxr+note", "note"])
    expected = 0
    for sample in samples:
        state, embedded = model.state[None], model.embeddings(collate([sample]))
        for stage, tokens in zip(model.stages, embedded, strict=True):
            if tokens is not None:
                after = stage(tokens, state)
                expected += (after - state).square().mean() / 3 / len(samples)
                state = after
    assert model(collate(samples)).aux["state_change"].item() == pytest.approx(expected.item())
    assert model.eval()(collate(samples)).aux == {}
    assert build(ENTRY).train()(collate(samples)).aux == {}


class SkipsByBatch(MultiModN):
    """As the authors' code: a module is skipped for the whole batch as soon as one sample lacks its modality."""

    def forward(self, batch):
        complete = {name: present.all() for name, present in zip(MODALITIES, batch.present.T, strict=True)}
        return super().forward(replace(batch, **{name: None for name in MODALITIES if not complete[name]}))


def test_skipping_by_batch_would_be_noticed(build):
    model, samples = build(replace(ENTRY, build=SkipsByBatch)), make_samples(MIXED)
    with pytest.raises(AssertionError):
        for sample, got in zip(samples, model(collate(samples)).logits, strict=True):
            torch.testing.assert_close(got, stage_logits(model, sample)[-1], rtol=0, atol=1e-10)
