"""The encoder layer written out for one sample's dense matrix of tokens: no packing, no kernel shared with models."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from models.contract import MODALITIES, Batch
from models.layers import EncoderLayer


def dense_layer(layer: EncoderLayer, x: Tensor, visible: Tensor | None = None) -> Tensor:
    """One layer in eval mode: tokens (L, D) -> (L, D); `visible` (L,) bool says which tokens may be attended to."""
    q, k, v = layer.qkv(x).chunk(3, dim=-1)
    mixed = []
    for q_h, k_h, v_h in zip(*(part.chunk(layer.heads, dim=-1) for part in (q, k, v)), strict=True):
        scores = q_h @ k_h.T / q_h.shape[-1] ** 0.5
        if visible is not None:
            scores = scores.masked_fill(~visible, -torch.inf)
        mixed.append(scores.softmax(-1) @ v_h)
    x = layer.norm1(x + layer.out(torch.cat(mixed, -1)))
    return layer.norm2(x + layer.contract(layer.expand(x).relu()))


def dense_stack(layers: Sequence[EncoderLayer], x: Tensor, visible: Tensor | None = None) -> Tensor:
    for layer in layers:
        x = dense_layer(layer, x, visible)
    return x


def embedded_tokens(model: torch.nn.Module, batch: Batch) -> list[dict[str, Tensor]]:
    """Each sample's embedded tokens (L, D) by modality; only what the sample owns."""
    samples: list[dict[str, Tensor]] = [{} for _ in range(batch.size)]
    for name, packed in zip(MODALITIES, model.embeddings(batch), strict=True):
        if packed is not None:
            for row, tokens in zip(packed.layout.rows, packed.values.split(packed.layout.lengths), strict=True):
                samples[row][name] = tokens
    return samples
