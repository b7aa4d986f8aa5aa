"""The noise of the note encoder's own dropout, fixed for every text.

Ordinary dropout takes its random numbers in the order of its calls, so that a text's noise would depend on the texts
that are encoded with it. Here every element that may be dropped has a random number of its own: a hash of the text's
key, the number of the dropout within the network, and the element's place. It is made of integers alone, so a text has
the same noise in every batch, on every device, and after an interruption.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from benchmark.random import stream_seed

_WORD = 0xFFFFFFFF
_STEP = 0x9E3779B9
_FACTOR = 0x45D9F3B
"""Odd and below 2**31, so that its product with a 32-bit word fits into int64."""


def text_keys(encoder: str, draw: int, digests: Sequence[str]) -> list[int]:
    """The keys of texts: 63 bits that depend on the encoder's key, the number of the draw and the text alone."""
    return [stream_seed(draw, "note dropout", encoder, digest) for digest in digests]


class TextNoise(TorchFunctionMode):
    """Within this context `torch.nn.functional.dropout` drops what the texts' keys say; a context serves one pass.

    Args:
        keys: of the texts of the batch, in their order. positions: longest input of the encoder, in tokens.

    Attributes:
        calls: how often something was dropped so far.
    """

    def __init__(self, keys: Sequence[int], positions: int, device: str | torch.device) -> None:
        super().__init__()
        words = torch.tensor([[key & _WORD, key >> 32] for key in keys], dtype=torch.int64, device=device)
        self.low, self.high = words.unbind(1)  # (B,) each
        self.positions, self.calls = positions, 0

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is torch.nn.functional.dropout:
            return self._dropped(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))

    def _dropped(self, values: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
        """`values` (B, tokens, width) or, of attention, (B, heads, tokens, tokens)."""
        if not training:
            return values
        random = self._random(values)
        self.calls += 1
        return values * (random >= round(p * (_WORD + 1))) / (1 - p)

    def _random(self, values: Tensor) -> Tensor:
        """32 random bits for each element, of the shape of `values`."""
        one = (-1, *(1,) * (values.dim() - 1))
        low = _mixed((self.low + _STEP * self.calls) & _WORD)
        place = self._places(values.shape[1:], values.device)
        return _mixed(_mixed(place ^ low.view(one)).bitwise_xor_(self.high.view(one)))

    def _places(self, shape: torch.Size, device: torch.device) -> Tensor:
        """A number for each element of one text, whatever the longest text of the batch."""
        # The axes of tokens count as if they always had their greatest length.
        extents = (self.positions, shape[1]) if len(shape) == 2 else (shape[0], self.positions, self.positions)
        place = torch.zeros((), dtype=torch.int64, device=device)
        for extent, length in zip(extents, shape, strict=True):
            place = place.unsqueeze(-1) * extent + torch.arange(length, device=device)
        return place & _WORD


def _mixed(words: Tensor) -> Tensor:
    """A hash of 32-bit words, in place: one to one, and every bit depends on all bits."""
    for _ in range(2):
        words ^= words >> 16
        words *= _FACTOR
        words &= _WORD
    words ^= words >> 16
    return words
