"""Routing, sparsity, exact gradients and the balance term of the experts."""

from __future__ import annotations

import pytest
import torch
from random_batches import randomise
from torch import Tensor
from torch.nn import functional as F

from models.mixture_of_experts import MixtureOfExperts, chance_of_selection, squared_variation

WIDTH, EXPERTS, TOP_K = 8, 10, 2
COMPLETE = torch.tensor([[True] * 7, [True] + [False] * 6, [True, False, True, False, True, False, False]])


def build(top_k: int = TOP_K, noise: bool = True) -> MixtureOfExperts:
    torch.manual_seed(0)
    return randomise(MixtureOfExperts(WIDTH, EXPERTS, top_k, noise_floor=0.01, noise=noise).double(), scale=1.0)


def inputs() -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    return torch.randn(3, 7, WIDTH, dtype=torch.float64), torch.randn(3, WIDTH, dtype=torch.float64)


def dispatched(experts: MixtureOfExperts, token: Tensor, task: Tensor) -> Tensor:
    """One token through its chosen experts only, as the paper writes it."""
    logits = token @ experts.route_token + task @ experts.route_task
    best, chosen = logits.topk(experts.top_k)
    total = torch.zeros_like(token)
    for gate, e in zip(best.softmax(-1), chosen.tolist(), strict=True):
        hidden = F.relu(experts.expand[e] @ token + experts.expand_bias[e])
        total = total + gate * (experts.contract[e].T @ hidden + experts.contract_bias[e])
    return total


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_gates_are_sparse_and_sum_to_one_on_complete_combinations_only(mode):
    experts = build()
    experts.train(mode == "train")
    mixture = experts(*inputs(), COMPLETE)
    chosen = (mixture.gates != 0).sum(-1)
    assert (chosen == TOP_K * COMPLETE).all()
    torch.testing.assert_close(mixture.gates.sum(-1), COMPLETE.double())
    assert not mixture.tokens[~COMPLETE].any()
    assert (mixture.balance is None) == (mode == "eval")


@pytest.mark.parametrize("mode, noise, repeats", [("eval", True, True), ("train", True, False), ("train", False, True)])
def test_noise_is_drawn_in_training_only(mode, noise, repeats):
    experts = build(noise=noise).train(mode == "train")
    tokens, task = inputs()
    first, second = (experts(tokens, task, COMPLETE).gates for _ in range(2))
    assert torch.equal(first, second) == repeats


def test_untrained_routers_choose_at_random():
    torch.manual_seed(0)
    experts = MixtureOfExperts(WIDTH, EXPERTS, TOP_K, noise_floor=0.01, noise=True).train()
    tokens = torch.randn(500, 7, WIDTH)
    share = (experts(tokens, tokens[:, 0], torch.ones(500, 7, dtype=torch.bool)).gates > 0).float().mean((0, 1))
    assert (share - TOP_K / EXPERTS).abs().max() < 0.03


def test_masked_sum_equals_dispatch_in_values_and_gradients():
    experts = build().eval()
    tokens, task = inputs()
    tokens.requires_grad_()
    parameters = [tokens, *(p for name, p in experts.named_parameters() if name != "route_noise")]
    value = experts(tokens, task, COMPLETE).tokens
    expected = torch.stack(
        [
            dispatched(experts, tokens[b, c], task[b]) if COMPLETE[b, c] else torch.zeros(WIDTH, dtype=torch.float64)
            for b in range(3)
            for c in range(7)
        ]
    ).view_as(value)
    torch.testing.assert_close(value, expected, rtol=0, atol=1e-10)
    weights = torch.randn_like(value)
    grads = torch.autograd.grad((value * weights).sum(), parameters)
    others = torch.autograd.grad((expected * weights).sum(), parameters)
    for grad, other in zip(grads, others, strict=True):
        torch.testing.assert_close(grad, other, rtol=0, atol=1e-10)


def test_experts_that_were_not_chosen_get_exactly_no_gradient():
    experts = build().eval()
    tokens, task = inputs()
    mixture = experts(tokens, task, COMPLETE)
    mixture.tokens[0, 3].sum().backward()
    chosen = mixture.gates[0, 3] > 0
    for parameter in (experts.expand, experts.expand_bias, experts.contract, experts.contract_bias):
        assert not parameter.grad[~chosen].any()
        assert all(parameter.grad[e].any() for e in chosen.nonzero().flatten())


def test_router_gradients_reach_both_tokens():
    experts = build().eval()
    tokens, task = (value.requires_grad_() for value in inputs())
    experts(tokens, task, COMPLETE).tokens.square().sum().backward()
    assert task.grad.any()
    assert tokens.grad[COMPLETE].any()
    assert not tokens.grad[~COMPLETE].any()


def test_squared_variation():
    assert squared_variation(torch.full((10,), 3.0)) == 0
    values = torch.rand(10, dtype=torch.float64)
    torch.testing.assert_close(squared_variation(values), squared_variation(7 * values), rtol=1e-6, atol=0)
    assert squared_variation(torch.tensor([0.0] * 9 + [2.0])).item() == pytest.approx(10)
    assert squared_variation(torch.tensor([2.0])) == 0


def test_balance_counts_complete_combinations_only():
    tokens, task = inputs()
    torch.manual_seed(2)
    first = build().train()(tokens, task, COMPLETE).balance
    tokens = torch.where(COMPLETE[..., None], tokens, 100 * tokens)
    torch.manual_seed(2)
    assert torch.equal(build().train()(tokens, task, COMPLETE).balance, first)


@pytest.mark.parametrize("top_k, noise", [(EXPERTS, True), (TOP_K, False)])
def test_balance_uses_hard_counts_where_the_smooth_load_is_undefined(top_k, noise):
    mixture = build(top_k, noise).train()(*inputs(), COMPLETE)
    load = (mixture.gates > 0).double().sum((0, 1))
    expected = squared_variation(mixture.gates.sum((0, 1))) + squared_variation(load)
    torch.testing.assert_close(mixture.balance, expected)


def test_chance_of_selection_is_a_frequency():
    """Draws the noise of one expert again, the others' kept, and counts how often it is among the top k."""
    torch.manual_seed(0)
    draws, clean = 40_000, torch.randn(6, dtype=torch.float64)
    sigma = 0.2 + torch.rand(6, dtype=torch.float64)
    noisy = clean + sigma * torch.randn(6, dtype=torch.float64)
    chance = chance_of_selection(clean, sigma, noisy, TOP_K)
    for i in range(6):
        redrawn = noisy.repeat(draws, 1)
        redrawn[:, i] = clean[i] + sigma[i] * torch.randn(draws, dtype=torch.float64)
        frequency = (redrawn.topk(TOP_K).indices == i).any(-1).double().mean()
        error = (chance[i] * (1 - chance[i]) / draws).sqrt().clamp(min=1e-5)
        assert (frequency - chance[i]).abs() < 3 * error


@pytest.mark.parametrize("top_k", [0, 11])
def test_impossible_top_k_is_refused(top_k):
    with pytest.raises(ValueError, match=f"top_k {top_k} with 10 experts"):
        MixtureOfExperts(WIDTH, EXPERTS, top_k, noise_floor=0.01, noise=True)
