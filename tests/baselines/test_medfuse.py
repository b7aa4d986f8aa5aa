"""MedFuse: absent vectors leave the sequence, and the LSTMs stop where a sequence ends."""

from __future__ import annotations

import pytest
import torch
from random_batches import PATTERNS, collate, make_batch, make_samples
from torch import nn

from baselines.medfuse import ENTRY, last_state
from models.contract import MODALITIES, Layout, Packed

ORDERS = {"ehr": ("ehr", "cxr", "note"), "cxr": ("cxr", "ehr", "note"), "note": ("note", "ehr", "cxr")}
ABSENT_ONE = ("ehr+cxr+note", "ehr+note", "ehr+cxr", "cxr+note", "ehr", "note", "cxr", "ehr+note")


def unimodal_vectors(model, sample):
    """The vector of each modality the sample owns, from the sample alone."""
    embedded = dict(zip(MODALITIES, model.embeddings(collate([sample])), strict=True))
    return {name: model.encode(name, tokens)[0] for name, tokens in embedded.items() if tokens is not None}


def fuse(model, vectors):
    """Fusion of one plain sequence of vectors, without packing."""
    _, (hidden, _) = model.fusion(torch.stack(vectors)[:, None])
    return model.head(model.norm(hidden[-1, 0]))


@pytest.mark.parametrize("primary", MODALITIES)
def test_fusion_reads_the_present_vectors_and_nothing_else(build, primary):
    model = build(ENTRY, primary=primary)
    samples = make_samples(ABSENT_ONE)
    logits = model(collate(samples)).logits
    for sample, got in zip(samples, logits, strict=True):
        vectors = unimodal_vectors(model, sample)
        compact = [vectors[name] for name in ORDERS[primary] if name in vectors]
        torch.testing.assert_close(got, fuse(model, compact), rtol=0, atol=1e-10)
        if len(compact) < 3:
            with_zeros = [vectors.get(name, torch.zeros(16).double()) for name in ORDERS[primary]]
            assert (fuse(model, with_zeros) - got).abs().max() > 1e-4
        if len(compact) > 1:
            assert (fuse(model, compact[::-1]) - got).abs().max() > 1e-4


def test_last_state_is_that_of_each_sequences_own_last_token():
    torch.manual_seed(0)
    lstm = nn.LSTM(4, 4, num_layers=2).double()
    lengths = (3, 7, 1, 7, 2, 1)
    values = torch.randn(sum(lengths), 4, dtype=torch.float64)
    got = last_state(lstm, Packed(values, Layout(lengths, tuple(range(6)))))
    for sequence, state in zip(values.split(lengths), got, strict=True):
        top, _ = lstm(sequence[:, None])
        torch.testing.assert_close(state, top[-1, 0], rtol=0, atol=1e-12)


def test_the_series_is_read_by_a_stacked_lstm_and_only_its_state_is_dropped_out(build):
    model = build(ENTRY)
    assert (model.series.num_layers, model.series.dropout, model.series_dropout.p) == (2, 0.0, 0.3)
    state = model.embeddings(make_batch(["ehr"])[0])[0]
    model.series_dropout.train()
    torch.manual_seed(1)
    ratio = model.encode("ehr", state) / last_state(model.series, state)
    assert set(ratio.flatten().mul(0.7).round(decimals=9).tolist()) == {0.0, 1.0}


def test_modules_of_modalities_that_nobody_owns_get_no_gradient(build):
    model = build(ENTRY)
    batch, _ = make_batch(["ehr", "ehr", "ehr"])
    model(batch).logits.square().sum().backward()
    for name in ("cxr", "note"):
        for module in (model.embeddings.get_submodule(name), model.encoders[name], model.projections[name]):
            assert all(parameter.grad is None for parameter in module.parameters())
    assert all(parameter.grad.any() for parameter in model.series.parameters())


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("training", [False, True])
def test_a_batch_of_one(build, pattern, training):
    output = build(ENTRY).train(training)(make_batch([pattern])[0])
    assert output.logits.shape == (1, 3)
    assert output.logits.isfinite().all()
