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


def class_states(model, owned):
    """Normed class outputs of one sample by modality, with the rest of the model as it is."""
    present = [m for m, name in enumerate(MODALITIES) if name in owned]
    streams = {m: torch.cat([model.cls[m, None], owned[MODALITIES[m]]]) for m in present}
    shared = model.bottlenecks
    for layer in range(len(model.streams[0])):
        joined = layer >= model.fusion_start
        updated = []
        for m in present:
            tokens = torch.cat([streams[m], shared]) if joined else streams[m]
            out = dense_layer(model.streams[m][layer], tokens)
            streams[m], copy = out[: len(streams[m])], out[len(streams[m]) :]
            updated.append(copy)
        shared = torch.stack(updated).mean(0) if joined else shared
    return {m: model.norm(streams[m][0]) for m in present}


@pytest.mark.parametrize("fusion_start", [0, 1, 2])
@pytest.mark.parametrize("readout", ["mean", "logit_mean", "learned", "primary"])
def test_readouts_and_the_start_of_fusion(build, readout, fusion_start):
    model = build(ENTRY, readout=readout, classifier="mlp", fusion_start=fusion_start, primary="cxr")
    batch, _ = make_batch([pattern for pattern in PATTERNS if "cxr" in pattern] if readout == "primary" else PATTERNS)
    for owned, got in zip(embedded_tokens(model, batch), model(batch).logits, strict=True):
        states = class_states(model, owned)
        if readout == "primary":
            expected = model.head(states[1])
        elif readout == "logit_mean":
            expected = torch.stack([model.head(state) for state in states.values()]).mean(0)
        else:
            scores = torch.stack(
                [model.scores[m] if readout == "learned" else torch.zeros(()).double() for m in states]
            )
            expected = model.head((scores.softmax(0)[:, None] * torch.stack(list(states.values()))).sum(0))
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-10)


def test_a_learned_weight_of_an_absent_stream_takes_nothing_from_the_present_ones(build):
    """However far it lies above theirs; in single precision its exponential would leave them nothing."""
    model = build(ENTRY, readout="learned").float()
    with torch.no_grad():
        model.scores.copy_(torch.tensor([0.0, 300.0, -300.0]))
    samples = make_samples(["ehr+cxr+note", "ehr", "note", "ehr+note"], dtype=torch.float32)
    together = model(collate(samples)).logits
    for sample, logits in zip(samples, together, strict=True):
        torch.testing.assert_close(model(collate([sample])).logits[0], logits)
    together.sum().backward()
    assert model.scores.grad.isfinite().all()


def test_with_a_linear_classifier_averaged_logits_are_logits_of_the_average(build):
    batch, _ = make_batch(PATTERNS)
    first, second = (build(ENTRY, readout=readout)(batch).logits for readout in ("mean", "logit_mean"))
    torch.testing.assert_close(first, second, rtol=0, atol=1e-12)
    first, second = (build(ENTRY, readout=r, classifier="mlp")(batch).logits for r in ("mean", "logit_mean"))
    assert (first - second).abs().max() > 1e-4


def test_the_primary_readout_refuses_a_sample_without_the_primary_modality(build):
    model = build(ENTRY, readout="primary", primary="note")
    with pytest.raises(ValueError, match="a sample lacks note"):
        model(make_batch(["ehr+note", "ehr"])[0])
    with pytest.raises(ValueError, match="a sample lacks note"):
        model(make_batch(["ehr", "ehr"])[0])


def test_information_needs_one_layer_to_a_bottleneck_and_one_from_it(build):
    """The film reaches the series' class token in the second joint layer, wherever fusion starts."""
    for layers, fusion_start, reaches in ((2, 0, True), (2, 1, False), (3, 1, True), (3, 2, False)):
        model = build(ENTRY, layers=layers, fusion_start=fusion_start, readout="primary")
        samples = [make_samples(["ehr+cxr"], lengths=[(5, 4)])[0] for _ in range(2)]
        samples[1].cxr.mul_(0.5)
        first, second = model(collate(samples)).logits
        assert ((first - second).abs().max() > 1e-6) == reaches, (layers, fusion_start)


def test_a_mean_over_all_streams_would_be_noticed(build, monkeypatch):
    """The skip bottleneck is what the reference tests see: dividing by three streams breaks them."""
    monkeypatch.setattr("baselines.mmf.MMF.weights", lambda self, streams, present: present.new_ones(3, 3) / 3.0)
    monkeypatch.setattr("baselines.mmf.skip_mean", lambda parts, rows, _: sum(parts) / 3)
    model = build(ENTRY)
    batch, _ = make_batch(["ehr+cxr"] * 3)
    with pytest.raises(AssertionError):
        torch.testing.assert_close(model(batch).logits[0], reference(model, embedded_tokens(model, batch)[0]))
