"""MMF: bottlenecks and read-out average over present streams, and nothing else connects the streams."""

from __future__ import annotations

import pytest
import torch
from dense_reference import dense_layer, embedded_tokens
from random_batches import PATTERNS, collate, make_batch, make_samples

from baselines.mmf import ENTRY
from models.contract import MODALITIES


def reference(model, owned):
    """One sample, written out: streams are [bottlenecks; class token; content], absent ones do not exist."""
    present = [m for m, name in enumerate(MODALITIES) if name in owned]
    shared, count = model.bottlenecks, len(model.bottlenecks)
    streams = {m: torch.cat([model.cls[m, None], owned[MODALITIES[m]]]) for m in present}
    for layer in range(len(model.streams[0])):
        updated = []
        for m in present:
            out = dense_layer(model.streams[m][layer], torch.cat([shared, streams[m]]))
            updated.append(out[:count])
            streams[m] = out[count:]
        shared = torch.stack(updated).mean(0)
    return model.head(torch.stack([model.norm(streams[m][0]) for m in present]).mean(0))


def patients(model, patterns):
    """Patient vectors of one and the same sample, shown with different modalities."""
    samples = [make_samples([pattern], lengths=[(5, 4)])[0] for pattern in patterns]
    return model(collate(samples)).diagnostics["patient"]


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_bottlenecks_and_readout_average_over_present_streams(build, layers):
    model = build(ENTRY, layers=layers)
    batch, _ = make_batch((*PATTERNS, "ehr+note", "ehr"))
    logits = model(batch).logits
    for owned, got in zip(embedded_tokens(model, batch), logits, strict=True):
        torch.testing.assert_close(got, reference(model, owned), rtol=0, atol=1e-10)


def test_absent_streams_are_not_computed(build):
    model = build(ENTRY)
    for name in ("embeddings.cxr", "streams.1", "embeddings.note", "streams.2"):
        for module in model.get_submodule(name).modules():
            module.register_forward_pre_hook(lambda *_: pytest.fail("an absent stream was computed"))
    model(make_batch(["ehr", "ehr"])[0]).logits.square().sum().backward()
    assert not model.cls.grad[1:].any()


@pytest.mark.parametrize(
    ("layers", "bottlenecks", "mixes"),
    [(3, 0, False), (1, 4, False), (2, 4, True), (2, 1, True)],
    ids=["no bottleneck", "one layer", "two layers", "one bottleneck"],
)
def test_streams_meet_through_bottlenecks_and_from_the_second_layer_on(build, layers, bottlenecks, mixes):
    model = build(ENTRY, layers=layers, bottlenecks=bottlenecks)
    alone = patients(model, MODALITIES)
    (together,) = patients(model, ["ehr+cxr+note"])
    difference = (together - alone.mean(0)).abs().max()
    assert difference > 1e-4 if mixes else difference < 1e-10
