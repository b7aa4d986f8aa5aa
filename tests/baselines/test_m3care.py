"""M3Care: similar owners really fill in what is missing; the graph, its threshold and the stabiliser are as written."""

from __future__ import annotations

import functools
import math

import pytest
import torch
from dense_reference import dense_stack
from m3care_graphs import EVERYONE, FULL, MIXED, NOBODY, draw, graph, imputed
from random_batches import PATTERNS, collate, make_batch, make_samples
from torch import nn

from baselines.m3care import ENTRY
from baselines.m3care_graph import BatchScale, Imputation, Similarity, graph_density, kernel
from models.contract import MODALITIES

ALL = torch.ones(5, dtype=torch.bool)
"""Five owners."""

# --- similarity


def test_kernel_by_hand_with_a_constant_bandwidth():
    x = draw(4, 3).requires_grad_()
    distance = [[sum((a - b) ** 2 for a, b in zip(p, q, strict=True)) for q in x.tolist()] for p in x.tolist()]
    bandwidth = sum(map(sum, distance)) / 12
    by_hand = [[sum(math.exp(-d / (s * bandwidth)) for s in (0.5, 1, 2)) / 3 for d in row] for row in distance]
    torch.testing.assert_close(kernel(x), torch.tensor(by_hand, dtype=torch.float64), rtol=0, atol=1e-12)
    (got,) = torch.autograd.grad(kernel(x)[0, 1], x)
    square = (x[0] - x[1]).square().sum()  # the gradient flows through the distance alone
    (expected,) = torch.autograd.grad(sum(torch.exp(-square / (s * bandwidth)) for s in (0.5, 1, 2)) / 3, x)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)


def test_kernel_without_a_bandwidth_to_estimate():
    assert torch.equal(kernel(draw(1, 3)), torch.ones(1, 1).double())
    assert torch.equal(kernel(torch.ones(3, 2).double()), torch.ones(3, 3).double())


def test_graph_is_a_similarity(build):
    model = build(ENTRY)
    similarity, _ = graph(model, make_batch(MIXED)[0])
    torch.testing.assert_close(similarity, similarity.T, rtol=0, atol=1e-14)
    torch.testing.assert_close(similarity.diagonal(), torch.ones(len(MIXED)).double(), rtol=0, atol=1e-14)
    assert similarity.min() >= 0
    assert similarity.max() <= 1 + 1e-14


def test_graph_averages_over_the_modalities_that_both_samples_own(build):
    model = build(ENTRY)
    batch, _ = make_batch(MIXED)
    similarity, vectors = graph(model, batch)
    owners = batch.present.T
    within = [module(h, owned)[0] for module, h, owned in zip(model.similarities, vectors, owners, strict=True)]
    for i in range(len(MIXED)):
        for j in range(len(MIXED)):
            shared = [m for m in range(3) if batch.present[i, m] and batch.present[j, m]]
            values = [within[m][i, j].item() for m in shared]
            assert similarity[i, j].item() == pytest.approx(sum(values) / max(len(values), 1), abs=1e-14)


def test_deep_kernel_mixes_elementwise(build):
    module, h = build(ENTRY).similarities[0], draw(5, 16)
    e = torch.sigmoid(module.mixing)
    deep = kernel(module.norm_projected(module.phi(h).relu()))
    torch.testing.assert_close(module(h, ALL)[0], ((1 - e) * deep + e) * kernel(module.norm_raw(h)))


def test_threshold_is_added_back_without_gradient(build):
    model = build(ENTRY)
    similarity = torch.tensor([[1.0, 0.7, 0.3], [0.7, 1.0, 0.5], [0.3, 0.5, 1.0]], dtype=torch.float64)
    with torch.no_grad():
        model.threshold.fill_(0.0)  # sigmoid: 0.5
    kept = model.prune(similarity)
    assert torch.equal(kept, similarity * (similarity > 0.5))
    kept.sum().backward()
    assert model.threshold.grad.item() == pytest.approx(-5 * 0.25)  # five entries above; slope of the sigmoid at 0


def test_graph_density():
    edges = torch.tensor([[1.0, 0.6, 0.0], [0.6, 1.0, 0.0], [0.0, 0.0, 1.0]])
    assert graph_density(edges).item() == pytest.approx(2 / 6)
    assert graph_density(torch.ones(1, 1)).item() == 0


# --- imputation


def test_two_graph_layers_over_owners_columns_and_a_gate():
    """Against full matrices: adjacency S' with the columns of non-owners set to zero, rows of all samples kept."""
    torch.manual_seed(0)
    module, size, owned = Imputation(6).double(), 5, torch.tensor([True, False, True, True, False])
    edges, owns = draw(size, size).abs(), owned.double()
    everything = draw(size, 6, seed=1) * owns[:, None]
    adjacency = edges * owns[None]
    hop = (adjacency @ everything @ module.first.weight.T + module.first.bias).relu()
    g = (adjacency @ hop @ module.second.weight.T + module.second.bias).relu()
    torch.testing.assert_close(module.aggregate(everything, edges, owned), g, rtol=0, atol=1e-12)
    result = module(everything, edges, owned)
    a, c = torch.sigmoid(module.gate_graph(g)), torch.sigmoid(module.gate_own(everything))
    expected = torch.where(owns[:, None] > 0, (a * g + c * everything) / (a + c), g)
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-12)


