"""MedFuse: absent vectors leave the sequence, and the LSTMs stop where a sequence ends."""

from __future__ import annotations

import pytest
import torch
from random_batches import PATTERNS, collate, make_batch, make_samples
from torch import nn

from baselines import recurrent
from baselines.medfuse import ENTRY
from baselines.recurrent import last_state, last_state_of_present
from models.contract import MODALITIES, Bounds, Layout, Packed, Slots
from models.ragged import token_means

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


@pytest.mark.parametrize(("overhead", "blocks"), [(0, 4), (2, 2), (100, 1)])
def test_last_state_is_that_of_each_sequences_own_last_token(monkeypatch, overhead, blocks):
    """However sequences share blocks, packed or in slots with room to spare."""
    monkeypatch.setitem(recurrent.STEP_OVERHEAD, "cpu", overhead)
    torch.manual_seed(0)
    lstm = nn.LSTM(4, 4, num_layers=2).double()
    lengths, most = (3, 7, 1, 7, 2, 1), (4, 8, 2, 8, 3, 2)
    values = torch.randn(sum(lengths), 4, dtype=torch.float64)
    calls = []
    plain = recurrent.read_steps
    monkeypatch.setattr(recurrent, "read_steps", lambda *given: calls.append(1) or plain(*given))
    packed = last_state(lstm, Packed(values, Layout(lengths, tuple(range(6)))))
    assert len(calls) == blocks
    slots = Slots.end_to_end(Bounds(most, 25), torch.arange(6), torch.tensor(lengths), 6)
    with_filler = torch.cat([values, values.new_full((25 - len(values), 4), 9.0)])
    expected = torch.stack([lstm(sequence[:, None])[0][-1, 0] for sequence in values.split(lengths)])
    for got in (packed, last_state(lstm, Packed(with_filler, slots))):
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)


def test_absent_vectors_leave_the_state_as_a_shorter_sequence_does():
    torch.manual_seed(0)
    lstm = nn.LSTM(4, 4).double()
    present = torch.tensor([[a, b, c] for a in (0, 1) for b in (0, 1) for c in (0, 1)][1:]).bool()
    vectors = torch.randn(3, 7, 4, dtype=torch.float64)
    got = last_state_of_present(lstm, list(vectors), present)
    expected = torch.stack([lstm(vectors[own, row][:, None])[0][-1, 0] for row, own in enumerate(present)])
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)


def test_the_series_is_read_by_a_stacked_lstm_and_only_its_state_is_dropped_out(build):
    model = build(ENTRY)
    assert (model.series.num_layers, model.series.dropout, model.series_dropout.rate) == (2, 0.0, 0.3)
    state = model.embeddings(make_batch(["ehr"])[0])[0]
    model.series_dropout.train()
    torch.manual_seed(1)
    ratio = model.encode("ehr", state) / last_state(model.series, state)
    assert set(ratio.flatten().mul(0.7).round(decimals=4).tolist()) == {0.0, 1.0}  # rates are rounded to 16 bits


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


@pytest.mark.parametrize("primary", ["ehr", "cxr"])
def test_two_modalities_are_fused_as_in_the_original(build, primary):
    """The original's fusion: [own features; projected features of the other], packed to length 1 where unpaired."""
    model = build(ENTRY, primary=primary)
    other = "cxr" if primary == "ehr" else "ehr"
    samples = make_samples([f"{primary}+{other}", primary, f"{primary}+{other}"])
    vectors = [unimodal_vectors(model, sample) for sample in samples]
    paired = torch.stack([torch.stack([each[primary], each.get(other, torch.ones(16).double())]) for each in vectors])
    packed = nn.utils.rnn.pack_padded_sequence(paired, [2, 1, 2], batch_first=True, enforce_sorted=False)
    twin = nn.LSTM(16, 16, batch_first=True).double()
    twin.load_state_dict(model.fusion.state_dict())
    _, (hidden, _) = twin(packed)
    torch.testing.assert_close(model(collate(samples)).logits, model.head(model.norm(hidden[0])), rtol=0, atol=1e-10)


def test_the_stacked_series_reader_is_single_layers_one_after_another(build):
    """As in the original, which stacks modules of one layer."""
    model = build(ENTRY)
    (sample,) = make_samples(["ehr"])
    states = model.embeddings(collate([sample]))[0].values[:, None]
    for layer in range(2):
        single = nn.LSTM(16, 16).double()
        single.load_state_dict({f"{n}_l0": getattr(model.series, f"{n}_l{layer}") for n in WEIGHTS})
        states, _ = single(states)
    torch.testing.assert_close(unimodal_vectors(model, sample)["ehr"], states[-1, 0], rtol=0, atol=1e-12)


WEIGHTS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


def test_mean_pooling_makes_the_path_of_a_film_linear(build):
    model = build(ENTRY, pool="mean")
    films = make_samples(["cxr"] * 2)
    middle = [type(films[0])(None, (films[0].cxr + films[1].cxr) / 2, None)]
    one, two, between = (unimodal_vectors(model, sample)["cxr"] for sample in (*films, *middle))
    torch.testing.assert_close(between, (one + two) / 2, rtol=0, atol=1e-12)
    tokens = model.embeddings(collate(films[:1]))[1]
    torch.testing.assert_close(one, model.projections["cxr"](tokens.values.mean(0)), rtol=0, atol=1e-12)


def test_a_mean_over_the_longest_length_would_be_noticed(build, monkeypatch):
    """Mean pooling divides by a sequence's own length: otherwise a sample depends on its batch mates."""

    def same_alone():
        model, samples = build(ENTRY, pool="mean"), make_samples(["ehr+note"] * 4)
        alone = torch.cat([model(collate([sample])).logits for sample in samples])
        return torch.allclose(alone, model(collate(samples)).logits, rtol=0, atol=1e-10)

    def by_longest(packed):
        return token_means(packed) * torch.tensor(packed.layout.lengths)[:, None] / max(packed.layout.lengths)

    assert same_alone()
    monkeypatch.setattr("baselines.medfuse.token_means", by_longest)
    assert not same_alone()


def test_a_fixed_order_does_not_ask_for_the_primary_modality(build):
    assert build(ENTRY, primary="cxr").order == (1, 0, 2)
    assert build(ENTRY, primary="cxr", order="fixed").order == (0, 1, 2)


def test_the_first_stage_trains_each_encoder_alone(build):
    model = build(ENTRY, pretrain_epochs=2).train()
    batch, _ = make_batch(ABSENT_ONE)
    assert [model.begin_epoch(epoch) for epoch in (1, 2, 3)] == [False, False, True]
    assert model(batch).readouts == ()
    model.begin_epoch(1)
    readouts = model(batch).readouts
    for name, readout in zip(MODALITIES, readouts, strict=True):
        assert readout.rows.tolist() == [row for row, pattern in enumerate(ABSENT_ONE) if name in pattern.split("+")]
        model.zero_grad()
        readout.logits.square().sum().backward(retain_graph=True)
        touched = {other for other in MODALITIES if model.unimodal_heads[other].weight.grad is not None}
        embedded = {
            other for other in MODALITIES if next(model.embeddings.get_submodule(other).parameters()).grad is not None
        }
        assert touched == embedded == {name}
        assert all(parameter.grad is None for parameter in (*model.fusion.parameters(), *model.head.parameters()))
    assert model.eval()(batch).readouts == ()
