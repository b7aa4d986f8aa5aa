"""What `models/ragged.py` does, for batches of fixed shapes: index arithmetic on the device, by `Slots`.

Everything that depends on the batch is computed from `rows` and `used` by operations of fixed shapes; everything else
from the room of the slots, on the host, once. No value is read back, and every operation has a rule for `torch.vmap`.

Filler takes part in products and softmaxes and in nothing that is used: attention hides it from real tokens, and what
belongs to nobody is written to a row beyond the batch.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from models.layout import Packed, Slots, index_cache, on_device


@dataclass(frozen=True)
class Group:
    """Neighbouring slots of equal room `length` L. `allowed` (n, L) is False at filler; every slot allows a key."""

    length: int
    allowed: Tensor

    @property
    def keys(self) -> Tensor:
        """(n, 1, 1, L) bool, the keys that attention may use."""
        return self.allowed[:, None, None, :]


@dataclass(frozen=True)
class Grouping:
    """Slots cut into groups; tokens lie in their order already, so that padding is a view."""

    groups: tuple[Group, ...]
    sizes: tuple[int, ...]

    def pad(self, values: Tensor) -> list[Tensor]:
        """(N, F) -> one (n, L, F) tensor a group."""
        spans = [size * group.length for size, group in zip(self.sizes, self.groups, strict=True)]
        parts = zip(values.split(spans), self.groups, strict=True)
        return [part.unflatten(0, (-1, group.length)) for part, group in parts]

    def split(self, vectors: Tensor) -> list[Tensor]:
        """(n, ...) -> one (n_group, ...) tensor a group."""
        return list(vectors.split(self.sizes))

    def unpad(self, padded: Sequence[Tensor]) -> Tensor:
        """One (n, L, F) tensor a group -> (N, F)."""
        return torch.cat([part.flatten(0, 1) for part in padded])

    def restore(self, vectors: Sequence[Tensor]) -> Tensor:
        """One (n_group, ...) tensor a group -> (n, ...)."""
        return torch.cat(list(vectors))


def grouping(layout: Slots) -> Grouping:
    """Runs of slots of equal room."""
    runs = [(length, len(list(run))) for length, run in itertools.groupby(layout.lengths)]
    visible = layout.used.clamp(min=1).split([count for _, count in runs])
    groups = [
        Group(length, steps(length, used.device) < used[:, None])
        for (length, _), used in zip(runs, visible, strict=True)
    ]
    return Grouping(tuple(groups), tuple(count for _, count in runs))


@index_cache(256)
def steps(length: int, device: torch.device) -> Tensor:
    """0, 1, ..., length - 1."""
    return torch.arange(length, device=device)


@index_cache(64)
def slot_and_place(lengths: tuple[int, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """(N,) slot of every token, and (N,) its place within the slot."""
    slot = np.repeat(np.arange(len(lengths)), lengths)
    return on_device(slot, device), on_device(np.concatenate([np.arange(length) for length in lengths]), device)


@index_cache(64)
def starts(lengths: tuple[int, ...], device: torch.device) -> Tensor:
    """(n,) index of each slot's first token."""
    return on_device(np.cumsum([0, *lengths[:-1]]), device)


def spread(of_sequences: Tensor, like: Tensor) -> Tensor:
    """(n,) -> (n, 1, ...), with as many axes as `like`."""
    return of_sequences.reshape(-1, *[1] * (like.dim() - 1))


def some_row(layout: Slots) -> Tensor:
    """(n,) batch row of every slot; the last one for slots of nobody."""
    return layout.rows.clamp(max=layout.size - 1)


def only_owned(vectors: Tensor, layout: Slots) -> Tensor:
    """As `ragged.only_owned`."""
    return vectors.masked_fill(spread(layout.used == 0, vectors), 0)


def put(of_rows: Tensor, layout: Slots, vectors: Tensor) -> Tensor:
    """As `ragged.put`."""
    beyond = torch.cat([of_rows, of_rows[-1:]])  # (B + 1, ...)
    return beyond.scatter(0, spread(layout.rows, vectors).expand_as(vectors), vectors)[:-1]