def test_a_gate_of_two_vanishing_weights_still_weighs_them():
    """In single precision sigmoid(-120) is 0, and their share 0 / 0."""
    module, owned = Imputation(4), torch.ones(3, dtype=torch.bool)
    g, h = draw(3, 4).float(), draw(3, 4, seed=1).float()
    with torch.no_grad():
        for gate, level in ((module.gate_graph, -120.0), (module.gate_own, -121.0)):
            gate.weight.zero_()
            gate.bias.fill_(level)
    share = 1 / (1 + math.exp(-1))
    torch.testing.assert_close(module.gate(g, h, owned), share * g + (1 - share) * h)


def test_imputed_vectors_come_from_donors(build):
    """Two samples that lack the film get different vectors, which follow the donors' films."""
    model = build(ENTRY, threshold=EVERYONE)
    samples = make_samples(MIXED)
    before = imputed(model, collate(samples), "cxr")
    constant = model.imputations[1].second.bias.relu()
    needy = [i for i, pattern in enumerate(MIXED) if pattern in ("ehr", "ehr+note")]
    for i in needy:
        assert (before[i] - constant).abs().max() > 1e-4
    assert (before[needy[0]] - before[needy[1]]).abs().max() > 1e-4
    donor = MIXED.index("ehr+cxr")
    samples[donor] = make_samples(MIXED, seed=5)[donor]  # another series and film
    after = imputed(model, collate(samples), "cxr")
    assert (after[needy] - before[needy]).abs().max() > 1e-4


def test_the_film_of_a_donor_reaches_the_prediction_of_a_sample_without_one(build):
    """The donor's film changes nothing of the other sample's series or similarities: only imputation can carry it."""
    model = build(ENTRY, threshold=EVERYONE)
    samples = make_samples(["ehr", "ehr+cxr"])
    moved = make_samples(["ehr", "ehr+cxr"])
    moved[1].cxr.mul_(0.3)
    first, second = (imputed(model, collate(chosen), "cxr")[0] for chosen in (samples, moved))
    assert (first - second).abs().max() > 1e-5
    logits = [model(collate(chosen)).logits[0] for chosen in (samples, moved)]
    assert (logits[0] - logits[1]).abs().max() > 1e-7


@pytest.mark.parametrize("lacking", ["cxr", "note"])
def test_without_donors_the_bias_remains_and_stays_visible(build, lacking):
    model = build(ENTRY)
    batch, _ = make_batch(["ehr", "ehr", "ehr"])
    module = model.imputations[MODALITIES.index(lacking)]
    constant = module.second.bias.relu().expand(3, -1)
    torch.testing.assert_close(imputed(model, batch, lacking), constant, rtol=0, atol=1e-14)
    logits = model(batch).logits
    assert logits.isfinite().all()
    logits.square().sum().backward()
    assert module.second.bias.grad.any()  # imputed tokens are read although the modality is absent


def test_all_tokens_are_read_together_and_the_filled_vectors_read_out(build):
    model = build(ENTRY)
    batch, _ = make_batch(MIXED)
    _, contents = model.encode(batch)
    filled = [draw(len(MIXED), 16, seed=m) for m in range(3)]
    tokens = [dict(zip(part.layout.rows, part.values.split(part.layout.lengths), strict=True)) for part in contents]
    for row, got in enumerate(model.fuse(filled, contents)):
        parts = [torch.cat([filled[m][row, None], tokens[m].get(row, got.new_zeros(0, 16))]) for m in range(3)]
        sequence = torch.cat([part + model.types[m] for m, part in enumerate(parts)])
        starts = [0, len(parts[0]), len(parts[0]) + len(parts[1])]
        expected = dense_stack(model.layers, sequence)[starts].flatten()
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-10)


# --- dependence on the batch


def test_order_within_the_batch_does_not_matter(build):
    model = build(ENTRY, threshold=EVERYONE)
    samples, order = make_samples(MIXED), [5, 2, 7, 0, 1, 6, 4, 3]
    shuffled = model(collate([samples[i] for i in order])).logits
    torch.testing.assert_close(shuffled, model(collate(samples)).logits[order], rtol=0, atol=1e-10)


@pytest.mark.parametrize(("threshold", "independent"), [(NOBODY, True), (EVERYONE, False)])
def test_the_threshold_decides_whether_batch_mates_matter(build, threshold, independent):
    model = build(ENTRY, threshold=threshold)
    samples = make_samples(FULL)
    output = model(collate(samples))
    alone = torch.cat([model(collate([sample])).logits for sample in samples])
    difference = (output.logits - alone).abs().max()
    assert difference < 1e-10 if independent else difference > 1e-4
    assert output.diagnostics["graph_density"].item() == (0 if independent else 1)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_batch_of_one_is_finite(build, pattern, training):
    model = build(ENTRY).train(training)
    output = model(make_batch([pattern])[0])
    (output.logits.square().sum() + sum(output.aux.values())).backward()
    assert output.logits.isfinite().all()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


