"""Dense forms of models: the yardsticks that packed batches are measured against.

A dense form has the parameters and results of its model and works as most published code does: every modality of every
sample is padded with zeros to the longest sequence of the batch, those that a sample lacks as well; encoders run over
all of it, with masks, and through all of their layers; what comes out for the absent is left out afterwards.

No model is written twice for it. A padded batch is a batch of fixed shapes (`Slots`) in which each sample has a slot of
each modality that takes up as much as the longest sequence, so that the model's own code runs on it. Only FlexCare's
encoder has a dense form of its own, `models/dense_encoder.py`, which is its definition in the paper.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from models.contract import Batch, Dimensions, Films, Head, Packed
from models.dense_encoder import DenseCombinationEncoder
from models.encoder import CombinationEncoder
from models.flexcare import FlexCare, FlexCareConfig
from models.layers import EncoderLayer
from models.layout import Bounds, Slots, on_device
from models.mask import Mask

Build = Callable[[Dimensions, Sequence[Head], Any], nn.Module]


def padded(build: Build) -> Build:
    """Makes the builder of a model's dense form from the model's own; the module takes packed batches and pads them."""

    def build_padded(dimensions: Dimensions, heads: Sequence[Head], config: Any) -> nn.Module:
        module = build(dimensions, heads, config)
        for layer in module.modules():
            if isinstance(layer, EncoderLayer):
                layer.reads_few = False
        module.fixed_shapes = False
        film_tokens = (dimensions.film // dimensions.patch) ** 2
        module.register_forward_pre_hook(partial(_pad_inputs, film_tokens=film_tokens))
        return module

    return build_padded


def _pad_inputs(module: nn.Module, inputs: tuple[Batch], *, film_tokens: int) -> tuple[Batch]:
    return (pad(*inputs, film_tokens),)


def pad(batch: Batch, film_tokens: int) -> Batch:
    """A packed batch with B slots of each modality that anybody owns, as long as the longest sequence of it."""
    longest = [0 if part is None else max(part.layout.lengths) for part in (batch.ehr, batch.note)]
    joint = Bounds.full((sum(longest) + (0 if batch.cxr is None else film_tokens),) * batch.size)
    return Batch(
        ehr=None if batch.ehr is None else _sequences(batch.ehr, joint),
        cxr=None if batch.cxr is None else _films(batch.cxr, joint),
        note=None if batch.note is None else _sequences(batch.note, joint),
        present=batch.present,
        task=batch.task,
        sample=batch.sample,
    )


def _sequences(part: Packed, joint: Bounds) -> Packed:
    size, longest, device = len(joint), max(part.layout.lengths), part.values.device
    rows, lengths = np.array(part.layout.rows), np.array(part.layout.lengths)
    used = np.zeros(size, np.int64)
    used[rows] = lengths
    places = np.concatenate([row * longest + np.arange(length) for row, length in zip(rows, lengths, strict=True)])
    values = part.values.new_zeros(size * longest, part.values.shape[1])
    values = values.index_copy(0, on_device(places, device), part.values)
    owners = np.where(used > 0, np.arange(size), size)
    bounds = Bounds.full((longest,) * size)
    slots = Slots(bounds, on_device(owners, device), on_device(used, device), size, joint)
    return Packed(values, slots)


def _films(films: Films, joint: Bounds) -> Films:
    size, rows = len(joint), on_device(np.array(films.rows), films.pixels.device)
    pixels = films.pixels.new_zeros(size, *films.pixels.shape[1:]).index_copy(0, rows, films.pixels)
    owners = torch.full((size,), size, device=rows.device).index_copy(0, rows, rows)
    return Films(pixels, owners, joint)


class DenseFlexCare(FlexCare):
    """FlexCare with one dense masked transformer, for masks of combination tokens."""

    fixed_shapes = False

    @staticmethod
    def encoder_for(mask: Mask) -> type[CombinationEncoder]:
        return DenseCombinationEncoder


def dense_flexcare(dimensions: Dimensions, heads: Sequence[Head], config: FlexCareConfig) -> FlexCare:
    """FlexCare's dense form, or that of an ablation; without combination tokens, the encoder's own code, padded."""
    by_paper = config.mask.combinations and not config.mask.modalities_meet
    return (DenseFlexCare if by_paper else padded(FlexCare))(dimensions, heads, config)
