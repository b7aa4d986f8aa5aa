"""Attention fusion: complete combinations only, and its limits in temperature."""

from __future__ import annotations

import pytest
import torch

from models.fusion import AttentionFusion

COMPLETE = torch.tensor([[True] * 7, [False, True] + [False] * 5, [True, False, True, False, True, False, False]])


def build(temperature: float = 0.2) -> AttentionFusion:
    torch.manual_seed(0)
    return AttentionFusion(8, temperature).double()


def inputs() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    return torch.randn(3, 8, dtype=torch.float64), torch.randn(3, 7, 8, dtype=torch.float64)


def test_equals_the_written_formula():
    fusion = build()
    task, tokens = inputs()
    vector, alpha = fusion(task, tokens, COMPLETE)
    for b in range(3):
        chosen = COMPLETE[b].nonzero().flatten()
        pairs = torch.cat([task[b].expand(len(chosen), -1), tokens[b, chosen]], -1)
        weights = (fusion.score(torch.tanh(fusion.joint(pairs))).squeeze(-1) / 0.2).softmax(0)
        torch.testing.assert_close(alpha[b, chosen], weights, rtol=0, atol=1e-12)
        torch.testing.assert_close(vector[b], fusion.norm(weights @ tokens[b, chosen]), rtol=0, atol=1e-12)


def test_incomplete_combinations_weigh_exactly_nothing():
    _, alpha = build()(*inputs(), COMPLETE)
    assert not alpha[~COMPLETE].any()
    torch.testing.assert_close(alpha.sum(-1), torch.ones(3, dtype=torch.float64))


def test_a_single_complete_combination_passes_through():
    fusion = build()
    task, tokens = inputs()
    vector, alpha = fusion(task, tokens, COMPLETE)
    assert alpha[1, 1] == 1
    torch.testing.assert_close(vector[1], fusion.norm(tokens[1, 1]))


def test_temperature_limits():
    _, flat = build(1e9)(*inputs(), COMPLETE)
    torch.testing.assert_close(flat, COMPLETE / COMPLETE.sum(-1, keepdim=True), check_dtype=False)
    _, sharp = build(1e-6)(*inputs(), COMPLETE)
    _, soft = build()(*inputs(), COMPLETE)
    assert torch.equal(sharp.argmax(-1), soft.argmax(-1))
    torch.testing.assert_close(sharp.max(-1).values, torch.ones(3, dtype=torch.float64))
    with pytest.raises(ValueError, match="temperature 0"):
        AttentionFusion(8, 0)
