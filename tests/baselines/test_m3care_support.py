"""M3Care with a frozen support set in place of the batch, and its whole graph against full matrices."""

from __future__ import annotations

import pytest
import torch
from m3care_graphs import EVERYONE, MIXED, graph, imputed
from random_batches import PATTERNS, collate, make_batch, make_samples

from baselines.m3care import ENTRY
from baselines.m3care_graph import bandwidth, kernel
from models.contract import MODALITIES

BANK = (*MIXED, "ehr+cxr", "note")


def supported(build, patterns=BANK, **options):
    """A model with a support set that it keeps, and the set."""
    model = build(ENTRY, evaluation="bank", support_samples=10, threshold=EVERYONE, **options)
    bank = make_samples(patterns, seed=3)
    model.train()(make_batch(MIXED)[0])  # seven mates in training
    model.eval().remember(collate(bank))
    return model, bank


def test_with_a_support_set_no_sample_depends_on_its_batch(build):
    model, _ = supported(build)
    assert (model.couples_samples, build(ENTRY).couples_samples) == (False, True)
    samples = make_samples((*MIXED, *PATTERNS))
    together = model(collate(samples)).logits
    for i, sample in enumerate(samples):
        torch.testing.assert_close(model(collate([sample])).logits, together[i, None], rtol=0, atol=1e-10)
    assert model(collate(samples)).aux == {}


def test_prediction_from_a_support_set_written_out(build):
    """One new sample among the set: weights of others scaled to the mates of training, kernels' bandwidths its own."""
    model, bank = supported(build)
    (sample,) = make_samples(["ehr+note"], seed=8)
    alone = {m: h for m, h in enumerate(model.encode(collate([sample]))[0]) if h is not None}
    owned = collate(bank).present
    similarity, vectors = graph(model, collate(bank))
    rows = [part.nonzero().flatten() for part in owned.T]
    vectors = [h[part] for h, part in zip(vectors, rows, strict=True)]  # owners' own
    count, mates = len(bank), 7
    within = model.prune(similarity) * (mates / (count - 1))
    within[range(count), range(count)] = 1
    shared, kinds = torch.zeros(count).double(), torch.zeros(count).double()
    for m, h in alone.items():
        module = model.similarities[m]
        (raw, deep, _), (new_raw, new_deep, _) = (module.views(x, torch.ones(len(x)).bool()) for x in (vectors[m], h))
        near = [kernel(new, old, bandwidth(old))[0] for new, old in ((new_raw, raw), (new_deep, deep))]
        shared[rows[m]] += module.mix(*near)
        kinds[rows[m]] += 1
    edges = model.prune(shared / kinds.clamp(min=1)) * mates / count
    for m in range(3):
        module, own = model.imputations[m], alone.get(m)
        first, second, donors = module.first, module.second, rows[m]
        hops = first(within[donors][:, donors] @ vectors[m]).relu()
        around = edges[donors] @ hops
        if own is not None:
            around = around + first(edges[donors] @ vectors[m] + own[0]).relu()
        g = second(around).relu()
        if own is not None:
            a, c = torch.sigmoid(module.gate_graph(g)), torch.sigmoid(module.gate_own(own[0]))
            g = (a * g + c * own[0]) / (a + c)
        got = model.impute_from_support(*imputation_inputs(model, sample))[m][0]
        torch.testing.assert_close(got, g, rtol=0, atol=1e-10)


def imputation_inputs(model, sample):
    batch = collate([sample])
    return model.encode(batch)[0], batch.present


def test_the_support_set_fills_in_and_belongs_to_the_state(build):
    model, _ = supported(build)
    (sample,) = make_samples(["ehr"], seed=8)
    before = model(collate([sample])).logits
    twin = build(ENTRY, evaluation="bank", support_samples=10)
    with pytest.raises(RuntimeError, match="has been given none"):
        twin(collate([sample]))
    twin.load_state_dict(model.state_dict())
    assert torch.equal(twin(collate([sample])).logits, before)
    moved = make_samples(BANK, seed=3)
    moved[BANK.index("ehr+cxr")].cxr.mul_(0.3)
    model.remember(collate(moved))
    assert (model(collate([sample])).logits - before).abs().max() > 1e-9
    voided, _ = supported(build, donor_mask="pairwise")
    filled = voided.impute_from_support(*imputation_inputs(voided, sample))
    assert torch.equal(filled[1][0], voided.imputations[1].second.bias.relu())


@pytest.mark.parametrize("patterns", [("ehr",), ("ehr", "ehr+cxr"), ("note",) * 10])
def test_small_and_one_sided_support_sets_are_finite(build, patterns):
    model, _ = supported(build, patterns)
    assert model(make_batch(PATTERNS)[0]).logits.isfinite().all()


# --- the whole graph, written out


@pytest.mark.parametrize("mask", ["columns", "pairwise"])
@pytest.mark.parametrize("form", ["odir", "ov"])
def test_from_vectors_to_filled_vectors_with_full_matrices(build, mask, form):
    """As the notebooks write it: placeholders for absent vectors, masks A_m = p_m p_m^T, matrices of the whole batch.

    Placeholders enter neither norms nor bandwidths here, and the column mask takes p_m^T alone.
    """
    model = build(ENTRY, donor_mask=mask, form=form, threshold=EVERYONE)
    batch, _ = make_batch(MIXED)
    vectors, _ = model.encode(batch)
    p = batch.present.double().T  # (3, B)
    h = torch.zeros(3, len(MIXED), 16).double()
    total, shared = torch.zeros(len(MIXED), len(MIXED)).double(), torch.zeros(len(MIXED), len(MIXED)).double()

    def kappa(x, owned):
        distance = ((x[:, None] - x[None]) ** 2).sum(-1) * owned
        count = owned[0].new_tensor(float(owned.sum().sqrt()))
        b = distance.sum() / (count**2 - count)
        return sum(torch.exp(-distance / (s * b)) for s in (0.5, 1.0, 2.0)) / 3

    for m, module in enumerate(model.similarities):
        h[m] = vectors[m]
        owned = p[m][:, None] * p[m][None]
        e = 1 / (1 + torch.exp(-module.mixing))
        deep = module.phi(h[m])
        deep = kappa(module.norm_projected(deep.clamp(min=0) if form == "odir" else deep), owned)
        raw = kappa(module.norm_raw(h[m]), owned)
        similar = ((1 - e) * deep + e) * raw if form == "odir" else (1 - e) * deep + e * raw
        total, shared = total + similar * owned, shared + owned
    similarity = torch.where(shared > 0, total / shared.clamp(min=1), 0)
    threshold = 1 / (1 + torch.exp(-model.threshold))
    edges = torch.where(similarity > threshold, similarity, 0)
    for m, module in enumerate(model.imputations):
        adjacency = edges * (p[m][:, None] * p[m][None] if mask == "pairwise" else p[m][None])
        hop = (adjacency @ (h[m] @ module.first.weight.T) + module.first.bias).clamp(min=0)
        g = (adjacency @ (hop @ module.second.weight.T) + module.second.bias).clamp(min=0)
        a = 1 / (1 + torch.exp(-(g @ module.gate_graph.weight.T + module.gate_graph.bias)))
        c = 1 / (1 + torch.exp(-(h[m] @ module.gate_own.weight.T + module.gate_own.bias)))
        expected = torch.where(p[m][:, None] > 0, (a * g + c * h[m]) / (a + c), g)
        torch.testing.assert_close(imputed(model, batch, MODALITIES[m]), expected, rtol=0, atol=1e-10)
