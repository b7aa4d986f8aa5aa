"""Task- and modality-aware sparse mixture of experts (FlexCare; noisy top-k gating of Shazeer et al., 2017).

And the one transform that stands in its place where an ablation removes it.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.noise import normal_like


class Mixture(NamedTuple):
    """Result of the experts.

    Attributes:
        tokens: (B, 7, D), zero where a combination is incomplete.
        gates: (B, 7, E), exactly `top_k` non-zeros where complete, all zero elsewhere; None without experts.
        balance: scalar, CV^2 of importance + CV^2 of load; None in eval mode and without experts.
    """

    tokens: Tensor
    gates: Tensor | None = None
    balance: Tensor | None = None


def squared_variation(values: Tensor) -> Tensor:
    """Squared coefficient of variation with the unbiased variance; 0 for a single value.

    >>> squared_variation(torch.tensor([0.0] * 9 + [5.0]))
    tensor(10.)
    """
    if values.numel() < 2:
        return values.new_zeros(())
    return values.var() / (values.mean() ** 2 + 1e-10)


def chance_of_selection(clean: Tensor, sigma: Tensor, noisy: Tensor, top_k: int) -> Tensor:
    """Probability of each expert to be among the `top_k` if only its own noise were drawn again (Shazeer et al.).

    Args:
        clean, sigma, noisy: (..., E) logits without noise, standard deviations of the noise, logits with noise.
    """
    best = noisy.topk(top_k + 1, -1).values
    last_in, first_out = best[..., top_k - 1 : top_k], best[..., top_k:]
    # An expert that is in competes with the first one out, one that is out with the last one in.
    threshold = torch.where(noisy > first_out, first_out, last_in)
    return torch.special.ndtr((clean - threshold) / sigma)


def check_top_k(top_k: int, experts: int) -> None:
    """Refuses to choose no expert, or more than there are."""
    if not 1 <= top_k <= experts:
        raise ValueError(f"top_k {top_k} with {experts} experts; it must be between 1 and the number of experts")


class MixtureOfExperts(nn.Module):
    """Sends each complete combination token to `top_k` of the experts, chosen from the token and the task token.

        clean  = z_c W_c + z_task W_t
        sigma  = softplus(z_c W_noise) + noise_floor
        gate   = softmax over the top_k largest of clean + noise * sigma        noise: in training only
        s_c    = sum_i gate_i E_i(z_c)                                          E_i: D -> D, ReLU, D -> D

    All experts are computed for all tokens as two plain products and weighted by gates that are exactly zero for
    unchosen experts: the same function and gradients as sending each token to its experts, without waiting for the
    device. The experts are about one per cent of a step.

    Args:
        width: D. experts: E. top_k: experts a token. noise_floor: smallest sigma. noise: whether training adds noise.
        task: whether there is a task token to route by.
    """

    def __init__(
        self, width: int, experts: int, top_k: int, noise_floor: float, noise: bool, task: bool = True
    ) -> None:
        super().__init__()
        check_top_k(top_k, experts)
        self.experts, self.top_k, self.noise_floor, self.noise = experts, top_k, noise_floor, noise
        self.route_token = nn.Parameter(torch.zeros(width, experts))
        self.route_task = nn.Parameter(torch.zeros(width, experts)) if task else None
        self.route_noise = nn.Parameter(torch.zeros(width, experts))
        self.expand = nn.Parameter(torch.empty(experts, width, width))  # (E, hidden, D)
        self.expand_bias = nn.Parameter(torch.empty(experts, width))
        self.contract = nn.Parameter(torch.empty(experts, width, width))  # (E, hidden, D)
        self.contract_bias = nn.Parameter(torch.empty(experts, width))
        for parameter in (self.expand, self.expand_bias, self.contract, self.contract_bias):
            nn.init.uniform_(parameter, -(width**-0.5), width**-0.5)

    def forward(self, tokens: Tensor, task: Tensor | None, complete: Tensor) -> Mixture:
        """(B, 7, D) combination tokens, (B, D) task tokens, (B, 7) bool complete combinations -> `Mixture`."""
        with torch.autocast(tokens.device.type, enabled=False):
            clean = tokens @ self.route_token  # (B, 7, E)
            if self.route_task is not None:
                clean = clean + (task @ self.route_task).unsqueeze(1)
            logits, sigma = clean, None
            if self.training and self.noise:
                sigma = F.softplus(tokens @ self.route_noise) + self.noise_floor
                logits = clean + normal_like(clean) * sigma
            gates = self._gates(logits, complete)
            balance = self._balance(clean, sigma, logits, gates, complete) if self.training else None
        return Mixture(self._apply_experts(tokens, gates), gates, balance)

    def _gates(self, logits: Tensor, complete: Tensor) -> Tensor:
        best, chosen = logits.topk(self.top_k, -1)
        gates = torch.zeros_like(logits).scatter(-1, chosen, best.softmax(-1))
        return gates * complete.unsqueeze(-1)

    def _balance(self, clean: Tensor, sigma: Tensor | None, logits: Tensor, gates: Tensor, complete: Tensor) -> Tensor:
        """CV^2 of the experts' importance and load, over the rows of all complete combinations together."""
        if sigma is None or self.top_k == self.experts:
            load = (gates > 0).to(gates.dtype)  # the smooth load needs noise and somebody to lose against
        else:
            load = chance_of_selection(clean, sigma, logits, self.top_k) * complete.unsqueeze(-1)
        return squared_variation(gates.sum((0, 1))) + squared_variation(load.sum((0, 1)))

    def _apply_experts(self, tokens: Tensor, gates: Tensor) -> Tensor:
        hidden = F.relu(F.linear(tokens, self.expand.flatten(0, 1), self.expand_bias.flatten()))  # (B, 7, E * hidden)
        weighted = hidden.unflatten(-1, (self.experts, -1)) * gates.unsqueeze(-1)
        return weighted.flatten(-2) @ self.contract.flatten(0, 1) + gates @ self.contract_bias


class OneForAll(nn.Module):
    """In place of experts: the same transform for all tasks and combinations, F: D -> hidden, ReLU, hidden -> D.

    Args:
        width: D. hidden: units between; 0 for the identity.
    """

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        layers = (nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, width)) if hidden else ()
        self.transform = nn.Sequential(*layers)

    def forward(self, tokens: Tensor, task: Tensor | None, complete: Tensor) -> Mixture:
        """Arguments as those of `MixtureOfExperts`; the task token is not looked at."""
        return Mixture(self.transform(tokens) * complete.unsqueeze(-1))
