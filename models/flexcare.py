"""FlexCare: Leveraging Cross-Task Synergy for Flexible Multimodal Healthcare Prediction (Xu et al., KDD 2024).

One network for several tasks and any subset of the modalities. From a batch to logits, for one sample:

    H^m    = f_m(X^m) + p^m                                        tokens of each present modality     embeddings.py
    H_0    = [h_task; h_c for the 7 combinations c; H^ehr; H^cxr; H^note]
    H_l    = Layer_l(H_{l-1}, mask)                                who sees whom: mask.py    encoder.py, layers.py
    L_cov  = sum over i != j of Cov(z_i, z_j)^2 / 36               z_c: the combinations' rows of H_L
    s_c    = sum over the 2 chosen of 10 experts of g_i E_i(z_c)   g from z_c and z_task    mixture_of_experts.py
    v      = LayerNorm(sum_c alpha_c s_c)                          alpha from z_task and s_c           fusion.py
    logits = W_task [z_task; v] + b_task
    loss   = w_task (prediction loss + beta L_cov + L_balance)

The network knows of absence only through its tokens: an absent modality has none, and combinations that lack a member
go neither through experts nor into the fusion.

Where the paper is silent this follows the authors' code: attention scaled per head, combination tokens and routers that
start at zero, noisy gating whose noise scale is read from the combination token, incomplete combinations left out of
experts and fusion but not out of L_cov, temperature 0.2 in the fusion, beta 0.5.

Differs from the authors' code in the mask, in layers that start from independent instead of equal values, in tables
without spare rows, in a head for DRG of the same input width as the others (theirs cannot be run), and in note
embeddings computed once without dropout. **The released code does not enforce its mask**: it passes 1 for "forbidden"
as a number, which attention adds to the scores, so forbidden pairs are favoured instead of excluded and combination
tokens read modalities that they do not contain. `FlexCareConfig` holds each of these points as an option, and
`models/variants.py` the preset that sets them all as released; published figures may stem from either.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args, get_type_hints

import torch
from torch import Tensor, nn

from models.checks import check_choice, check_count, check_positive, check_weight
from models.contract import Batch, Dimensions, Head, Output, Packed
from models.embeddings import UnimodalEmbeddings
from models.encoder import CombinationEncoder
from models.fusion import AttentionFusion
from models.joint_encoder import JointEncoder
from models.layers import AttentionScale, LayerInit
from models.mask import COMBINATIONS, Mask, complete_combinations
from models.mixture_of_experts import MixtureOfExperts, OneForAll, check_top_k
from models.parts import samplewise
from models.ragged import mean_by_row

TaskToken = Literal["per_task", "shared", "none"]
Fused = Literal["combinations", "modalities", "open_modalities"]
Mixing = Literal["experts", "shared", "wide", "identity"]


@dataclass(frozen=True)
class FlexCareConfig:
    """FlexCare's own options; the defaults are the paper, completed from the authors' code.

    Attributes:
        mask_mode: "strict": forbidden attention is impossible; "additive_one": its scores grow by 1, as in the code.
        attn_scale: of attention scores, 1 / sqrt(width / heads) ("head") or 1 / sqrt(width) ("model").
        task_sees_incomplete: whether the task token sees combinations of several modalities that lack a member.
        layer_init: whether encoder layers start from independent values, or as clones of one.
        task_rows: rows of the table of task tokens; 0: one a task. ehr_rows, cxr_rows, note_rows: least rows of the
            positional tables; 0: as many as the longest input needs.
        task_token: one learned token "per_task", one "shared" by all tasks, or "none": no task token at all, so that
            routing, fusion and heads work on the combinations alone.
        fused: what experts and fusion work on: the tokens of "combinations"; or, without combination tokens, each
            modality's mean output token, modalities being kept apart ("modalities") or not ("open_modalities").
        incomplete_combo: whether combinations that lack a member take part in experts and fusion ("keep" or "drop").
        cov_scope: covariance between all seven combinations ("all7") or between complete ones ("complete_only").
        beta: weight of the covariance term; 0 leaves it out.
        moe: "experts"; or one transform for all tasks and combinations in their place: "shared" of an expert's shape,
            "wide" with top_k times its hidden units, "identity".
        experts: number of experts. top_k: experts a combination token. balance: weight of their balance term.
        moe_noise: whether the router is noisy in training. noise_floor: smallest standard deviation of its noise.
        temperature: of the fusion's softmax.
    """

    mask_mode: Literal["strict", "additive_one"] = "strict"
    attn_scale: AttentionScale = "head"
    task_sees_incomplete: bool = True
    layer_init: LayerInit = "independent"
    task_rows: int = 0
    ehr_rows: int = 0
    cxr_rows: int = 0
    note_rows: int = 0
    task_token: TaskToken = "per_task"
    fused: Fused = "combinations"
    incomplete_combo: Literal["drop", "keep"] = "drop"
    cov_scope: Literal["all7", "complete_only"] = "all7"
    beta: float = 0.5
    moe: Mixing = "experts"
    experts: int = 10
    top_k: int = 2
    balance: float = 0.01
    moe_noise: bool = True
    noise_floor: float = 0.01
    temperature: float = 0.2

    def __post_init__(self) -> None:
        for name, kind in get_type_hints(type(self)).items():
            if get_args(kind):
                check_choice(name, getattr(self, name), get_args(kind))
        for name in ("task_rows", "ehr_rows", "cxr_rows", "note_rows"):
            check_count(name, getattr(self, name), 0)
        check_count("experts", self.experts, 1)
        check_top_k(self.top_k, self.experts)
        check_weight("beta", self.beta)
        check_weight("balance", self.balance)
        check_positive("temperature", self.temperature)
        check_positive("noise_floor", self.noise_floor)

    @property
    def mask(self) -> Mask:
        """Special tokens and who sees whom."""
        return Mask(
            task=self.task_token != "none",
            combinations=self.fused == "combinations",
            task_sees_incomplete=self.task_sees_incomplete,
            modalities_meet=self.fused == "open_modalities",
            enforced=self.mask_mode == "strict",
        )

    @property
    def aux_weights(self) -> dict[str, float]:
        """Weights of the auxiliary losses that a network of these options has."""
        weights = {"covariance": self.beta} if self.beta and self.fused == "combinations" else {}
        return weights | ({"balance": self.balance} if self.moe == "experts" else {})


def covariance_term(tokens: Tensor, complete: Tensor | None = None) -> Tensor:
    """Token-level covariance regulariser: mean over samples of the squared covariances between tokens.

    Each token is centred over its own features; the sum over ordered pairs is divided by (C - 1)^2.

    Args:
        tokens: (B, C, D). complete: (B, C) bool, the tokens that count, then C is their number; by default all do.
    """
    with torch.autocast(tokens.device.type, enabled=False):
        samples, count, width = tokens.shape
        centred = tokens - tokens.mean(-1, keepdim=True)
        covariance = centred @ centred.transpose(-1, -2) / (width - 1)  # (B, C, C)
        pairs = ~torch.eye(count, dtype=torch.bool, device=tokens.device)  # (C, C)
        if complete is None:
            return (covariance.square() * pairs).sum() / (samples * (count - 1) ** 2)
        pairs = pairs & complete[:, :, None] & complete[:, None, :]  # (B, C, C)
        others = (complete.sum(-1) - 1).clamp(min=1)  # (B,); one token alone has no pair
        return ((covariance.square() * pairs).sum((1, 2)) / others**2).mean()


class FlexCare(nn.Module):
    """The network, for one task (FlexCare-st) or several.

    Args:
        dimensions: sizes shared by all models. heads: one for each task; `Batch.task` counts in this order.
        config: FlexCare's own options.
    """

    fixed_shapes = True

    def __init__(self, dimensions: Dimensions, heads: Sequence[Head], config: FlexCareConfig) -> None:
        super().__init__()
        if not heads:
            raise ValueError("no heads; a model needs at least one task")
        d, mask = dimensions, config.mask
        self.config, self.aux_weights = config, config.aux_weights
        self.embeddings = UnimodalEmbeddings(d, rows=(config.ehr_rows, config.cxr_rows, config.note_rows))
        rows = {"per_task": max(len(heads), config.task_rows), "shared": 1, "none": 0}[config.task_token]
        self.tasks = nn.Parameter(torch.randn(rows, d.width)) if rows else None
        self.combinations = nn.Parameter(torch.zeros(len(COMBINATIONS), d.width)) if mask.combinations else None
        self.encoder = self.encoder_for(mask)(
            d.width, d.layers, d.heads, d.dropout, mask=mask, scale=config.attn_scale, init=config.layer_init
        )
        self.experts = self._mixture(d.width, config, mask.task)
        self.fusion = AttentionFusion(d.width, config.temperature, mask.task)
        self.heads = nn.ModuleList(nn.Linear((1 + mask.task) * d.width, head.classes) for head in heads)

    @staticmethod
    def encoder_for(mask: Mask) -> type[CombinationEncoder]:
        """Streams and readers where modalities stay apart, otherwise sample by sample."""
        return CombinationEncoder if mask.separates else JointEncoder

    @staticmethod
    def _mixture(width: int, config: FlexCareConfig, task: bool) -> MixtureOfExperts | OneForAll:
        if config.moe == "experts":
            return MixtureOfExperts(
                width, config.experts, config.top_k, noise_floor=config.noise_floor, noise=config.moe_noise, task=task
            )
        return OneForAll(width, {"shared": width, "wide": config.top_k * width, "identity": 0}[config.moe])

    def forward(self, batch: Batch) -> Output:
        """Logits (B, C_task); in training the auxiliary losses, in eval mode diagnostics."""
        task, tokens = samplewise(self.encode, batch.present, batch)  # (B, D), (B, C, D)
        complete = self._complete(batch)  # (B, C)
        mixture = self.experts(tokens, task, complete)
        vector, alpha = self.fusion(task, mixture.tokens, complete)  # (B, D), (B, C)
        patient = vector if task is None else torch.cat([task, vector], -1)  # (B, 2D), or (B, D) without task token
        logits = self.heads[batch.task](patient)
        if self.training:
            return Output(logits, self._auxiliary(batch, tokens, mixture.balance))
        diagnostics = {"patient": patient, "gates": mixture.gates, "complete": complete, "alpha": alpha}
        return Output(
            logits, diagnostics={name: value.detach() for name, value in diagnostics.items() if value is not None}
        )

    def encode(self, batch: Batch) -> tuple[Tensor | None, Tensor]:
        """Encoded task token (B, D), if there is one, and the C tokens (B, C, D) that are fused.

        C = 7 combinations; or 3 modalities, of which absent ones are zero.
        """
        streams = self.embeddings(batch)
        special = self._special_tokens(batch.task).expand(batch.size, -1, -1)  # (B, S, D)
        if self.combinations is None:
            encoded, content = self.encoder.encode_all(special, streams, batch.present)
            tokens = torch.stack([self._mean(stream, special) for stream in content], 1)  # (B, M, D)
        else:
            encoded = self.encoder(special, streams, batch.present)  # (B, S, D)
            tokens = encoded[:, self.encoder.mask.first :]  # (B, 7, D)
        return (None if self.tasks is None else encoded[:, 0]), tokens

    def _special_tokens(self, task: int) -> Tensor:
        """(S, D): the task token, then the combinations; what there is of them."""
        parts = [] if self.combinations is None else [self.combinations]
        if self.tasks is not None:
            parts.insert(0, self.tasks[0 if self.config.task_token == "shared" else task, None])
        return torch.cat(parts) if parts else self.fusion.norm.weight.new_empty(0, len(self.fusion.norm.weight))

    @staticmethod
    def _mean(stream: Packed | None, special: Tensor) -> Tensor:
        """(B, D) mean token of each sample, zero where it has none."""
        size, _, width = special.shape
        return special.new_zeros(size, width) if stream is None else mean_by_row(stream, size)

    def _complete(self, batch: Batch) -> Tensor:
        """(B, C) bool, what takes part in experts and fusion."""
        if self.combinations is None:
            return batch.present
        complete = complete_combinations(batch.present)
        return torch.ones_like(complete) if self.config.incomplete_combo == "keep" else complete

    def _auxiliary(self, batch: Batch, tokens: Tensor, balance: Tensor | None) -> dict[str, Tensor]:
        losses = {}
        if "covariance" in self.aux_weights:
            counted = complete_combinations(batch.present) if self.config.cov_scope == "complete_only" else None
            losses["covariance"] = covariance_term(tokens, counted)
        if balance is not None:
            losses["balance"] = balance
        return losses
