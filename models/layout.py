"""How the tokens of a batch belong to its samples, in the two forms in which a model can be run.

**Packed** (`Layout`): the tokens of one sequence after those of another, as many as there are. No work is wasted, and
shapes differ from batch to batch; lengths and owners live on the host. The form of training on a CPU and of evaluation.

**Fixed** (`Slots`): as many sequences and tokens as a batch can have, so that all shapes are the same in all batches.
The sequences lie end to end as well, and what is left of the capacity is filler; lengths and owners live on the device.
Nothing is ever read back, so that a step can be recorded once and replayed, and several seeds can share it. The form of
training on a GPU.

Models do not tell the two apart: they work on layouts through the functions of `models/ragged.py`.

Legend: n sequences (slots), N tokens (capacity for tokens), B samples of the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cached_property, lru_cache, wraps
from itertools import accumulate
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

F = TypeVar("F", bound=Callable[..., Any])


def on_device(values: np.ndarray | Tensor | Sequence, device: torch.device) -> Tensor:
    """A tensor of host values on `device`; the host does not wait for the copy, as it would in `torch.tensor`."""
    return torch.as_tensor(values).to(device, non_blocking=True)


_kept: ContextVar[list[Any] | None] = ContextVar("kept", default=None)


@contextmanager
def keeping() -> Iterator[list[Any]]:
    """Collects what caches of index tensors give out meanwhile.

    A recorded step reads these tensors where they lie for as long as it is replayed, without asking the caches for
    them, which may long have dropped them: whoever records a step holds on to the list.
    """
    token = _kept.set(kept := [])
    try:
        yield kept
    finally:
        _kept.reset(token)


def index_cache(size: int) -> Callable[[F], F]:
    """Keeps the last `size` results of a function that makes index tensors from values that can be hashed.

    They outlive the mode in which they are made, so they are made outside of inference mode.
    """

    def decorate(make: F) -> F:
        cached = lru_cache(maxsize=size)(torch.inference_mode(False)(make))

        @wraps(make)
        def get(*key: Any) -> Any:
            found = cached(*key)
            if (kept := _kept.get()) is not None:
                kept.append(found)
            return found

        get.cache_clear = cached.cache_clear
        return get

    return decorate


@dataclass(frozen=True)
class Layout:
    """How packed tokens belong to samples: sequence i has `lengths[i]` tokens and belongs to batch row `rows[i]`.

    `lengths` and `rows` live in host memory, so that shapes never have to be read back from a device.
    """

    lengths: tuple[int, ...]
    rows: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.lengths) != len(self.rows):
            raise ValueError(f"{len(self.lengths)} lengths for {len(self.rows)} rows; each sequence needs both")
        if any(length < 1 for length in self.lengths):
            raise ValueError(f"lengths {self.lengths}: a sequence has at least one token; leave absent samples out")

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def tokens(self) -> int:
        return sum(self.lengths)

    @cached_property
    def offsets(self) -> tuple[int, ...]:
        """Index of each sequence's first token."""
        return offsets(self.lengths)


@dataclass(frozen=True)
class Bounds:
    """What goes into n slots: at most `lengths[i]` tokens into slot i, and at most `tokens` into all of them."""

    lengths: tuple[int, ...]
    tokens: int

    @classmethod
    def full(cls, lengths: tuple[int, ...]) -> Bounds:
        """Those of slots that may all be full."""
        return cls(lengths, sum(lengths))

    def __len__(self) -> int:
        return len(self.lengths)


NO_BOUNDS = Bounds((), 0)


@dataclass(frozen=True, eq=False)
class Slots:
    """How the tokens of a fixed batch belong to samples.

    Tokens that are in no slot, and slots of nobody, are finite filler that no result depends on.

    Attributes:
        bounds: the same in all batches.
        rows: (n,) int64, batch row of each slot; B for a slot of nobody.
        used: (n,) int64, number of its tokens; 0 for a slot of nobody.
        size: B.
        joint: of each sample's tokens of all modalities together, samples with most tokens first; B slots, the same in
            all batches. A batch that is put into slots keeps to them as well.
        starts: (n,) int64, its first token, in ascending order; None where each slot begins where it would if all slots
            before it were full, so that slots of equal length can be viewed as one padded tensor.
        whole: each batch row has a slot, and all slots are full and of equal length.
    """

    bounds: Bounds
    rows: Tensor
    used: Tensor
    size: int
    joint: Bounds = NO_BOUNDS
    starts: Tensor | None = None
    whole: bool = False

    @classmethod
    def end_to_end(cls, bounds: Bounds, rows: Tensor, used: Tensor, size: int, joint: Bounds = NO_BOUNDS) -> Slots:
        """Slots without filler between their tokens."""
        return cls(bounds, rows, used, size, joint, used.cumsum(0) - used)

    def __len__(self) -> int:
        return len(self.bounds)

    @property
    def lengths(self) -> tuple[int, ...]:
        """The most tokens of each slot."""
        return self.bounds.lengths

    @property
    def tokens(self) -> int:
        """N."""
        return self.bounds.tokens


def offsets(lengths: tuple[int, ...]) -> tuple[int, ...]:
    """Where each of several runs begins if they lie end to end."""
    return tuple(accumulate(lengths[:-1], initial=0)) if lengths else ()


@dataclass(frozen=True)
class Packed:
    """Sequences end to end: `values` (N, F) holds the tokens of `layout`'s sequences."""

    values: Tensor
    layout: Layout | Slots

    def __post_init__(self) -> None:
        if self.values.shape[0] != self.layout.tokens:
            raise ValueError(f"{self.values.shape[0]} tokens where the layout counts {self.layout.tokens}")

    def with_values(self, values: Tensor) -> Packed:
        """The same sequences with other token values, (N, any)."""
        return Packed(values, self.layout)
