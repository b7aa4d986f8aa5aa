"""What models do with layouts: padding sequences for attention, joining them, moving vectors between sequences and
batch rows. Works on both forms of a batch (`models/layout.py`).

For packed batches all index arithmetic happens on the host from `Layout`s, which are values: equal layouts share their
index tensors through a small cache. For fixed ones it happens on the device (`models/slots.py`). Neither reads a device
tensor, so a step never waits for the device.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from models import slots
from models.layout import Layout, Packed, Slots, index_cache, on_device

GROUP_OVERHEAD = {"cpu": 20_000}
GROUP_OVERHEAD_ELSEWHERE = 2_000_000
"""Token pairs that may be wasted by padding before another group is opened: what a group's own kernel launches cost,
by type of device. Elsewhere than on a CPU launches dominate; that number is not measured on a GPU so far."""


@dataclass(frozen=True)
class Group:
    """Sequences of similar length that share one padded tensor.

    Attributes:
        index: (n, L) position of every padded slot among the packed tokens; padding points at some real token.
            None if the group is the whole layout without padding, so that a reshape does.
        allowed: (n, L) bool, False at padding; None if there is none.
        sequences: (n,) which sequences of the layout. length: L.
    """

    index: Tensor | None
    allowed: Tensor | None
    sequences: Tensor
    length: int

    @property
    def keys(self) -> Tensor | None:
        """(n, 1, 1, L) bool, the keys that attention may use; None: all."""
        return None if self.allowed is None else self.allowed[:, None, None, :]

    def pad(self, values: Tensor) -> Tensor:
        """(N, F) -> (n, L, F)."""
        if self.index is None:
            return values.view(-1, self.length, values.shape[-1])
        return values.index_select(0, self.index.flatten()).view(*self.index.shape, values.shape[-1])


@dataclass(frozen=True)
class Grouping:
    """A layout cut into groups.

    `inverse` (N,) finds each token among the groups' slots; None for a single unpadded group.
    `order` (n,) finds each sequence among the groups' sequences; None likewise.
    """

    groups: tuple[Group, ...]
    inverse: Tensor | None
    order: Tensor | None

    def pad(self, values: Tensor) -> list[Tensor]:
        """(N, F) -> one (n, L, F) tensor a group."""
        return [group.pad(values) for group in self.groups]

    def split(self, vectors: Tensor) -> list[Tensor]:
        """(n, ...), one vector a sequence -> one (n_group, ...) tensor a group."""
        if self.order is None:
            return [vectors]
        return [vectors.index_select(0, group.sequences) for group in self.groups]

    def unpad(self, padded: Sequence[Tensor]) -> Tensor:
        """One (n, L, F) tensor a group -> (N, F)."""
        slots = (
            torch.cat([part.reshape(-1, part.shape[-1]) for part in padded])
            if len(padded) > 1
            else padded[0].flatten(0, 1)
        )
        return slots if self.inverse is None else slots.index_select(0, self.inverse)

    def restore(self, vectors: Sequence[Tensor]) -> Tensor:
        """One (n_group, ...) tensor a group -> (n, ...) in the layout's order of sequences."""
        stacked = torch.cat(list(vectors)) if len(vectors) > 1 else vectors[0]
        return stacked if self.order is None else stacked.index_select(0, self.order)


def _cut_points(lengths: np.ndarray, overhead: int) -> list[int]:
    """Cuts lengths sorted in descending order into runs whose padding wastes at most `overhead` token pairs."""
    cuts, waste, longest = [0], 0, int(lengths[0])
    for position, length in enumerate(lengths.tolist()):
        waste += longest * longest - length * length
        if waste > overhead:
            cuts.append(position)
            waste, longest = 0, length
    return [*cuts, len(lengths)]


def grouping(layout: Layout | Slots, device: torch.device) -> Grouping | slots.Grouping:
    """Groups of similar length for `layout`, their index tensors on `device`."""
    return slots.grouping(layout) if isinstance(layout, Slots) else _grouping(layout, device)


@index_cache(32)
def _grouping(layout: Layout, device: torch.device) -> Grouping:
    lengths = np.asarray(layout.lengths)
    offsets = np.asarray(layout.offsets)
    if (lengths == lengths[0]).all():
        whole = Group(None, None, torch.arange(len(lengths), device=device), int(lengths[0]))
        return Grouping((whole,), None, None)
    by_length = np.argsort(-lengths, kind="stable")
    cuts = _cut_points(lengths[by_length], GROUP_OVERHEAD.get(device.type, GROUP_OVERHEAD_ELSEWHERE))
    groups, inverse, slot = [], np.empty(layout.tokens, np.int64), 0
    for start, stop in itertools.pairwise(cuts):
        members = by_length[start:stop]
        longest = int(lengths[members[0]])
        steps = np.arange(longest)
        real = steps < lengths[members, None]
        index = np.where(real, offsets[members, None] + steps, offsets[members, None])
        inverse[index[real]] = slot + np.flatnonzero(real)
        slot += index.size
        groups.append(
            Group(
                on_device(index, device),
                None if real.all() else on_device(real, device),
                on_device(members, device),
                longest,
            )
        )
    order = np.empty_like(by_length)
    order[by_length] = np.arange(len(by_length))
    return Grouping(tuple(groups), on_device(inverse, device), on_device(order, device))


