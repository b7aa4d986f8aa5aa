"""Stages of a model that treat each sample by itself, computed part by part where a batch does not fit into memory.

In some models the samples of a batch meet: in FlexCare's balance of experts, in M3Care's graph. What needs the memory
are the stages before and after, encoders over tokens that look at one sample at a time; what meets are a few vectors a
sample. A model calls such a stage through `samplewise`. By default that is a plain call. While the harness has asked
for parts (`in_parts`), the stage is run for some samples after others and keeps nothing but its results; the backward
pass runs each part once more, from the same random state, when its turn comes. The step is that of the whole batch,
for the time of one more forward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from itertools import accumulate, pairwise
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from models.contract import Batch, Films, Layout, Packed

T = TypeVar("T")

_parts: ContextVar[int] = ContextVar("parts", default=1)


@contextmanager
def in_parts(number: int) -> Iterator[None]:
    """Computes samplewise stages in that many parts meanwhile."""
    token = _parts.set(number)
    try:
        yield
    finally:
        _parts.reset(token)


def samplewise(stage: Callable[..., T], present: Tensor, *inputs: Any) -> T:
    """`stage(*inputs)`, a function whose results for a sample depend on that sample's inputs alone.

    The stage must change no state: in parts it runs twice.

    Args:
        present: (B, M), of the batch; says how many samples there are, and on which device.
        inputs: batches, tensors (B, ...), packed sequences, None for what nobody owns, and lists of these; the results
            may be the same. What some parts have and others do not becomes zeros for the samples of the others.
    """
    spans = list(spans_of(len(present), _parts.get()))
    if len(spans) < 2:
        return stage(*inputs)
    results = [_run_twice(stage, present[start:stop], of_samples(inputs, start, stop)) for start, stop in spans]
    return _joined(results, [stop - start for start, stop in spans])


def _run_twice(stage: Callable[..., T], present: Tensor, inputs: Sequence[Any]) -> T:
    """Keeps the results alone; `checkpoint` is shown a tensor for it to know whose random state to keep. Once, where
    no gradients are wanted."""
    if not torch.is_grad_enabled():
        return stage(*inputs)
    return checkpoint(lambda _: stage(*inputs), present, use_reentrant=False)


def spans_of(size: int, parts: int) -> Iterator[tuple[int, int]]:
    """Starts and stops of `size` samples in `parts` pieces of nearly equal size; in fewer, if there are fewer samples.

    >>> list(spans_of(5, 2))
    [(0, 2), (2, 5)]
    """
    return (
        (start, stop) for start, stop in pairwise(size * part // parts for part in range(parts + 1)) if start < stop
    )


# ------------------------------------------------------------------------------------------------ cutting and joining


def of_samples(value: Any, start: int, stop: int) -> Any:
    """What belongs to the samples from `start` to `stop`; None where they own nothing of it.

    Args:
        value: a batch, a tensor (B, ...), packed sequences, films, None, or a list or tuple of these.
    """
    match value:
        case None:
            return None
        case Tensor():
            return value[start:stop]
        case Packed(layout=Layout()):
            return _sequences(value, start, stop)
        case Films(rows=tuple()):
            return _films(value, start, stop)
        case Batch():
            parts = {name: of_samples(getattr(value, name), start, stop) for name in ("ehr", "cxr", "note")}
            return replace(value, **parts, present=value.present[start:stop], sample=value.sample[start:stop])
        case list() | tuple():
            return type(value)(of_samples(item, start, stop) for item in value)
    raise TypeError(f"{type(value).__name__} cannot be cut into parts; batches of fixed shapes neither")


def _own(rows: tuple[int, ...], start: int, stop: int) -> slice:
    """Places of the rows from `start` to `stop`; batches list rows in ascending order."""
    places = [place for place, row in enumerate(rows) if start <= row < stop]
    return slice(places[0], places[-1] + 1) if places else slice(0, 0)


def _sequences(packed: Packed, start: int, stop: int) -> Packed | None:
    own = _own(packed.layout.rows, start, stop)
    lengths = packed.layout.lengths[own]
    if not lengths:
        return None
    first = packed.layout.offsets[own.start]
    values = packed.values[first : first + sum(lengths)]
    return Packed(values, Layout(lengths, tuple(row - start for row in packed.layout.rows[own])))


def _films(films: Films, start: int, stop: int) -> Films | None:
    own = _own(films.rows, start, stop)
    if own.start == own.stop:
        return None
    return Films(films.pixels[own], tuple(row - start for row in films.rows[own]))


def _joined(results: Sequence[Any], sizes: Sequence[int]) -> Any:
    """The results of all parts, of so many samples each, as those of one batch."""
    some = next((result for result in results if result is not None), None)
    match some:
        case None:
            return None
        case Tensor():
            of_parts = zip(results, sizes, strict=True)
            return torch.cat([some.new_zeros(n, *some.shape[1:]) if own is None else own for own, n in of_parts])
        case Packed():
            return _packed_together(results, sizes)
        case list() | tuple():
            return type(some)(_joined(column, sizes) for column in zip(*results, strict=True))
    raise TypeError(f"a samplewise stage returned {type(some).__name__}; tensors, packed sequences, None are allowed")


def _packed_together(results: Sequence[Packed | None], sizes: Sequence[int]) -> Packed:
    starts = accumulate(sizes[:-1], initial=0)
    owned = [(own, start) for own, start in zip(results, starts, strict=True) if own is not None]
    lengths = tuple(length for own, _ in owned for length in own.layout.lengths)
    rows = tuple(start + row for own, start in owned for row in own.layout.rows)
    return Packed(torch.cat([own.values for own, _ in owned]), Layout(lengths, rows))
