"""References: one modality alone, with one answer for whoever lacks it, and the mean of three such predictions."""

from __future__ import annotations

import pytest
import torch
from dense_reference import dense_stack, embedded_tokens
from random_batches import PATTERNS, collate, make_batch, make_samples
from torch.nn import functional as F

from baselines.references import ENTRIES
from models.contract import MODALITIES

BY_NAME = {entry.name: entry for entry in ENTRIES}


def read(reader, tokens):
    """The vector of one sample's dense tokens."""
    return reader.norm(dense_stack(reader.encoder.layers, torch.cat([reader.encoder.token[None], tokens]))[0])


@pytest.mark.parametrize("name", MODALITIES)
def test_one_modality_alone_written_out_and_the_bias_without_it(build, name):
    entry = BY_NAME[f"{name}-only"]
    model = build(entry)
    batch, _ = make_batch(PATTERNS)
    tokens = model.embeddings(batch)[MODALITIES.index(name)]
    own = dict(zip(tokens.layout.rows, tokens.values.split(tokens.layout.lengths), strict=True))
    for row, got in enumerate(model(batch).logits):
        expected = model.head(read(model.reader, own[row])) if row in own else model.head.bias
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-10)
    assert entry.reads == (name,)
    assert entry.group == "reference"


@pytest.mark.parametrize("name", MODALITIES)
def test_a_model_of_one_modality_holds_nothing_of_the_others(build, name):
    model = build(BY_NAME[f"{name}-only"])
    embedded = {parameter.split(".")[1] for parameter, _ in model.named_parameters() if "embeddings" in parameter}
    assert embedded == {name}


def test_a_batch_in_which_nobody_owns_the_modality_trains_the_bias(build):
    model = build(BY_NAME["cxr-only"]).train()
    batch, _ = make_batch(["ehr", "note"])
    model(batch).logits.sum().backward()
    assert {name for name, p in model.named_parameters() if p.grad is not None and p.grad.any()} == {"head.bias"}


def test_training_takes_the_bias_to_the_prior_of_those_without(build):
    """Owners with one prevalence, others with another: the layer norm carries the difference."""
    model = build(BY_NAME["note-only"]).train()
    batch, _ = make_batch(["note"] * 8 + ["ehr"] * 8)
    y = torch.tensor([1.0] * 7 + [0.0] + [1.0] * 2 + [0.0] * 6).double()[:, None].expand(-1, 3)
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    for _ in range(300):
        optimizer.zero_grad()
        F.binary_cross_entropy_with_logits(model(batch).logits, y).backward()
        optimizer.step()
    torch.testing.assert_close(model.head.bias.sigmoid(), torch.full((3,), 0.25).double(), rtol=0, atol=0.02)


def test_late_fusion_is_the_mean_over_what_a_sample_owns(build):
    model = build(BY_NAME["late-fusion"])
    batch, _ = make_batch(PATTERNS)
    for owned, got in zip(embedded_tokens(model, batch), model(batch).logits, strict=True):
        parts = [(model.readers[m], model.heads[m], owned[name]) for m, name in enumerate(MODALITIES) if name in owned]
        expected = torch.stack([head(read(reader, tokens)) for reader, head, tokens in parts]).mean(0)
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-6)


def test_late_fusion_trains_each_predictor_by_its_own_loss(build):
    model = build(BY_NAME["late-fusion"]).train()
    samples = make_samples(["ehr+note", "ehr+cxr+note"])
    weights = [readout.weight.tolist() for readout in model(collate(samples)).readouts]
    assert weights == [[0.5, pytest.approx(1 / 3)], [pytest.approx(1 / 3)], [0.5, pytest.approx(1 / 3)]]
    for m, readout in enumerate(model(collate(samples)).readouts):
        model.zero_grad()
        readout.logits.square().sum().backward()
        moved = [any(p.grad is not None for p in reader.parameters()) for reader in model.readers]
        assert moved == [other == m for other in range(3)]
