"""MT: the packed joint sequence equals a full sequence whose absent modalities attention may not see."""

from __future__ import annotations

import pytest
import torch
from dense_reference import dense_stack, embedded_tokens
from random_batches import PATTERNS, SMALL, collate, make_batch, make_samples

from baselines.mt import ENTRY
from models.contract import MODALITIES

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
