"""Random numbers of a forward pass: dropout and the noise of gates.

Layers draw through these functions instead of torch's own. By default numbers come from torch's current generator, 16
random bits a value: a quarter of what torch's dropout draws. A step that is recorded and replayed reads numbers that
were drawn before it (`drawn_before`), each seed's from its own stream, so that a seed meets the same noise whichever
seeds train beside it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch
from torch import Tensor

LEVELS = 2**16
"""Dropout rates are rounded to this many levels: a rate of 0.1 becomes 0.100006."""


class Source(Protocol):
    """Where numbers come from."""

    def bits(self, count: int, device: torch.device) -> Tensor:
        """(count,) int16, uniform over all values."""

    def normal(self, count: int, like: Tensor) -> Tensor:
        """(count,) standard normal numbers of `like`'s type."""


S = TypeVar("S", bound=Source)


class Current:
    """torch's current generator of the device."""

    def bits(self, count: int, device: torch.device) -> Tensor:
        words = torch.empty((count + 3) // 4, dtype=torch.int64, device=device)
        return words.random_(-(2**63), None).view(torch.int16)[:count]

    def normal(self, count: int, like: Tensor) -> Tensor:
        return torch.randn(count, dtype=like.dtype, device=like.device)


@dataclass
class Drawn:
    """Numbers drawn beforehand, handed out in order.

    Attributes:
        bits_drawn: (any,) int16. normal_drawn: (any,) standard normal. bits_used, normal_used: how many are taken.
    """

    bits_drawn: Tensor
    normal_drawn: Tensor
    bits_used: int = 0
    normal_used: int = 0

    def bits(self, count: int, device: torch.device) -> Tensor:
        self.bits_used += count
        return self._rest(self.bits_drawn, self.bits_used, count)

    def normal(self, count: int, like: Tensor) -> Tensor:
        self.normal_used += count
        return self._rest(self.normal_drawn, self.normal_used, count).to(like.dtype)

    @staticmethod
    def _rest(drawn: Tensor, stop: int, count: int) -> Tensor:
        if stop > len(drawn):
            raise RuntimeError(f"{stop} random numbers are asked for; {len(drawn)} were drawn")
        return drawn[stop - count : stop]


@dataclass
class Counting:
    """Counts what is asked for and gives zeros."""

    bits_used: int = 0
    normal_used: int = 0

    def bits(self, count: int, device: torch.device) -> Tensor:
        self.bits_used += count
        return torch.zeros(count, dtype=torch.int16, device=device)

    def normal(self, count: int, like: Tensor) -> Tensor:
        self.normal_used += count
        return torch.zeros(count, dtype=like.dtype, device=like.device)


_source: ContextVar[Source | None] = ContextVar("source", default=None)
_CURRENT = Current()


@contextmanager
def drawn_from(source: S) -> Iterator[S]:
    """Takes random numbers from `source` meanwhile."""
    token = _source.set(source)
    try:
        yield source
    finally:
        _source.reset(token)


def _now() -> Source:
    return _source.get() or _CURRENT


def kept(shape: torch.Size, rate: float, device: torch.device) -> Tensor:
    """bool of `shape`, False with probability `rate`."""
    return _now().bits(shape.numel(), device).view(shape) >= threshold(rate)


def dice(count: int, device: torch.device) -> Tensor:
    """(4 * count,) int16, uniform over all values: numbers of 64 bits of which kernels make random numbers."""
    return _now().bits(4 * count, device)


def threshold(rate: float) -> int:
    """The 16-bit numbers below this one are as many as `rate` wants dropped."""
    return round(rate * LEVELS) - LEVELS // 2


def dropout(values: Tensor, rate: float, training: bool) -> Tensor:
    """`values`, each set to zero with probability `rate` and the others divided by 1 - rate; as they are if not
    training."""
    if not training or rate == 0:
        return values
    weights = kept(values.shape, rate, values.device).to(values.dtype)
    return values * (weights * (LEVELS / (LEVELS - round(rate * LEVELS))))


def normal_like(values: Tensor) -> Tensor:
    """Standard normal numbers of the shape and type of `values`."""
    return _now().normal(values.numel(), values).view(values.shape)
