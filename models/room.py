"""Room for batches of fixed shapes, and packed batches put into it.

A `Room` says how many slots of which size there are for each modality. Sequences of a batch are sorted by length and
laid into the slots from the largest on, so a batch fits if each of its sorted lengths fits; rooms made from the sorted
lengths of many batches hold nearly all further ones with little filler.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from models.contract import Batch, Films, Packed, Slots
from models.layout import on_device


@dataclass(frozen=True)
class Room:
    """Room of a batch's slots, each largest first, for batches of B samples.

    Attributes:
        ehr, note: room of each slot in tokens. cxr: number of film slots. film_tokens: tokens of a film.
        joint: room of each sample's tokens of all modalities together, B numbers.
    """

    ehr: tuple[int, ...]
    cxr: int
    note: tuple[int, ...]
    joint: tuple[int, ...]
    film_tokens: int

    @property
    def size(self) -> int:
        """B."""
        return len(self.joint)

    @property
    def tokens(self) -> int:
        """Tokens of all modalities together, filler included."""
        return sum(self.ehr) + self.cxr * self.film_tokens + sum(self.note)

    def fits(self, lengths: np.ndarray) -> bool:
        """Whether samples with (B, M) tokens of each modality, 0 where absent, go into the slots."""
        slots = (self.ehr, (self.film_tokens,) * self.cxr, self.note, self.joint)
        return all(_fit(rooms, need) for rooms, need in zip(slots, [*lengths.T, lengths.sum(1)], strict=True))


def _fit(rooms: Sequence[int], need: np.ndarray) -> bool:
    largest = -np.sort(-need[need > 0])
    return len(largest) <= len(rooms) and bool((largest <= np.asarray(rooms[: len(largest)])).all())


def lengths_of(batch: Batch, film_tokens: int) -> np.ndarray:
    """(B, M) tokens of each sample of a packed batch."""
    lengths = np.zeros((batch.size, 3), np.int64)
    for m, part in ((0, batch.ehr), (2, batch.note)):
        if part is not None:
            lengths[list(part.layout.rows), m] = part.layout.lengths
    if batch.cxr is not None:
        lengths[list(batch.cxr.rows), 1] = film_tokens
    return lengths


def into_slots(batch: Batch, room: Room) -> Batch:
    """A packed batch in its fixed form; filler is zero.

    Raises:
        ValueError: it does not fit.
    """
    if batch.size != room.size or not room.fits(lengths_of(batch, room.film_tokens)):
        raise ValueError(f"a batch of {batch.size} samples does not fit into {room}")
    return Batch(
        ehr=_sequences(batch.ehr, room.ehr, room, batch.device),
        cxr=_films(batch.cxr, room),
        note=_sequences(batch.note, room.note, room, batch.device),
        present=batch.present,
        task=batch.task,
        sample=batch.sample,
    )


def _sequences(part: Packed | None, rooms: tuple[int, ...], room: Room, device: torch.device) -> Packed | None:
    if part is None:
        return None
    order = np.argsort(-np.asarray(part.layout.lengths), kind="stable")
    rows, used = np.full(len(rooms), room.size), np.zeros(len(rooms), np.int64)
    rows[: len(order)], used[: len(order)] = np.asarray(part.layout.rows)[order], np.asarray(part.layout.lengths)[order]
    values = part.values.new_zeros(sum(rooms), part.values.shape[1])
    sequences, starts = part.values.split(part.layout.lengths), np.cumsum([0, *rooms])
    for slot, sequence in enumerate(order):
        values[starts[slot] : starts[slot] + used[slot]] = sequences[sequence]
    return Packed(values, Slots(rooms, on_device(rows, device), on_device(used, device), room.size, room.joint))


def _films(films: Films | None, room: Room) -> Films | None:
    if films is None:
        return None
    filler = room.cxr - len(films.rows)
    pixels = torch.cat([films.pixels, films.pixels.new_zeros(filler, *films.pixels.shape[1:])])
    rows: Tensor = on_device([*films.rows, *[room.size] * filler], pixels.device)
    return Films(pixels, rows, room.joint)
