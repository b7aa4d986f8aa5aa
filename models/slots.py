"""What `models/ragged.py` does, for batches of fixed shapes: index arithmetic on the device, by `Slots`.

Everything that depends on the batch is computed from `starts`, `rows` and `used` by operations of fixed shapes;
everything else from the bounds, on the host, once. No value is read back, and every operation has a rule for
`torch.vmap`.

Filler takes part in products and softmaxes and in nothing that is used: attention hides it from real tokens, and what
belongs to nobody is written to a row beyond the batch.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from models.layout import Bounds, Packed, Slots, index_cache, on_device


@dataclass(frozen=True)
class Places:
    """Where tokens are: `slot` (..., N), for filler some slot; `place` (..., N) within it from 0; whether they are
    `real` (..., N), and no filler."""

    slot: Tensor
    place: Tensor
    real: Tensor


def places(starts: Tensor, used: Tensor, tokens: int) -> Places:
    """Places of N tokens in slots that begin at `starts` (..., n), ascending, and have `used` (..., n) tokens."""
    token = steps(tokens, starts.device)
    ended = token[:, None] >= (starts + used)[..., None, :]  # (..., N, n): slots end one after another
    slot = ended.sum(-1).clamp(max=starts.shape[-1] - 1)
    place = token - starts.gather(-1, slot)
    real = (place >= 0) & (place < used.gather(-1, slot))
    return Places(slot, place.clamp(min=0), real)


def places_in(layout: Slots) -> Places:
    """Places of a layout's tokens."""
    if layout.starts is not None:
        return places(layout.starts, layout.used, layout.tokens)
    slot, place = _slot_and_place(layout.lengths, layout.used.device)
    return Places(slot, place, place < layout.used.index_select(0, slot))


def positions(layout: Slots) -> Tensor:
    """As `ragged.positions`; of filler, some place."""
    return places_in(layout).place.clamp(max=max(layout.lengths) - 1)


def starts_in(layout: Slots) -> Tensor:
    """(n,) index of each slot's first token; for a slot of nobody it may be N."""
    return _starts(layout.lengths, layout.used.device) if layout.starts is None else layout.starts


def first_tokens(layout: Slots) -> Tensor:
    """As `ragged.first_tokens`; of a slot of nobody, some token."""
    return starts_in(layout).clamp(max=layout.tokens - 1)


@index_cache(256)
def steps(length: int, device: torch.device) -> Tensor:
    """0, 1, ..., length - 1."""
    return torch.arange(length, device=device)


