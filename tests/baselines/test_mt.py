"""MT: the packed joint sequence equals a full sequence whose absent modalities attention may not see."""

from __future__ import annotations

import pytest
import torch
from dense_reference import dense_layer, dense_stack, embedded_tokens
from random_batches import PATTERNS, SMALL, Sample, collate, make_batch, make_labels, make_samples
from torch.nn import functional as F

from baselines.mt import ENTRY
from benchmark.data.batches import Labels
from benchmark.training.losses import prediction_loss
from models.contract import MODALITIES, Head

LONGEST = {"ehr": SMALL.hours, "cxr": (SMALL.film // SMALL.patch) ** 2, "note": SMALL.note_tokens}


def masked_reference(model, owned, *, mask=True):
    """One sample at full length: filler for absent modalities and padding, hidden as keys from every query."""
    filler = torch.Generator().manual_seed(0)
    rows, visible = [model.tokens], [torch.ones(1, dtype=torch.bool)]
    for m, name in enumerate(MODALITIES):
        tokens = torch.randn(LONGEST[name], SMALL.width, generator=filler, dtype=torch.float64)
        length = len(owned.get(name, ()))
        if length:
            tokens = torch.cat([owned[name], tokens[length:]])
        rows.append(tokens + model.types[m])
        visible.append(torch.arange(LONGEST[name]) < length)
    sees = torch.cat(visible) if mask else None
    return model.head(model.norm(dense_stack(model.layers, torch.cat(rows), sees)[0]))


def test_absent_modalities_are_masked_keys(build):
    model = build(ENTRY)
    batch, _ = make_batch((*PATTERNS, "ehr+note", "ehr"))
    logits = model(batch).logits
    for owned, got in zip(embedded_tokens(model, batch), logits, strict=True):
        torch.testing.assert_close(got, masked_reference(model, owned), rtol=0, atol=1e-10)
        if len(owned) < 3:
            assert (masked_reference(model, owned, mask=False) - got).abs().max() > 1e-4


@pytest.mark.parametrize("name", MODALITIES)
def test_one_modality_alone_needs_only_its_own_tokens(build, name):
    model = build(ENTRY)
    (sample,) = make_samples([name])
    batch = collate([sample])
    model(batch).logits.square().sum().backward()
    for m, other in enumerate(MODALITIES):
        touched = [parameter.grad is not None for parameter in getattr(model.embeddings, other).parameters()]
        assert all(touched) if other == name else not any(touched)
        assert model.types.grad[m].any() == (other == name)


def test_the_class_token_is_a_trained_parameter(build):
    model = build(ENTRY)
    model(make_batch(["ehr+cxr+note"] * 2)[0]).logits.square().sum().backward()
    assert "tokens" in dict(model.named_parameters())
    assert model.tokens.grad.any()


FULL = "ehr+cxr+note"
SUBSETS = ("ehr", "cxr", "ehr+cxr", "note", "ehr+note", "cxr+note", FULL)
"""By their number, from 1."""


def shown(sample, pattern):
    """The sample with the modalities of the pattern only."""
    return Sample(**{name: getattr(sample, name) if name in pattern.split("+") else None for name in MODALITIES})


@pytest.mark.parametrize("layers_open", [1, 2, 3])
def test_before_fusion_tokens_see_their_own_modality_and_the_class_token_itself(build, layers_open):
    """Against one dense sequence under a block mask in the first layers."""
    model = build(ENTRY, fusion_start=3 - layers_open)
    batch, _ = make_batch((*PATTERNS, "ehr+note"))
    for owned, got in zip(embedded_tokens(model, batch), model(batch).logits, strict=True):
        parts = [model.tokens] + [owned[name] + model.types[m] for m, name in enumerate(MODALITIES) if name in owned]
        kind = torch.cat([torch.full((len(part),), i) for i, part in enumerate(parts)])
        tokens = torch.cat(parts)
        for number, layer in enumerate(model.layers):
            if number < model.fusion_start:  # each row by itself, with the keys that it may see
                tokens = torch.stack([dense_layer(layer, tokens, kind == own)[i] for i, own in enumerate(kind)])
            else:
                tokens = dense_layer(layer, tokens)
        torch.testing.assert_close(got, model.head(model.norm(tokens[0])), rtol=0, atol=1e-10)


def test_only_the_class_token_of_the_last_layer_depends_on_other_modalities_under_late_fusion(build):
    model = build(ENTRY, fusion_start=2)
    seen = {}
    model.layers[1].register_forward_hook(lambda _, call, out: seen.setdefault(tuple(call[0].layout.lengths), out))
    one, other = make_samples([FULL], lengths=[(5, 4)], seed=1)[0], make_samples([FULL], lengths=[(5, 4)], seed=2)[0]
    first = model(collate([one])).logits
    inputs = {lengths: out.values for lengths, out in seen.items()}
    assert set(inputs) == {(1,), (5,), (4,)}  # class token; series; film and note have equal lengths
    seen.clear()
    second = model(collate([Sample(one.ehr, other.cxr, other.note)])).logits
    for lengths in ((1,), (5,)):
        assert torch.equal(seen[lengths].values, inputs[lengths])
    assert not torch.equal(seen[(4,)].values, inputs[(4,)])
    assert (first - second).abs().max() > 1e-6


def test_every_subset_has_its_own_class_token_and_task(build):
    """A task's prediction is that of a sample which owns its subset and nothing else; all losses weigh the same."""
    model = build(ENTRY, subset_tasks="all").train()
    samples = make_samples([FULL, "ehr+note", "cxr"])
    output = model(collate(samples))
    (readout,) = output.readouts
    sets = [[FULL, *SUBSETS[:-1]], ["ehr+note", "ehr", "note"], ["cxr"]]
    model.eval()
    for row, patterns in enumerate(sets):
        mine = readout.rows == row
        alone = torch.cat([model(collate([shown(samples[row], pattern)])).logits for pattern in patterns])
        torch.testing.assert_close(readout.logits[mine], alone, rtol=0, atol=1e-10)
        torch.testing.assert_close(readout.weight[mine], torch.full((len(patterns),), 1 / len(patterns)))
    torch.testing.assert_close(output.logits, model(collate(samples)).logits, rtol=0, atol=1e-12)
    y = make_labels(Head(3, "multilabel", "ehr"), 3)
    known = torch.ones_like(y, dtype=torch.bool)
    separate = [
        [
            F.binary_cross_entropy_with_logits(model(collate([shown(samples[row], p)])).logits, y[row, None])
            for p in each
        ]
        for row, each in enumerate(sets)
    ]
    expected = sum(sum(each) / len(each) for each in separate) / 3
    loss = prediction_loss("multilabel", model.train()(collate(samples)), Labels(y, known))
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)


def test_one_further_subset_is_drawn_a_sample_and_step(build):
    model = build(ENTRY, subset_tasks="one").train()
    torch.manual_seed(0)
    drawn = [model.draw_tasks([7, 3, 4]) for _ in range(60)]
    assert all(rows == [0, 1] for rows, _ in drawn)
    assert {sets[0] for _, sets in drawn} == {1, 2, 3, 4, 5, 6}
    assert {sets[1] for _, sets in drawn} == {1, 2}
    assert model(make_batch([FULL, "ehr"])[0]).readouts[0].weight.tolist() == [0.5, 1.0, 0.5]


def test_the_class_token_is_that_of_the_full_set_of_a_sample(build):
    model = build(ENTRY, subset_tasks="all")
    for number, pattern in enumerate(SUBSETS):
        model.zero_grad()
        model(make_batch([pattern])[0]).logits.square().sum().backward()
        assert [bool(row.any()) for row in model.tokens.grad] == [n == number for n in range(7)]