def forget_groups() -> None:
    """Empties the cache of groups, whose cuts depend on `GROUP_OVERHEAD`."""
    _grouping.cache_clear()


@index_cache(64)
def _positions(lengths: tuple[int, ...], device: torch.device) -> Tensor:
    counts = np.array(lengths)
    return on_device(_spans(np.zeros_like(counts), counts), device)


def positions(layout: Layout | Slots, device: torch.device) -> Tensor:
    """(N,) place of every token within its sequence, from 0."""
    return slots.positions(layout) if isinstance(layout, Slots) else _positions(layout.lengths, device)


@index_cache(64)
def _first_tokens(offsets: tuple[int, ...], device: torch.device) -> Tensor:
    return on_device(offsets, device)


def first_tokens(layout: Layout | Slots, device: torch.device) -> Tensor:
    """(n,) position of every sequence's first token."""
    return slots.first_tokens(layout) if isinstance(layout, Slots) else _first_tokens(layout.offsets, device)


# ------------------------------------------------------------------------------ between sequences and batch rows


@index_cache(64)
def row_index(rows: tuple[int, ...], device: torch.device) -> Tensor:
    """Batch rows as an index tensor."""
    return on_device(np.array(rows, np.int64), device)


def rows_of(layout: Layout | Slots, device: torch.device) -> Tensor:
    """(n,) batch row of every sequence; of a slot of nobody, some row."""
    return slots.some_row(layout) if isinstance(layout, Slots) else row_index(layout.rows, device)


def rows_or_beyond(layout: Layout | Slots, device: torch.device) -> Tensor:
    """(n,) batch row of every sequence; B for a slot of nobody."""
    return layout.rows if isinstance(layout, Slots) else row_index(layout.rows, device)


def owned(layout: Layout | Slots) -> Tensor | None:
    """(n,) bool, which sequences are somebody's; None: all are."""
    return layout.used > 0 if isinstance(layout, Slots) else None


def only_owned(vectors: Tensor, layout: Layout | Slots) -> Tensor:
    """The sequences' vectors (n, ...), zero for slots of nobody."""
    return slots.only_owned(vectors, layout) if isinstance(layout, Slots) else vectors


def take(of_rows: Tensor, layout: Layout | Slots) -> Tensor:
    """What belongs to each sequence's batch row: (B, ...) -> (n, ...)."""
    return of_rows.index_select(0, rows_of(layout, of_rows.device))


def put(of_rows: Tensor, layout: Layout | Slots, vectors: Tensor) -> Tensor:
    """`of_rows` (B, ...) with the sequences' vectors (n, ...) in place of those of their batch rows."""
    vectors = vectors.to(of_rows.dtype)
    if isinstance(layout, Slots):
        return slots.put(of_rows, layout, vectors)
    return of_rows.index_copy(0, rows_of(layout, of_rows.device), vectors)


def add(of_rows: Tensor, layout: Layout | Slots, vectors: Tensor) -> Tensor:
    """`of_rows` (B, ...) plus the sequences' vectors (n, ...) at their batch rows."""
    return of_rows.index_add(0, rows_of(layout, of_rows.device), only_owned(vectors, layout))


@index_cache(32)
def _owners_and_counts(layout: Layout, device: torch.device) -> tuple[Tensor, Tensor]:
    """(N,) sequence of every token, and (n, 1) number of tokens of every sequence."""
    owners = np.repeat(np.arange(len(layout)), layout.lengths)
    return on_device(owners, device), on_device(np.array(layout.lengths, np.float64)[:, None], device)


def token_means(packed: Packed) -> Tensor:
    """Mean token of each sequence: packed (N, D) -> (n, D)."""
    if isinstance(packed.layout, Slots):
        return slots.token_means(packed)
    values = packed.values
    owners, counts = _owners_and_counts(packed.layout, values.device)
    total = values.new_zeros(len(packed.layout), values.shape[-1]).index_add(0, owners, values)
    return total / counts.to(values.dtype)


def mean_by_row(packed: Packed, size: int) -> Tensor:
    """Mean token of each of `size` batch rows, zero where it has no token: packed (N, D) -> (size, D)."""
    return put(packed.values.new_zeros(size, packed.values.shape[-1]), packed.layout, token_means(packed))


