"""FlexCare: Leveraging Cross-Task Synergy for Flexible Multimodal Healthcare Prediction (Xu et al., KDD 2024).

One network for several tasks and any subset of the modalities: a transformer over a task token, seven combination
tokens and the present modalities' tokens; a covariance term that keeps the combination tokens apart; sparse experts
chosen by task and combination; attention over the complete combinations; one linear head a task.

Where the paper is silent this follows the authors' code: attention scaled per head, combination tokens and routers that
start at zero, noisy gating whose noise scale is read from the combination token, incomplete combinations left out of
experts and fusion, temperature 0.2 in the fusion, beta 0.5.

Differs from the authors' code in the mask (theirs adds 1 to forbidden attention logits; here they are forbidden, as in
the paper), in layers that start from independent instead of equal values, and in tables without spare rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from models.checks import check_count, check_positive, check_weight
from models.contract import Batch, Dimensions, Head, ModelEntry, Output
from models.embeddings import UnimodalEmbeddings
from models.encoder import COMBINATIONS, CombinationEncoder, complete_combinations
from models.fusion import AttentionFusion
from models.mixture_of_experts import MixtureOfExperts, check_top_k


@dataclass(frozen=True)
class FlexCareConfig:
    """FlexCare's own options.

    Attributes:
        experts: number of experts. top_k: experts a combination token.
        beta: weight of the covariance term. balance: weight of the experts' balance term.
        temperature: of the fusion's softmax. noise_floor: smallest standard deviation of the router's noise.
        moe_noise: whether the router is noisy in training.
    """

    experts: int = 10
    top_k: int = 2
    beta: float = 0.5
    balance: float = 0.01
    temperature: float = 0.2
    noise_floor: float = 0.01
    moe_noise: bool = True

    def __post_init__(self) -> None:
        check_count("experts", self.experts, 1)
        check_top_k(self.top_k, self.experts)
        check_weight("beta", self.beta)
        check_weight("balance", self.balance)
        check_positive("temperature", self.temperature)
        check_positive("noise_floor", self.noise_floor)


def covariance_term(tokens: Tensor) -> Tensor:
    """Token-level covariance regulariser: mean over samples of the squared covariances between tokens.

    Each token is centred over its own features; the sum over ordered pairs is divided by (C - 1)^2.

    Args:
        tokens: (B, C, D).
    """
    with torch.autocast(tokens.device.type, enabled=False):
        samples, count, width = tokens.shape
        centred = tokens - tokens.mean(-1, keepdim=True)
        covariance = centred @ centred.transpose(-1, -2) / (width - 1)  # (B, C, C)
        others = ~torch.eye(count, dtype=torch.bool, device=tokens.device)
        return (covariance.square() * others).sum() / (samples * (count - 1) ** 2)


class FlexCare(nn.Module):
    """The network, for one task (FlexCare-st) or several.

    Args:
        dimensions: sizes shared by all models. heads: one for each task; `Batch.task` counts in this order.
        config: FlexCare's own options.
    """

    def __init__(self, dimensions: Dimensions, heads: Sequence[Head], config: FlexCareConfig) -> None:
        super().__init__()
        if not heads:
            raise ValueError("no heads; a model needs at least one task")
        d = dimensions
        self.aux_weights = {"covariance": config.beta, "balance": config.balance}
        self.embeddings = UnimodalEmbeddings(d)
        self.tasks = nn.Parameter(torch.randn(len(heads), d.width))
        self.combinations = nn.Parameter(torch.zeros(len(COMBINATIONS), d.width))
        self.encoder = CombinationEncoder(d.width, d.layers, d.heads, d.dropout)
        self.experts = MixtureOfExperts(
            d.width, config.experts, config.top_k, noise_floor=config.noise_floor, noise=config.moe_noise
        )
        self.fusion = AttentionFusion(d.width, config.temperature)
        self.heads = nn.ModuleList(nn.Linear(2 * d.width, head.classes) for head in heads)

    def forward(self, batch: Batch) -> Output:
        """Logits (B, C_task); in training the terms "covariance" and "balance", in eval mode diagnostics."""
        task, combinations = self.encode(batch)
        complete = complete_combinations(batch.present)  # (B, 7)
        mixture = self.experts(combinations, task, complete)
        vector, alpha = self.fusion(task, mixture.tokens, complete)
        patient = torch.cat([task, vector], -1)  # (B, 2D)
        logits = self.heads[batch.task](patient)
        if self.training:
            return Output(logits, {"covariance": covariance_term(combinations), "balance": mixture.balance})
        diagnostics = {"patient": patient, "gates": mixture.gates, "complete": complete, "alpha": alpha}
        return Output(logits, diagnostics={name: value.detach() for name, value in diagnostics.items()})

    def encode(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Encoded task token (B, D) and combination tokens (B, 7, D)."""
        special = torch.cat([self.tasks[batch.task, None], self.combinations])  # (8, D)
        readers = special.expand(batch.size, -1, -1)
        encoded = self.encoder(readers, self.embeddings(batch), batch.present)
        return encoded[:, 0], encoded[:, 1:]


ENTRY = ModelEntry(
    name="flexcare",
    title="FlexCare",
    config=FlexCareConfig,
    build=FlexCare,
    paper="Xu et al., FlexCare: Leveraging Cross-Task Synergy for Flexible Multimodal Healthcare Prediction, KDD 2024",
    multitask=True,
)

SINGLE_TASK_ENTRY = replace(ENTRY, name="flexcare-st", title="FlexCare-st", multitask=False)