@index_cache(64)
def _slot_and_place(lengths: tuple[int, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """(N,) slot of every token, and (N,) its place, in slots that each take up all of their length."""
    slot = np.repeat(np.arange(len(lengths)), lengths)
    return on_device(slot, device), on_device(np.concatenate([np.arange(length) for length in lengths]), device)


@index_cache(64)
def _starts(lengths: tuple[int, ...], device: torch.device) -> Tensor:
    """(n,) index of each slot's first token, likewise."""
    return on_device(np.cumsum([0, *lengths[:-1]]), device)


# ------------------------------------------------------------------------------------------------------- padding


@dataclass(frozen=True, eq=False)
class Group:
    """Neighbouring slots of equal length L: `starts` (n,), and `used` (n,), 1 for slots of nobody."""

    length: int
    starts: Tensor
    used: Tensor

    @cached_property
    def allowed(self) -> Tensor:
        """(n, L) bool, False at filler; every slot allows a key."""
        return steps(self.length, self.used.device) < self.used[:, None]

    @property
    def keys(self) -> Tensor:
        """(n, 1, 1, L) bool, the keys that attention may use."""
        return self.allowed[:, None, None, :]


@dataclass(frozen=True, eq=False)
class Grouping:
    """A layout's slots, cut into groups."""

    layout: Slots
    groups: tuple[Group, ...]
    sizes: tuple[int, ...]

    def pad(self, values: Tensor) -> list[Tensor]:
        """(N, F) -> one (n, L, F) tensor a group; a view where each slot takes up all of its length."""
        if self.layout.starts is None:
            spans = [size * group.length for size, group in zip(self.sizes, self.groups, strict=True)]
            parts = zip(values.split(spans), self.groups, strict=True)
            return [part.unflatten(0, (-1, group.length)) for part, group in parts]
        return [values.index_select(0, index.flatten()).unflatten(0, index.shape) for index in self._index]

    def split(self, vectors: Tensor) -> list[Tensor]:
        """(n, ...) -> one (n_group, ...) tensor a group."""
        return list(vectors.split(self.sizes))

    def unpad(self, padded: Sequence[Tensor]) -> Tensor:
        """One (n, L, F) tensor a group -> (N, F)."""
        flat = torch.cat([part.flatten(0, 1) for part in padded])
        return flat if self.layout.starts is None else flat.index_select(0, self._inverse)

    def restore(self, vectors: Sequence[Tensor]) -> Tensor:
        """One (n_group, ...) tensor a group -> (n, ...)."""
        return torch.cat(list(vectors))

    @cached_property
    def _index(self) -> list[Tensor]:
        """For each group (n, L): the token at each place of the padded tensor, for padding some token."""
        last = self.layout.tokens - 1
        return [
            (group.starts[:, None] + steps(group.length, group.starts.device)).clamp(max=last) for group in self.groups
        ]

    @cached_property
    def _inverse(self) -> Tensor:
        """(N,) place of every token among those of all padded tensors, for filler some place."""
        of_tokens, lengths = places_in(self.layout), self.layout.lengths
        begin = _starts(lengths, of_tokens.slot.device).index_select(0, of_tokens.slot)
        return (begin + of_tokens.place).clamp(max=sum(lengths) - 1)


def grouping(layout: Slots) -> Grouping:
    """Runs of slots of equal length."""
    runs = [(length, len(list(run))) for length, run in itertools.groupby(layout.lengths)]
    counts = tuple(count for _, count in runs)
    parts = zip(starts_in(layout).split(counts), layout.used.clamp(min=1).split(counts), strict=True)
    groups = [Group(length, starts, used) for (length, _), (starts, used) in zip(runs, parts, strict=True)]
    return Grouping(layout, tuple(groups), counts)


# ------------------------------------------------------------------------------------- between slots and batch rows


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
    layout, values, of_tokens = packed.layout, packed.values, places_in(packed.layout)
    target = torch.where(of_tokens.real, of_tokens.slot, len(layout))  # (N,), filler beyond the slots
    total = values.new_zeros(len(layout) + 1, values.shape[-1])
    total = total.scatter_add(0, target[:, None].expand_as(values), values)[:-1]
    return total / layout.used.clamp(min=1)[:, None].to(values.dtype)


# ------------------------------------------------------------------------------------------------------- joining


def units(layout: Slots) -> Slots:
    """As `ragged.units`."""
    return replace(layout, bounds=Bounds.full((1,) * len(layout)), used=layout.used.clamp(max=1), starts=None)


def everyone(like: Slots, count: int = 1) -> Slots:
    """As `ragged.everyone`."""
    rows = steps(like.size, like.rows.device)
    bounds = Bounds.full((count,) * like.size)
    return Slots(bounds, rows, torch.full_like(rows, count), like.size, like.joint, whole=True)


def beside(layouts: Sequence[Slots]) -> Slots:
    """As `ragged.beside`; between the layouts lies the filler of each."""
    first = layouts[0]
    rows, used = (torch.cat([getattr(layout, name) for layout in layouts]) for name in ("rows", "used"))
    lengths = tuple(itertools.chain.from_iterable(layout.lengths for layout in layouts))
    begins = itertools.accumulate((layout.tokens for layout in layouts), initial=0)
    starts = torch.cat([begin + starts_in(layout) for begin, layout in zip(begins, layouts, strict=False)])
    tokens = sum(layout.tokens for layout in layouts)
    aligned = all(layout.starts is None for layout in layouts)
    return Slots(Bounds(lengths, tokens), rows, used, first.size, first.joint, None if aligned else starts)


def together(parts: Sequence[Packed]) -> Packed:
    """As `ragged.together`: without the filler between the parts as far as `Slots.joint` knows that there is less."""
    layout, values = beside([part.layout for part in parts]), torch.cat([part.values for part in parts])
    if not 0 < layout.joint.tokens < layout.tokens:
        return Packed(values, layout)
    bounds = Bounds(layout.lengths, layout.joint.tokens)
    closed = Slots.end_to_end(bounds, layout.rows, layout.used, layout.size, layout.joint)
    of_tokens = places_in(closed)
    source = starts_in(layout).index_select(0, of_tokens.slot) + of_tokens.place
    # Filler is taken from all over the place: were it one token, its gradient would be added up at a single address.
    source = torch.where(of_tokens.real, source, steps(closed.tokens, source.device))
    return Packed(values.index_select(0, source), closed)


def apart(values: Tensor, layout: Slots, parts: Sequence[Packed]) -> list[Tensor]:
    """As `ragged.apart`; for filler some token."""
    if layout.tokens == sum(part.layout.tokens for part in parts):
        return list(values.split([part.layout.tokens for part in parts]))
    found = []
    for part, starts in zip(parts, starts_in(layout).split([len(part.layout) for part in parts]), strict=True):
        of_tokens = places_in(part.layout)
        where = starts.index_select(0, of_tokens.slot) + of_tokens.place
        found.append(values.index_select(0, where.clamp(max=layout.tokens - 1)))
    return found


def prepend(first: Tensor, packed: Packed) -> tuple[Packed, tuple[Tensor, Tensor]]:
    """As `ragged.prepend`; slots of nobody get the tokens too."""
    layout, more, device = packed.layout, first.shape[1], packed.values.device
    of_tokens, count = places_in(layout), len(layout)
    starts = starts_in(layout) + more * steps(count, device)
    in_front = (starts[:, None] + steps(more, device)).flatten()  # (n * K,)
    slots_before = of_tokens.slot + (steps(layout.tokens, device) >= starts_in(layout).index_select(0, of_tokens.slot))
    where = steps(layout.tokens, device) + more * slots_before  # (N,)
    values = torch.cat([first.flatten(0, 1).to(packed.values.dtype), packed.values])
    index = torch.cat([in_front, where])[:, None].expand_as(values)
    bounds = Bounds(tuple(length + more for length in layout.lengths), len(values))
    used = layout.used + more * (layout.used > 0)
    longer = replace(layout, bounds=bounds, used=used, starts=None if layout.starts is None else starts)
    return Packed(torch.zeros_like(values).scatter(0, index, values), longer), (in_front, where)


def join(parts: Sequence[Packed]) -> tuple[Packed, tuple[Tensor, ...]]:
    """As `ragged.join`: sequences of all batch rows, into slots by their number of tokens.

    Their bounds are those of `Slots.joint` and, on top, the tokens that everyone has. Of filler, `where` tells some
    place.
    """
    layouts = [part.layout for part in parts]
    size, bounds = layouts[0].size, layouts[0].joint
    shared = sum(layout.lengths[0] for layout in layouts if layout.whole)
    bounds = Bounds(tuple(length + shared for length in bounds.lengths), bounds.tokens + shared * size)
    sizes = torch.stack([_by_row(layout, layout.used) for layout in layouts])  # (P, B) tokens of each part and row
    before = sizes.cumsum(0) - sizes  # (P, B) tokens of the row in earlier parts
    order = sizes.sum(0).argsort(descending=True, stable=True)  # (B,) row of each joint slot
    joint = Slots.end_to_end(bounds, order, sizes.sum(0).index_select(0, order), size, layouts[0].joint)
    of_joint = places_in(joint)
    row = order.index_select(0, of_joint.slot)  # (N,) row of each joint token
    source, first = torch.zeros_like(row), 0
    for layout, earlier in zip(layouts, before, strict=True):
        start = first + _by_row(layout, starts_in(layout))  # (B,) the row's first token of this part
        begun = earlier.index_select(0, row)
        source = torch.where(of_joint.place >= begun, start.index_select(0, row) + of_joint.place - begun, source)
        first += layout.tokens
    values = torch.cat([part.values for part in parts])
    source = source.clamp(max=len(values) - 1)  # what lies behind a row's last token is filler
    begin = torch.zeros_like(order).scatter(0, order, joint.starts)  # (B,) first joint token of each row
    where = []
    for layout, earlier in zip(layouts, before, strict=True):
        of_slot, of_part = (begin + earlier).index_select(0, some_row(layout)), places_in(layout)
        where.append((of_slot.index_select(0, of_part.slot) + of_part.place).clamp(max=joint.tokens - 1))
    return Packed(values.index_select(0, source), joint), tuple(where)


def _by_row(layout: Slots, of_slots: Tensor) -> Tensor:
    """(n,) int64 -> (B,), 0 for rows without a slot."""
    beyond = of_slots.new_zeros(layout.size + 1)
    return beyond.scatter(0, layout.rows, of_slots)[:-1]
