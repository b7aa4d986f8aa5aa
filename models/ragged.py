"""Packed sequences: joining them, padding them by length groups for attention, and bringing vectors back to batch rows.

All index arithmetic happens on the host from `Layout`s, which are values: equal layouts share their index tensors
through a small cache. Nothing here reads a device tensor, so a step never waits for the device.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from models.contract import Layout, Packed

GROUP_OVERHEAD = {"cpu": 20_000}
GROUP_OVERHEAD_ELSEWHERE = 2_000_000
"""Token pairs that may be wasted by padding before another group is opened: what a group's own kernel launches cost,
by type of device. Elsewhere than on a CPU launches dominate; that number is not measured on a GPU so far."""


def on_device(values: np.ndarray | Tensor | Sequence, device: torch.device) -> Tensor:
    """A tensor of host values on `device`; the host does not wait for the copy, as it would in `torch.tensor`."""
    return torch.as_tensor(values).to(device, non_blocking=True)


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


@lru_cache(maxsize=32)
@torch.inference_mode(False)  # cached tensors outlive the mode they are made in
def grouping(layout: Layout, device: torch.device) -> Grouping:
    """Groups of similar length for `layout`, their index tensors on `device`."""
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


@lru_cache(maxsize=32)
@torch.inference_mode(False)  # cached tensors outlive the mode they are made in
def positions(layout: Layout, device: torch.device) -> Tensor:
    """(N,) place of every token within its sequence, from 0."""
    return on_device(np.concatenate([np.arange(length) for length in layout.lengths]), device)


@lru_cache(maxsize=32)
@torch.inference_mode(False)  # cached tensors outlive the mode they are made in
def first_tokens(layout: Layout, device: torch.device) -> Tensor:
    """(n,) position of every sequence's first token."""
    return on_device(layout.offsets, device)


@lru_cache(maxsize=64)
@torch.inference_mode(False)  # cached tensors outlive the mode they are made in
def row_index(rows: tuple[int, ...], device: torch.device) -> Tensor:
    """Batch rows as an index tensor."""
    return on_device(np.array(rows, np.int64), device)


@lru_cache(maxsize=32)
@torch.inference_mode(False)  # cached tensors outlive the mode they are made in
def _rows_and_counts(layout: Layout, size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """(N,) batch row of every token, and (size, 1) number of tokens of every batch row, 1 where it has none."""
    counts = np.ones((size, 1))
    counts[list(layout.rows), 0] = layout.lengths
    return on_device(np.repeat(layout.rows, layout.lengths), device), on_device(counts, device)


def mean_by_row(packed: Packed, size: int) -> Tensor:
    """Mean token of each of `size` batch rows, zero where it has no token: packed (N, D) -> (size, D)."""
    values = packed.values
    rows, counts = _rows_and_counts(packed.layout, size, values.device)
    return values.new_zeros(size, values.shape[-1]).index_add(0, rows, values) / counts.to(values.dtype)


def unit_layout(rows: Sequence[int]) -> Layout:
    """One token for each of `rows`."""
    return Layout((1,) * len(rows), tuple(rows))


@lru_cache(maxsize=32)
@torch.inference_mode(False)  # cached tensors outlive the mode they are made in
def _join_plan(layouts: tuple[Layout, ...], device: torch.device) -> tuple[Layout, Tensor, tuple[Tensor, ...]]:
    for layout in layouts:
        if any(a >= b for a, b in itertools.pairwise(layout.rows)):
            raise ValueError(f"rows {layout.rows}; sequences can be joined if each row occurs once, in ascending order")
    pieces = [  # (row, part, length) of every sequence, ordered by row, then by part
        (row, part, length)
        for part, layout in enumerate(layouts)
        for row, length in zip(layout.rows, layout.lengths, strict=True)
    ]
    order = sorted(range(len(pieces)), key=lambda piece: pieces[piece][:2])
    starts = np.cumsum([0] + [length for _, _, length in pieces])
    source = np.concatenate([np.arange(starts[piece], starts[piece + 1]) for piece in order])
    target = np.empty_like(source)
    target[source] = np.arange(len(source))
    lengths: dict[int, int] = {}
    for piece in order:
        row, _, length = pieces[piece]
        lengths[row] = lengths.get(row, 0) + length
    bounds = np.cumsum([0] + [layout.tokens for layout in layouts])
    where = tuple(on_device(target[a:b], device) for a, b in itertools.pairwise(bounds))
    joint = Layout(tuple(lengths.values()), tuple(lengths))
    return joint, on_device(source, device), where


@dataclass(frozen=True)
class Joined:
    """Joint sequences; `where[i]` holds the positions, among the joint tokens, of part i's tokens in their order."""

    packed: Packed
    where: tuple[Tensor, ...]


def join(parts: Sequence[Packed]) -> Joined:
    """Joins sequences of equal batch rows, in the order of the parts; rows ascend, and may be missing from a part."""
    values = torch.cat([part.values for part in parts])
    layout, source, where = _join_plan(tuple(part.layout for part in parts), values.device)
    return Joined(Packed(values.index_select(0, source), layout), where)


def repeat_token(token: Tensor, rows: Sequence[int]) -> Packed:
    """A learned token (D,) once for each of `rows`, as sequences of length one."""
    return Packed(token.expand(len(rows), -1), unit_layout(rows))