# ------------------------------------------------------------------------------------------------------- joining


def unit_layout(rows: Sequence[int]) -> Layout:
    """One token for each of `rows`."""
    return Layout((1,) * len(rows), tuple(rows))


def units(layout: Layout | Slots) -> Layout | Slots:
    """One token in place of each sequence."""
    return slots.units(layout) if isinstance(layout, Slots) else unit_layout(layout.rows)


def beside(layouts: Sequence[Layout | Slots]) -> Layout | Slots:
    """The sequences of all layouts, one layout after another."""
    if isinstance(layouts[0], Slots):
        return slots.beside(layouts)
    lengths, rows = ([number for layout in layouts for number in getattr(layout, name)] for name in ("lengths", "rows"))
    return Layout(tuple(lengths), tuple(rows))


def together(parts: Sequence[Packed]) -> Packed:
    """The sequences of all parts, one part after another; tokens (N, D) of all."""
    if isinstance(parts[0].layout, Slots):
        return slots.together(parts)
    return Packed(torch.cat([part.values for part in parts]), beside([part.layout for part in parts]))


def apart(values: Tensor, layout: Layout | Slots, parts: Sequence[Packed]) -> list[Tensor]:
    """What `together` has put together: values (N, any) of all tokens -> those of each part's tokens."""
    if isinstance(layout, Slots):
        return slots.apart(values, layout, parts)
    return list(values.split([part.layout.tokens for part in parts]))


def everyone(size: int, like: Layout | Slots, count: int = 1) -> Layout | Slots:
    """`count` tokens for each of the batch's `size` rows, in the form of `like`."""
    if isinstance(like, Slots):
        return slots.everyone(like, count)
    return Layout((count,) * size, tuple(range(size)))


def starts_of(lengths: np.ndarray) -> np.ndarray:
    """Where each of several runs begins if they lie end to end."""
    return np.cumsum(lengths) - lengths


def _spans(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """start, start + 1, ..., of each span in turn, `lengths` numbers of each.

    >>> _spans(np.array([5, 0]), np.array([2, 3])).tolist()
    [5, 6, 0, 1, 2]
    """
    return np.arange(lengths.sum()) + np.repeat(starts - starts_of(lengths), lengths)


@index_cache(32)
def _join_plan(layouts: tuple[Layout, ...], device: torch.device) -> tuple[Layout, Tensor, tuple[Tensor, ...]]:
    for layout in layouts:
        if any(a >= b for a, b in itertools.pairwise(layout.rows)):
            raise ValueError(f"rows {layout.rows}; sequences can be joined if each row occurs once, in ascending order")
    rows = np.concatenate([layout.rows for layout in layouts])
    counts = np.concatenate([layout.lengths for layout in layouts])
    order = np.argsort(rows, kind="stable")  # by row, then by part
    source = _spans(starts_of(counts)[order], counts[order])
    target = np.empty_like(source)
    target[source] = np.arange(len(source))
    own, first = np.unique(rows[order], return_index=True)
    lengths = np.add.reduceat(counts[order], first)
    bounds = np.cumsum([0] + [layout.tokens for layout in layouts])
    where = tuple(on_device(target[a:b], device) for a, b in itertools.pairwise(bounds))
    joint = Layout(tuple(lengths.tolist()), tuple(own.tolist()))
    return joint, on_device(source, device), where


@dataclass(frozen=True)
class Joined:
    """Joint sequences; `where[i]` holds the positions, among the joint tokens, of part i's tokens in their order."""

    packed: Packed
    where: tuple[Tensor, ...]


def join(parts: Sequence[Packed]) -> Joined:
    """Joins sequences of equal batch rows, in the order of the parts; rows ascend, and may be missing from a part."""
    if isinstance(parts[0].layout, Slots):
        return Joined(*slots.join(parts))
    values = torch.cat([part.values for part in parts])
    layout, source, where = _join_plan(tuple(part.layout for part in parts), values.device)
    return Joined(Packed(values.index_select(0, source), layout), where)


def prepend(first: Tensor, packed: Packed) -> Joined:
    """Sequences with K more tokens each in front: (n, K, D), (N, D) -> n sequences, (n * K + N, D).

    `where` of the result says where the tokens in front are, sequence by sequence, and where the others.
    """
    if isinstance(packed.layout, Slots):
        return Joined(*slots.prepend(first, packed))
    layout = Layout((first.shape[1],) * len(packed.layout), packed.layout.rows)
    return join([Packed(first.flatten(0, 1), layout), packed])


def repeat_token(token: Tensor, layout: Layout | Slots) -> Tensor:
    """A learned token (D,) in front of every sequence, as `prepend` takes it: (n, 1, D)."""
    return token.expand(len(layout), 1, -1)
