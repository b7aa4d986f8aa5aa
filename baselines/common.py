"""What the baselines share beyond `models/`: refusals, the order of modalities, index arithmetic."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from models.contract import MODALITIES, Head, Layout, Packed
from models.layout import index_cache, on_device

LayerKind = Literal["shared", "original"]
"""Encoder layers of a baseline: those that all models of the comparison share, or those of the baseline's authors."""


def only_head(heads: Sequence[Head], title: str) -> Head:
    """The head of a single-task model; refuses any other number of tasks."""
    if len(heads) != 1:
        raise ValueError(f"{title} predicts one task a model; it was given {len(heads)} heads, allowed is 1")
    return heads[0]


def primary_first(primary: str) -> tuple[int, ...]:
    """Positions of the modalities, the primary one in front and the others in their usual order.

    >>> primary_first("ehr"), primary_first("cxr"), primary_first("note")
    ((0, 1, 2), (1, 0, 2), (2, 0, 1))
    """
    first = MODALITIES.index(primary)
    return (first, *(m for m in range(len(MODALITIES)) if m != first))


def check_depth(name: str, layer: int, layers: int) -> None:
    """Refuses the number of a layer that an encoder of `layers` layers does not have; numbers start at 0."""
    if not 0 <= layer < layers:
        raise ValueError(f"{name} {layer}; allowed are 0 to {layers - 1} with {layers} layers")


@index_cache(64)
def _copied_tokens(layout: Layout, picks: tuple[int, ...], device: torch.device) -> Tensor:
    spans = [np.arange(layout.offsets[pick], layout.offsets[pick] + layout.lengths[pick]) for pick in picks]
    return on_device(np.concatenate(spans), device)


def copy_sequences(packed: Packed, picks: Sequence[int], rows: Sequence[int]) -> Packed:
    """Sequences number `picks`, any of them repeatedly, as sequences of batch rows `rows`: (N, D) -> (N', D)."""
    layout = Layout(tuple(packed.layout.lengths[pick] for pick in picks), tuple(rows))
    index = _copied_tokens(packed.layout, tuple(picks), packed.values.device)
    return Packed(packed.values.index_select(0, index), layout)
