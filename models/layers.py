"""The transformer layer that all models share, on packed sequences."""

from __future__ import annotations

import copy
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models import fused_attention, fused_linear
from models.contract import Packed
from models.noise import dropout
from models.ragged import first_tokens, grouping, prepend, put, repeat_token, take

AttentionScale = Literal["head", "model"]
LayerInit = Literal["independent", "cloned"]
Norm = Literal["post", "pre", "none"]
Activation = Literal["relu", "gelu"]


class EncoderLayer(nn.Module):
    """Transformer encoder layer; by default post-norm with ReLU (Vaswani et al., 2017).

        A(H) = heads concatenated of softmax(scale Q K^T) V, output projection
        F(H) = W2 dropout(relu(W1 H))                                W1: D -> 4D, W2: 4D -> D

        H~ = LayerNorm(H + dropout(A(H)))      post-norm
        H' = LayerNorm(H~ + dropout(F(H~)))

        H~ = H + dropout(A(LayerNorm(H)))      pre-norm: H' is not normed, a stack of such layers ends with a norm
        H' = H~ + dropout(F(LayerNorm(H~)))

    Args:
        width: D. heads: attention heads. dropout: at attention probabilities, attention output, hidden units and
        output. scale: of the scores, 1 / sqrt(D / heads) ("head") or 1 / sqrt(D) ("model").
        norm: "post", "pre", or "none" for residual sums without any norm. activation: within F.

    Shape: packed sequences (N, D) -> (N, D); a token attends to the tokens of its own sequence.

    Attributes:
        reads_few: whether `read` computes no other outputs than those asked for; False in dense forms.

    Scores and softmax are in float32 also under autocast: `scaled_dot_product_attention` accumulates them so.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        dropout: float,
        scale: AttentionScale = "head",
        *,
        norm: Norm = "post",
        activation: Activation = "relu",
    ) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} is not a multiple of heads {heads}")
        self.width, self.heads, self.dropout = width, heads, dropout
        self.scale = (width // heads if scale == "head" else width) ** -0.5
        self.reads_few = True
        self.post_norm, self.activation = norm == "post", activation
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm1 = nn.Identity() if norm == "none" else nn.LayerNorm(width)
        self.expand = nn.Linear(width, 4 * width)
        self.contract = nn.Linear(4 * width, width)
        self.norm2 = nn.Identity() if norm == "none" else nn.LayerNorm(width)
        nn.init.xavier_uniform_(self.qkv.weight)
        nn.init.zeros_(self.qkv.bias)
        nn.init.zeros_(self.out.bias)

    def forward(self, packed: Packed) -> Packed:
        attended = self.self_attention(packed.with_values(self.qkv(self.enter(packed.values))))
        return packed.with_values(self.finish(packed.values, attended))

    def self_attention(self, qkv: Packed) -> Tensor:
        """Queries, keys, values (N, 3D) -> mixed values (N, D), before the output projection."""
        if fused_attention.fits(qkv.layout, qkv.values, self.width // self.heads):
            return fused_attention.attend_within(qkv.values, qkv.layout, self.heads, self.scale, self.dropping)
        plan = grouping(qkv.layout, qkv.values.device)
        mixed = []
        for group, padded in zip(plan.groups, plan.pad(qkv.values), strict=True):
            q, k, v = self.split_heads(padded, 3)
            mixed.append(self.merge_heads(self.attend(q, k, v, group.keys)))
        return plan.unpad(mixed)

    def read(self, packed: Packed, readers: Tensor) -> Tensor:
        """Output at a few tokens of each sequence only: what `forward` gives there, without the work for all others.

        Args:
            packed: (N, D). readers: (n, Q) positions, among the N tokens, of the Q tokens read from each sequence.

        Returns:
            (n, Q, D).
        """
        if not self.reads_few:
            return self(packed).values.index_select(0, readers.flatten()).view(*readers.shape, self.width)
        seen = packed.values.index_select(0, readers.flatten()).view(*readers.shape, self.width)  # (n, Q, D)
        weight_q, weight_kv = self.qkv.weight.split([self.width, 2 * self.width])
        bias_q, bias_kv = self.qkv.bias.split([self.width, 2 * self.width])
        queries = F.linear(self.enter(seen), weight_q, bias_q)
        keys_values = F.linear(self.enter(packed.values), weight_kv, bias_kv)  # (N, 2D)
        if fused_attention.fits(packed.layout, keys_values, self.width // self.heads):
            mixed, _ = fused_attention.read_within(
                keys_values, full_precision(queries), packed.layout, self.heads, self.scale, self.dropping
            )
            return self.finish(seen, mixed.to(keys_values.dtype))
        plan = grouping(packed.layout, packed.values.device)
        mixed = []
        for group, asked, padded in zip(plan.groups, plan.split(queries), plan.pad(keys_values), strict=True):
            (q,) = self.split_heads(asked, 1)
            k, v = self.split_heads(padded, 2)
            mixed.append(self.merge_heads(self.attend(q, k, v, group.keys)))
        return self.finish(seen, plan.restore(mixed))

    def read_rows(self, packed: Packed, readers: Tensor) -> Tensor:
        """As `read`, for sequences of all batch rows, whatever their order: readers (B, Q) -> (B, Q, D)."""
        of_sequences = self.read(packed, take(readers, packed.layout))
        return put(torch.zeros_like(of_sequences[: len(readers)]), packed.layout, of_sequences)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """(n, heads, Q, D/heads) queries over keys and values (n, heads, L, D/heads).

        `mask` (n, 1, 1 or Q, L): which keys are allowed (bool), or what is added to the scores. Every row has a key.
        """
        if not (self.training and self.dropout):
            return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=self.scale)
        with torch.autocast(q.device.type, enabled=False):
            scores = full_precision(q) @ full_precision(k).transpose(-1, -2) * self.scale
            if mask is not None:
                scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
            return (self.drop(scores.softmax(-1)) @ full_precision(v)).to(v.dtype)

    def split_heads(self, values: Tensor, parts: int) -> tuple[Tensor, ...]:
        """(n, L, parts * D) -> `parts` tensors (n, heads, L, D/heads)."""
        return values.view(*values.shape[:2], parts, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)

    def merge_heads(self, values: Tensor) -> Tensor:
        """(n, heads, L, D/heads) -> (n, L, D)."""
        return values.transpose(1, 2).flatten(2)

    def enter(self, tokens: Tensor) -> Tensor:
        """What attention is computed from: (..., D) -> (..., D)."""
        return tokens if self.post_norm else self.norm1(tokens)

    def finish(self, tokens: Tensor, attended: Tensor) -> Tensor:
        """Output projection, feed-forward, residual sums, norms after `enter`: tokens, mixed values (..., D)."""
        hidden = self.add(tokens, self.out, attended)
        if self.post_norm:
            hidden = self.norm1(hidden)
            return self.norm2(self.add(hidden, self.contract, self.hidden_units(hidden)))
        return self.add(hidden, self.contract, self.hidden_units(self.norm2(hidden)))

    def hidden_units(self, tokens: Tensor) -> Tensor:
        """(..., D) -> (..., 4D), with dropout."""
        if fused_linear.fits(tokens, self.expand.out_features):
            return fused_linear.linear(self.expand, tokens, self.dropping, self.activation)
        return self.drop(getattr(F, self.activation)(self.expand(tokens)))

    def add(self, residual: Tensor, linear: nn.Linear, values: Tensor) -> Tensor:
        """residual (..., D) + dropout(linear(values))."""
        if fused_linear.fits(values, self.width):
            return fused_linear.linear(linear, values, self.dropping, residual=residual)
        return residual + self.drop(linear(values))

    @property
    def dropping(self) -> float:
        """The rate at which values are dropped now."""
        return self.dropout if self.training else 0.0

    def drop(self, values: Tensor) -> Tensor:
        return dropout(values, self.dropout, self.training)


class Dropout(nn.Module):
    """Dropout that draws through `models/noise.py`, as all layers do."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, values: Tensor) -> Tensor:
        return dropout(values, self.rate, self.training)


