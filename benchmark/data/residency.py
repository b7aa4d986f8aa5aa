"""The content of a data set's stores where training on a device can reach it: on the device if it fits, or fetched.

A `Table` is the rows of one or several arrays, one after another, and a last row of zeros for filler. A resident table
lies on the device, where a step picks its rows. A mapped one stays in its file; rows are gathered into page-locked
memory and copied to the device beside the step before.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from benchmark.data.batches import BatchSource
from benchmark.data.dataset import PreparedData

FREE_SHARE = 0.5
"""Share of a GPU's free memory that stores may take if no budget is given."""

_BLOCK = 2**26
"""Bytes that are copied to a device at a time."""

T = TypeVar("T")

Sent = tuple[dict[str, Tensor], "torch.cuda.Event | None"]
"""Tensors on their way to a device, and what tells when they are there."""


class Table:
    """Rows of several arrays and a row of zeros.

    Args:
        parts: arrays (any, ...) of equal type and row shape. device: where rows go.
        resident: whether they are copied there now.
    """

    def __init__(self, parts: Sequence[np.ndarray], device: torch.device, resident: bool) -> None:
        self.parts = [np.asarray(part) for part in parts]
        self.device = device
        self.starts = np.cumsum([0, *(len(part) for part in self.parts)])
        self.filler = int(self.starts[-1])  # index of the row of zeros
        self.content: Tensor | None = self._copied() if resident else None

    @property
    def resident(self) -> bool:
        return self.content is not None

    def pick(self, index: Tensor) -> Tensor:
        """Rows (any, ...) of a resident table; `index` (any,) lies on its device."""
        return self.content.index_select(0, index)

    def fetch(self, index: np.ndarray) -> Tensor:
        """Rows (any, ...) of a mapped table, on the host: in page-locked memory if the device is a GPU."""
        first = self.parts[0]
        shape = (len(index), *first.shape[1:])
        rows = torch.empty(shape, dtype=_torch_type(first), pin_memory=self.device.type == "cuda")
        out = rows.numpy()
        if len(first):  # nearly all rows are of the first part; the others are written over what was taken for them
            np.take(first, np.minimum(index, len(first) - 1), axis=0, out=out, mode="clip")
        for part, start, stop in zip(self.parts[1:], self.starts[1:-1], self.starts[2:], strict=True):
            own = np.flatnonzero((start <= index) & (index < stop))
            out[own] = part[index[own] - start]
        out[index == self.filler] = 0
        return rows

    def _copied(self) -> Tensor:
        first = self.parts[0]
        content = torch.empty((self.filler + 1, *first.shape[1:]), dtype=_torch_type(first), device=self.device)
        content[self.filler].zero_()
        rows = max(1, _BLOCK // max(1, first[:1].nbytes))
        for part, start in zip(self.parts, self.starts[:-1].tolist(), strict=True):
            for begin in range(0, len(part), rows):
                block = np.array(part[begin : begin + rows], dtype=first.dtype)
                content[start + begin : start + begin + len(block)].copy_(torch.from_numpy(block))
        return content


def _torch_type(values: np.ndarray) -> torch.dtype:
    return torch.from_numpy(np.empty(0, values.dtype)).dtype


class DeviceStores:
    """The stores of a data set as tables of one device, shared by all tasks and seeds that train on it.

    As many are resident as fit into the budget: first series, then notes, then films. What a step moves of each is
    most for notes; a series costs little memory.

    Args:
        data: the data set. encoder: of its notes, None for none. device: where batches are made.
        note_dropout: as in `BatchSource`; all draws are resident, or none.
        budget: bytes that resident stores may take; by default on a GPU a share of its free memory, elsewhere none.

    Attributes:
        series: rows of the series store, then those of the tail store. films: films of 256 pixels a side.
        notes: one table for each draw of the note encoder's dropout, or a single one.
        first_tail: row of `series` where tails begin.
    """

    def __init__(
        self,
        data: PreparedData,
        encoder: str | None,
        device: torch.device,
        note_dropout: int = 0,
        budget: int | None = None,
    ) -> None:
        self.data, self.encoder, self.device, self.note_dropout = data, encoder, device, note_dropout
        draws = range(note_dropout) if note_dropout else (None,)
        notes = [data.notes(encoder, draw).values for draw in draws] if encoder else []
        room = free_memory(device) if budget is None else budget
        tables = []
        for parts in ([[data.series.values, data.tails]], [[values] for values in notes], [[data.films]]):
            size = sum(part.nbytes for table in parts for part in table)
            resident = size <= room
            room -= size if resident else 0
            tables.append([Table(part, device, resident) for part in parts])
        (self.series,), self.notes, (self.films,) = tables
        self.first_tail = len(data.series.values)

    def require(self, source: BatchSource) -> None:
        """Raises a ValueError if the source reads something else."""
        ours = (self.data.folder, self.encoder, self.device, self.note_dropout)
        theirs = (source.data.folder, source.encoder, source.device, source.note_dropout)
        if ours != theirs:
            raise ValueError(f"stores of {ours} for a source of {theirs}; folder, encoder, device, note_dropout differ")

    @property
    def resident(self) -> bool:
        """Whether all content lies on the device."""
        return all(table.resident for table in (self.series, self.films, *self.notes))


def free_memory(device: torch.device) -> int:
    """Bytes that stores may take by default."""
    return int(FREE_SHARE * torch.cuda.mem_get_info(device)[0]) if device.type == "cuda" else 0


class Courier:
    """Brings tensors from the host to a device while it computes."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def send(self, tensors: dict[str, Tensor]) -> Sent:
        """Begins to copy, in whatever thread; take the result to `receive`.

        Page-locked memory comes from torch's own pool, which lends it again only when the copy is done.
        """
        with nullcontext() if self.stream is None else torch.cuda.stream(self.stream):
            sent = {name: value.to(self.device, non_blocking=True) for name, value in tensors.items()}
            return sent, self.stream.record_event() if self.stream else None

    def receive(self, sent: dict[str, Tensor], done: torch.cuda.Event | None) -> dict[str, Tensor]:
        """The tensors on the device; its current stream, not the host, waits for the copy."""
        if done is not None:
            current = torch.cuda.current_stream(self.device)
            current.wait_event(done)
            for value in sent.values():
                value.record_stream(current)
        return sent


def ahead(items: Generator[T, None, None], depth: int) -> Generator[T, None, None]:
    """The same items, made by a thread that is `depth` of them ahead.

    The thread ends, and `items` is closed, with the iterator, also with one that is closed early or fails.
    """
    end = object()
    with ThreadPoolExecutor(1, thread_name_prefix="ahead") as pool:
        waiting = deque(pool.submit(next, items, end) for _ in range(depth))
        try:
            while (item := waiting.popleft().result()) is not end:
                waiting.append(pool.submit(next, items, end))
                yield item
        finally:
            pool.shutdown(cancel_futures=True)
            items.close()
