"""The whole network: size, tasks, tokens' independence, auxiliary terms, diagnostics."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from invariants import reads_members_only
from random_batches import BINARY, PATTERNS, SMALL, collate, make_batch, make_samples, randomise
from torch import Tensor

from models.contract import MODALITIES, Dimensions, Head, count_parameters
from models.dense_encoder import DenseCombinationEncoder
from models.flexcare import FlexCare, FlexCareConfig, covariance_term
from models.mask import COMBINATIONS, complete_combinations
from models.mixture_of_experts import MixtureOfExperts

FULL = ["ehr+cxr+note"] * 3
TWO = (BINARY, Head(4, "multilabel", "ehr"))


def build(heads: tuple[Head, ...] = TWO, config: FlexCareConfig | None = None) -> FlexCare:
    torch.manual_seed(0)
    return randomise(FlexCare(SMALL, heads, config or FlexCareConfig()).double()).eval()


def test_number_of_parameters_with_the_six_tasks_of_the_paper():
    heads = [Head(classes, "binary", "ehr") for classes in (1, 10, 1, 25, 1, 14)]
    model = FlexCare(Dimensions(), heads, FlexCareConfig())
    assert count_parameters(model) == 1_538_228


def test_each_combination_depends_on_the_content_of_its_members_only():
    reads_members_only(build())
    reads_members_only(build(config=FlexCareConfig(task_sees_incomplete=False)))


def stream_tokens(model: FlexCare, monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """Collects, at each layer but the last, the tokens of streams followed by readers."""
    seen = []
    for layer in model.encoder.layers[:-1]:

        def record(*args, finish=layer.finish):
            seen.append(finish(*args))
            return seen[-1]

        monkeypatch.setattr(layer, "finish", record)
    return seen


def test_the_task_token_receives_and_never_sends(monkeypatch):
    model = build()
    batch, _ = make_batch(PATTERNS)
    other = dataclasses.replace(batch, task=1)
    tokens = stream_tokens(model, monkeypatch)
    streams = batch.ehr.layout.tokens + 4 * len(batch.cxr.rows) + batch.note.layout.tokens
    (task, combinations), (other_task, other_combinations) = model.encode(batch), model.encode(other)
    assert torch.equal(combinations, other_combinations)
    assert not torch.equal(task, other_task)
    half = len(tokens) // 2
    assert half == SMALL.layers - 1
    for mine, others in zip(tokens[:half], tokens[half:], strict=True):
        assert torch.equal(mine[:streams], others[:streams])
    first, second = model(batch).diagnostics, model(other).diagnostics
    assert not torch.equal(first["gates"], second["gates"])
    assert not torch.equal(first["alpha"][-1], second["alpha"][-1])


@pytest.mark.parametrize("c", range(len(COMBINATIONS)))
def test_a_combination_token_changes_itself_and_the_task_token_only(c, monkeypatch):
    model = build()
    batch, _ = make_batch(FULL)
    tokens = stream_tokens(model, monkeypatch)
    task, combinations = model.encode(batch)
    with torch.no_grad():
        model.combinations[c] += 0.5
    other_task, others = model.encode(batch)
    changed = [not torch.equal(combinations[:, k], others[:, k]) for k in range(len(COMBINATIONS))]
    assert changed == [k == c for k in range(len(COMBINATIONS))]
    assert not torch.equal(task, other_task)
    streams = len(tokens[0]) - batch.size * (1 + len(COMBINATIONS))
    assert torch.equal(tokens[0][:streams], tokens[SMALL.layers - 1][:streams])


def test_the_token_of_an_absent_modality_changes_no_output():
    model = build()
    batch, _ = make_batch(["ehr", "ehr+note"])
    before = model(batch).logits
    with torch.no_grad():
        model.combinations[COMBINATIONS.index((False, True, False))] += 0.5
    assert torch.equal(model(batch).logits, before)
    with torch.no_grad():  # seen by the task token, though incomplete
        model.combinations[COMBINATIONS.index((True, True, False))] += 0.5
    assert not torch.equal(model(batch).logits, before)


def test_without_positions_the_order_of_tokens_does_not_matter():
    model = build()
    for modality in MODALITIES:
        torch.nn.init.zeros_(getattr(model.embeddings, modality).position)
    (sample,) = make_samples(["ehr+note"], lengths=[(7, 6)])
    turned = dataclasses.replace(sample, ehr=sample.ehr.flip(0), note=sample.note.roll(2, 0))
    for one, other in zip(model.encode(collate([sample])), model.encode(collate([turned])), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-10)


def test_the_order_of_combinations_does_not_matter_after_the_encoder():
    model = build()
    torch.manual_seed(1)
    task, tokens = torch.randn(4, SMALL.width, dtype=torch.float64), torch.randn(4, 7, SMALL.width, dtype=torch.float64)
    complete = torch.rand(4, 7) < 0.6
    complete[:, 2] = True
    order = torch.randperm(7)

    def patient(columns: Tensor) -> Tensor:
        mixture = model.experts(tokens[:, columns], task, complete[:, columns])
        return model.fusion(task, mixture.tokens, complete[:, columns])[0]

    torch.testing.assert_close(patient(order), patient(torch.arange(7)), rtol=0, atol=1e-10)


def test_routed_rows_are_those_of_complete_combinations():
    batch, _ = make_batch([*PATTERNS, *FULL])
    diagnostics = build()(batch).diagnostics
    routed = (diagnostics["gates"] > 0).any(-1)
    assert torch.equal(routed, diagnostics["complete"])
    assert routed.sum() == (2 ** batch.present.sum(1) - 1).sum()
    assert torch.equal(diagnostics["alpha"] > 0, diagnostics["complete"])


def test_diagnostics_in_eval_mode_and_auxiliary_terms_in_training():
    model = build()
    batch, _ = make_batch(PATTERNS)
    output = model(batch)
    assert output.aux == {}
    shapes = {name: tuple(value.shape) for name, value in output.diagnostics.items()}
    assert shapes == {"patient": (7, 32), "gates": (7, 7, 10), "complete": (7, 7), "alpha": (7, 7)}
    assert not any(value.requires_grad for value in output.diagnostics.values())
    output = model.train()(batch)
    assert output.diagnostics == {}
    assert set(output.aux) == set(model.aux_weights)
    torch.testing.assert_close(output.aux["covariance"], covariance_term(model.encode(batch)[1]))


def test_gradients_of_the_whole_network_equal_those_over_the_dense_encoder():
    results = []
    for dense in (False, True):
        model = build()
        if dense:
            reference = DenseCombinationEncoder(SMALL.width, SMALL.layers, SMALL.heads, 0.0).double()
            reference.load_state_dict(model.encoder.state_dict())
            model.encoder = reference
        batch, labels = make_batch([*PATTERNS, *PATTERNS])
        torch.manual_seed(1)
        output = model.train()(batch)
        loss = (output.logits - labels).square().mean() + output.aux["covariance"] + output.aux["balance"]
        loss.backward()
        grads = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        results.append((loss, grads))
    (loss, grads), (expected_loss, expected) = results
    torch.testing.assert_close(loss, expected_loss, rtol=0, atol=1e-10)
    assert grads.keys() == expected.keys()
    for name, grad in grads.items():
        torch.testing.assert_close(grad, expected[name], rtol=1e-10, atol=1e-10, msg=name)


def test_only_the_heads_and_task_rows_of_the_batch_learn():
    model = build().train()
    batch, _ = make_batch(PATTERNS, task=1)
    assert model(batch).logits.shape == (7, 4)
    model(batch).logits.sum().backward()
    assert all(parameter.grad is None for parameter in model.heads[0].parameters())
    assert not model.tasks.grad[0].any()
    assert model.tasks.grad[1].any()


def test_covariance_term_equals_loops():
    torch.manual_seed(0)
    tokens = torch.randn(4, 7, 16, dtype=torch.float64)
    total = 0.0
    for sample in tokens:
        for i in range(7):
            for j in range(7):
                if i != j:
                    total += torch.cov(sample[[i, j]])[0, 1].item() ** 2
    assert covariance_term(tokens).item() == pytest.approx(total / 36 / 4, rel=1e-12)


def test_covariance_between_complete_combinations_only():
    torch.manual_seed(0)
    tokens = torch.randn(3, 7, 16, dtype=torch.float64)
    complete = complete_combinations(torch.tensor([[True, True, True], [True, False, True], [False, True, False]]))
    expected = []
    for sample, chosen in zip(tokens, complete, strict=True):
        covariance = torch.cov(sample[chosen]).reshape(int(chosen.sum()), -1)
        others = covariance - covariance.diag().diag()
        expected.append(others.square().sum() / max(1, (len(others) - 1) ** 2))
    torch.testing.assert_close(covariance_term(tokens, complete), torch.stack(expected).mean())
    assert expected[2] == 0
    torch.testing.assert_close(covariance_term(tokens[:1], complete[:1]), covariance_term(tokens[:1]))
    batch, _ = make_batch(PATTERNS)
    model = build(config=FlexCareConfig(cov_scope="complete_only", incomplete_combo="keep")).train()
    expected = covariance_term(model.encode(batch)[1], complete_combinations(batch.present))
    torch.testing.assert_close(model(batch).aux["covariance"], expected)


def test_incomplete_combinations_can_be_kept():
    batch, _ = make_batch(["ehr", "ehr+note"])
    diagnostics = build(config=FlexCareConfig(incomplete_combo="keep"))(batch).diagnostics
    assert (diagnostics["alpha"] > 0).all()
    assert ((diagnostics["gates"] > 0).sum(-1) == 2).all()


def test_the_task_token_can_be_kept_from_incomplete_combinations():
    model = build(config=FlexCareConfig(task_sees_incomplete=False))
    batch, _ = make_batch(["ehr", "ehr+note"])
    task, _ = model.encode(batch)
    with torch.no_grad():
        model.combinations[COMBINATIONS.index((True, False, True))] += 0.5
    changed = (model.encode(batch)[0] != task).any(1)
    assert changed.tolist() == [False, True]


@pytest.mark.parametrize(
    "options",
    [{"attn_scale": "model"}, {"moe_noise": False}, {"mask_mode": "additive_one"}, {"layer_init": "cloned"}],
    ids=str,
)
def test_an_option_changes_what_is_computed(options):
    batch, _ = make_batch(PATTERNS)
    outputs = []
    for config in (FlexCareConfig(), FlexCareConfig(**options)):
        model = build(config=config).train()
        torch.manual_seed(3)
        outputs.append(model(batch).logits)
    assert not torch.equal(*outputs)


def test_positional_tables_can_start_from_small_values():
    dims = dataclasses.replace(Dimensions(), position_init="normal")
    torch.manual_seed(0)
    model = FlexCare(dims, TWO, FlexCareConfig())
    for modality in MODALITIES:
        table = getattr(model.embeddings, modality).position
        assert 0.015 < table.std() < 0.02
        assert table.abs().max() <= 0.04
    with pytest.raises(ValueError, match="position_init 'ones'; allowed are zeros, normal"):
        dataclasses.replace(dims, position_init="ones")


def test_covariance_term_of_special_tokens():
    torch.manual_seed(0)
    tokens = torch.randn(2, 7, 16, dtype=torch.float64)
    centred = torch.randn(16, 16, dtype=torch.float64)
    centred[:, 0] = 1
    orthogonal = torch.linalg.qr(centred).Q.T[1:8]  # orthogonal to the constant vector and to each other
    assert covariance_term(orthogonal[None]) < 1e-25
    torch.testing.assert_close(covariance_term(tokens + torch.randn(2, 7, 1)), covariance_term(tokens))
    torch.testing.assert_close(covariance_term(3 * tokens), 81 * covariance_term(tokens))
    same = tokens[:, :1].expand(-1, 7, -1)
    torch.testing.assert_close(covariance_term(same), (same[:, 0].var(-1) ** 2).mean() * 42 / 36)


def test_a_sample_without_modalities_is_refused():
    batch, _ = make_batch(["ehr", "note"])
    with pytest.raises(ValueError, match=r"batch rows \[1\] own no modality; each needs one of ehr, cxr, note"):
        build()(dataclasses.replace(batch, note=None))


def test_a_model_needs_a_task():
    with pytest.raises(ValueError, match="no heads"):
        FlexCare(SMALL, (), FlexCareConfig())


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("experts", 0),
        ("top_k", 0),
        ("top_k", 11),
        ("beta", -0.1),
        ("balance", float("nan")),
        ("temperature", 0.0),
        ("noise_floor", 0.0),
        ("task_rows", -1),
        ("mask_mode", "none"),
        ("fused", "all"),
    ],
)
def test_bad_options_are_refused_with_their_value(option, value):
    with pytest.raises(ValueError, match=f"{option} {value!r}"):
        FlexCareConfig(**{option: value})


def test_initial_values():
    torch.manual_seed(0)
    model = FlexCare(Dimensions(width=128, layers=2), TWO * 10, FlexCareConfig())
    assert not model.combinations.any()
    assert isinstance(model.experts, MixtureOfExperts)
    for router in (model.experts.route_token, model.experts.route_task, model.experts.route_noise):
        assert not router.any()
    assert model.tasks.std().item() == pytest.approx(1, abs=0.05)
    assert model.experts.expand.abs().max().item() == pytest.approx(128**-0.5, rel=1e-3)
