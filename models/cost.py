"""Size and work of a model: trainable parameters, and floating-point operations of a forward pass, measured.

Equal width and depth do not make models equal in size; a table of results is read beside these numbers. Operations are
counted where torch carries them out, for any module that follows the contract. One multiply-add counts as two; norms,
activations, softmax and sums count as nothing, and neither does padding.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from models import ragged
from models.contract import (
    MODALITIES,
    Batch,
    Dimensions,
    Films,
    Head,
    Layout,
    ModelEntry,
    Packed,
    count_parameters,
)

COUPLED_BATCH = 32
"""Samples of the measured batch for models whose samples couple, where their number counts; for others few suffice."""


@dataclass(frozen=True)
class Inputs:
    """The samples whose forward pass is measured: hours and note tokens of each, and the modalities that they own."""

    hours: int = 48
    note_tokens: int = 128
    owned: tuple[str, ...] = MODALITIES

    def batch(self, dimensions: Dimensions, size: int) -> Batch:
        """`size` equal samples of zeros, in double precision."""
        d, rows = dimensions, tuple(range(size))

        def packed(length: int, features: int) -> Packed:
            return Packed(torch.zeros(size * length, features, dtype=torch.float64), Layout((length,) * size, rows))

        return Batch(
            ehr=packed(self.hours, d.series_features) if "ehr" in self.owned else None,
            cxr=Films(torch.zeros(size, d.film, d.film, dtype=torch.float64), rows) if "cxr" in self.owned else None,
            note=packed(self.note_tokens, d.note_features) if "note" in self.owned else None,
            present=torch.tensor([[name in self.owned for name in MODALITIES]] * size),
            task=0,
            sample=torch.arange(size),
        )


@dataclass(frozen=True)
class Cost:
    """Trainable parameters of a model; FLOPs of one sample's forward pass in eval mode, by the inputs asked for."""

    parameters: int
    flops: tuple[float, ...]


def cost(entry: ModelEntry, dimensions: Dimensions, heads: Sequence[Head], inputs: Sequence[Inputs]) -> Cost:
    """Builds a model, with values that do not matter, and measures it on each of `inputs`.

    The caller's random state is left as it is.
    """
    with torch.random.fork_rng(devices=[]):
        module = entry.build(dimensions, heads, entry.config())
    size = COUPLED_BATCH if entry.couples_samples else 2
    return Cost(count_parameters(module), tuple(forward_flops(module, each.batch(dimensions, size)) for each in inputs))


def forward_flops(module: nn.Module, batch: Batch) -> float:
    """FLOPs of a forward pass in eval mode on the CPU, divided by the samples of the batch.

    Fused kernels hide their products from the counter. Plain ones, which do the same work, are used for attention by
    request and for recurrent layers in double precision.
    """
    module = module.double().eval()
    # Without gradients and yet not in inference mode: there torch hides what its larger operations consist of.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), _nothing_padded(), _Products() as products:
        module(batch)
    return products.flops / batch.size


class _Products(TorchDispatchMode):
    """Adds up the FLOPs of all products that torch carries out."""

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # or torch loads its compiler, which takes seconds, to tell it to pass over this class

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if (formula := flop_registry.get(func.overloadpacket)) is not None:
            self.flops += formula(*args, **(kwargs or {}), out_val=result)
        return result


@contextmanager
def _nothing_padded() -> Iterator[None]:
    """Sequences of different lengths never share a padded group meanwhile."""
    usual = ragged.GROUP_OVERHEAD["cpu"]
    ragged.forget_groups()
    ragged.GROUP_OVERHEAD["cpu"] = 0
    try:
        yield
    finally:
        ragged.GROUP_OVERHEAD["cpu"] = usual
        ragged.forget_groups()