def full_precision(values: Tensor) -> Tensor:
    """Values of half precision in float32, others as they are."""
    return values.float() if values.dtype in (torch.bfloat16, torch.float16) else values


def encoder_layers(
    width: int,
    layers: int,
    heads: int,
    dropout: float,
    scale: AttentionScale = "head",
    init: LayerInit = "independent",
    *,
    norm: Norm = "post",
) -> nn.ModuleList:
    """Layers of one encoder; "cloned" ones start from equal values, as torch's own stack of layers does."""
    if layers < 1:
        raise ValueError(f"layers {layers}; an encoder needs at least one")
    first = EncoderLayer(width, heads, dropout, scale, norm=norm)
    further = range(layers - 1)
    if init == "cloned":
        return nn.ModuleList([first, *(copy.deepcopy(first) for _ in further)])
    return nn.ModuleList([first, *(EncoderLayer(width, heads, dropout, scale, norm=norm) for _ in further)])


class ClsEncoder(nn.Module):
    """Encodes sequences with a learned first token in front; the output at that token stands for the sequence.

    Args:
        width: D. layers: number of `EncoderLayer`s. heads, dropout: of each. norm: of each, "post", or "pre" with a
        norm of all outputs after the last.

    Shape: packed (N, D) -> (n, D), one vector a sequence.
    """

    def __init__(
        self, width: int, layers: int, heads: int, dropout: float, *, norm: Literal["post", "pre"] = "post"
    ) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.randn(width) * 0.02)
        self.layers = encoder_layers(width, layers, heads, dropout, norm=norm)
        self.norm = nn.LayerNorm(width) if norm == "pre" else nn.Identity()

    def forward(self, packed: Packed) -> Tensor:
        sequences = self._with_token(packed)
        for layer in self.layers[:-1]:
            sequences = layer(sequences)
        first = first_tokens(sequences.layout, sequences.values.device)
        return self.norm(self.layers[-1].read(sequences, first[:, None]).squeeze(1))

    def tokens(self, packed: Packed) -> tuple[Tensor, Packed]:
        """The sequence vectors (n, D) and the encoded content tokens (N, D)."""
        joined = prepend(repeat_token(self.token, packed.layout), packed)
        sequences = joined.packed
        for layer in self.layers:
            sequences = layer(sequences)
        encoded = self.norm(sequences.values)
        vectors, content = (encoded.index_select(0, where) for where in joined.where)
        return vectors, packed.with_values(content)

    def _with_token(self, packed: Packed) -> Packed:
        return prepend(repeat_token(self.token, packed.layout), packed).packed