# --- stabiliser and normalisation


def test_stabiliser_compares_norms_of_owners_only(build):
    model = build(ENTRY)
    batch, _ = make_batch(MIXED)
    assert model(batch).aux == {}
    assert model.aux_weights == {"stabiliser": 1e-7}
    vectors, _ = model.encode(batch)
    expected = sum(
        abs(module.phi(h[owned]).square().sum().sqrt() - h.square().sum().sqrt())
        for module, h, owned in zip(model.similarities, vectors, batch.present.T, strict=True)
    )
    assert model.train()(batch).aux["stabiliser"].item() == pytest.approx(expected.item())
    for module in model.similarities:
        module.phi = nn.Identity()
    assert model(batch).aux["stabiliser"].item() == 0


def test_batch_scale_is_batch_norm_without_shift():
    torch.manual_seed(0)
    ours, theirs = BatchScale(4).double(), nn.BatchNorm1d(4).double()
    with torch.no_grad():
        ours.weight.copy_(theirs.weight.uniform_(0.5, 2))
    for seed in range(3):
        x = draw(6, 4, seed=seed)
        owned = torch.tensor([True] * 6 + [False] * 2)
        torch.testing.assert_close(ours(torch.cat([x, draw(2, 4, seed=7)]), owned)[owned], theirs(x))
    for name, running in (("mean", "running_mean"), ("variance", "running_var")):
        torch.testing.assert_close(getattr(ours, name), getattr(theirs, running))
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x))


def test_a_single_owner_is_normalised_by_the_running_statistics():
    module = BatchScale(4).double().train()
    module(draw(6, 4))
    before = {name: value.clone() for name, value in module.state_dict().items()}
    row = draw(1, 4, seed=1)
    in_training = module(row)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert torch.equal(in_training, module.eval()(row))


def test_defaults():
    config = ENTRY.config()
    module = Similarity(4, config.mixing, config.form, (BatchScale(4), BatchScale(4)))
    assert (ENTRY.clip_norm, ENTRY.couples_samples) == (20.0, True)
    assert torch.sigmoid(module.mixing).item() == pytest.approx(0.8808, abs=1e-4)
    assert 1 / (1 + math.exp(-config.threshold)) == 0.5


# --- options


@pytest.mark.parametrize("mask", ["columns", "pairwise"])
def test_only_the_mask_by_columns_lets_neighbours_fill_in(build, mask):
    """With the mask of the original every sample in need gets one constant, whoever is similar to it."""
    model = build(ENTRY, threshold=EVERYONE, donor_mask=mask)
    vectors = imputed(model, make_batch(MIXED)[0], "cxr")
    needy = [i for i, pattern in enumerate(MIXED) if "cxr" not in pattern]
    constant = model.imputations[1].second.bias.relu()
    voided = (vectors[needy] - constant).abs().max() < 1e-12
    assert voided == (mask == "pairwise")


@pytest.mark.parametrize(
    "check",
    [
        test_imputed_vectors_come_from_donors,
        test_the_film_of_a_donor_reaches_the_prediction_of_a_sample_without_one,
    ],
)
def test_the_mask_of_the_original_would_be_noticed(build, check):
    with pytest.raises(AssertionError):
        check(functools.partial(build, donor_mask="pairwise"))


def test_owners_aggregate_alike_under_both_masks(build):
    outputs = [imputed(build(ENTRY, donor_mask=mask), make_batch(MIXED)[0], "cxr") for mask in ("columns", "pairwise")]
    owners = [i for i, pattern in enumerate(MIXED) if "cxr" in pattern]
    assert torch.equal(outputs[0][owners], outputs[1][owners])


def test_the_other_form_mixes_both_kernels_plainly(build):
    module, h = build(ENTRY, form="ov").similarities[0], draw(5, 16)
    e = torch.sigmoid(module.mixing)
    expected = (1 - e) * kernel(module.norm_projected(module.phi(h))) + e * kernel(module.norm_raw(h))
    torch.testing.assert_close(module(h, ALL)[0], expected)


def test_one_batch_norm_can_serve_all(build):
    norms = {norm for module in build(ENTRY).similarities for norm in (module.norm_raw, module.norm_projected)}
    assert len(norms) == 6
    shared = build(ENTRY, batch_norm="shared").similarities
    assert len({norm for module in shared for norm in (module.norm_raw, module.norm_projected)}) == 1


@pytest.mark.parametrize(("depth", "unimodal", "multimodal"), [("half", 2, 2), ("one", 1, 4)])
def test_depth_before_and_after_the_modalities_meet(build, depth, unimodal, multimodal):
    model = build(ENTRY, depth=depth, layers=4)
    assert [len(encoder.layers) for encoder in model.encoders] == [unimodal] * 3
    assert len(model.layers) == multimodal