def token_means(packed: Packed) -> Tensor:
    """As `ragged.token_means`; zero for slots of nobody."""
    means = []
    plan = grouping(packed.layout)
    for group, values, used in zip(plan.groups, plan.pad(packed.values), plan.split(packed.layout.used), strict=True):
        real = group.allowed & (used > 0)[:, None]  # (n, L)
        total = values.masked_fill(~real[..., None], 0).sum(1)
        means.append(total / used.clamp(min=1)[:, None].to(values.dtype))
    return torch.cat(means)


# ------------------------------------------------------------------------------------------------------- joining


def units(layout: Slots) -> Slots:
    """As `ragged.units`."""
    return replace(layout, lengths=(1,) * len(layout), used=layout.used.clamp(max=1))


def beside(lengths: tuple[int, ...], layouts: Sequence[Slots]) -> Slots:
    """As `ragged.beside`, `lengths` those of the result."""
    rows, used = (torch.cat([getattr(layout, name) for layout in layouts]) for name in ("rows", "used"))
    return Slots(lengths, rows, used, layouts[0].size, layouts[0].joint)


def everyone(like: Slots, count: int = 1) -> Slots:
    """As `ragged.everyone`."""
    rows = steps(like.size, like.rows.device)
    return Slots((count,) * like.size, rows, torch.full_like(rows, count), like.size, like.joint, whole=True)


def prepend(first: Tensor, packed: Packed) -> tuple[Packed, tuple[Tensor, Tensor]]:
    """As `ragged.prepend`."""
    layout, more = packed.layout, first.shape[1]
    device = packed.values.device
    slot, place = slot_and_place(layout.lengths, device)
    lengths = tuple(length + more for length in layout.lengths)
    where = starts(lengths, device)[slot] + more + place  # (N,)
    in_front = (starts(lengths, device)[:, None] + steps(more, device)).flatten()  # (n * K,)
    plan = grouping(layout)
    parts = zip(plan.split(first), plan.pad(packed.values), strict=True)
    values = torch.cat([torch.cat([front.to(rest.dtype), rest], 1).flatten(0, 1) for front, rest in parts])
    return Packed(values, replace(layout, lengths=lengths, used=layout.used + more * (layout.used > 0))), (
        in_front,
        where,
    )


def join(parts: Sequence[Packed]) -> tuple[Packed, tuple[Tensor, ...]]:
    """As `ragged.join`: sequences of all batch rows, into slots by their number of tokens.

    The room is that of `Slots.joint` and, on top, that of the parts that everyone has. Of filler, `where` tells some
    place.
    """
    layouts = [part.layout for part in parts]
    size, device = layouts[0].size, parts[0].values.device
    shared = sum(layout.lengths[0] for layout in layouts if layout.whole)
    room = tuple(length + shared for length in layouts[0].joint)
    sizes = torch.stack([_by_row(layout, layout.used) for layout in layouts])  # (P, B) tokens of each part and row
    before = sizes.cumsum(0) - sizes  # (P, B) tokens of the row in earlier parts
    order = sizes.sum(0).argsort(descending=True, stable=True)  # (B,) row of each joint slot
    slot, place = slot_and_place(room, device)
    row = order.index_select(0, slot)  # (N,) row of each joint token
    source, first = torch.zeros_like(place), 0
    for layout, earlier in zip(layouts, before, strict=True):
        start = first + _by_row(layout, starts(layout.lengths, device))  # (B,) the row's first token of this part
        begun = earlier.index_select(0, row)
        source = torch.where(place >= begun, start.index_select(0, row) + place - begun, source)
        first += layout.tokens
    values = torch.cat([part.values for part in parts])
    source = source.clamp(max=len(values) - 1)  # what lies behind a row's last token is filler
    joint = Slots(room, order, sizes.sum(0).index_select(0, order), size, layouts[0].joint)
    begin = torch.zeros_like(order).scatter(0, order, starts(room, device))  # (B,) first joint token of each row
    where = []
    for layout, earlier in zip(layouts, before, strict=True):
        slot, place = slot_and_place(layout.lengths, device)
        of_slot = (begin + earlier).index_select(0, some_row(layout))
        where.append((of_slot.index_select(0, slot) + place).clamp(max=joint.tokens - 1))
    return Packed(values.index_select(0, source), joint), tuple(where)


def _by_row(layout: Slots, of_slots: Tensor) -> Tensor:
    """(n,) int64 -> (B,), 0 for rows without a slot."""
    beyond = of_slots.new_zeros(layout.size + 1)
    return beyond.scatter(0, layout.rows, of_slots)[:-1]
