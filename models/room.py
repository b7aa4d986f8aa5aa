"""Room for batches of fixed shapes, and packed batches put into it.

A `Room` says how many sequences and tokens of each modality a batch may have. A batch fits if each of its sequences,
sorted by length, keeps to the bound of its place, and all of them together to the number of tokens; the sequences then
lie end to end. The bounds of single sequences cost nothing but blocks of kernels that find nothing to do; what filler
costs is decided by the number of tokens, and sums of random batches differ little.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from models.contract import Batch, Films, Packed, Slots
from models.layout import Bounds, on_device


@dataclass(frozen=True)
class Room:
    """Room for batches of B samples.

    Attributes:
        ehr, note: bounds of the sequences of a modality, longest first. cxr: number of films. film_tokens: tokens of a
            film. joint: bounds of each sample's tokens of all modalities together, B numbers, largest first.
    """

    ehr: Bounds
    cxr: int
    note: Bounds
    joint: Bounds
    film_tokens: int

    @property
    def size(self) -> int:
        """B."""
        return len(self.joint)

    @property
    def tokens(self) -> int:
        """Tokens of all modalities together, filler included."""
        return self.joint.tokens

    @property
    def parts(self) -> tuple[Bounds, Bounds, Bounds, Bounds]:
        """Bounds of series, films, notes, and whole samples."""
        return (self.ehr, Bounds.full((self.film_tokens,) * self.cxr), self.note, self.joint)

    def fits(self, lengths: np.ndarray) -> np.ndarray:
        """Whether batches (..., B, M) of tokens of each modality, 0 where absent, go into it: (...) bool."""
        needs = zip(self.parts, sorted_needs(lengths), strict=True)
        return np.logical_and.reduce([_keep_to(bounds, need) for bounds, need in needs])


def sorted_needs(lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(..., B, M) tokens -> (..., B) of series, films, notes and whole samples, each largest first."""
    ehr, cxr, note = np.moveaxis(lengths, -1, 0)
    return tuple(-np.sort(-part, axis=-1) for part in (ehr, cxr, note, ehr + cxr + note))


def _keep_to(bounds: Bounds, need: np.ndarray) -> np.ndarray:
    """(...) bool, whether sorted needs (..., B) keep to the bounds."""
    most = np.zeros(need.shape[-1], np.int64)
    most[: len(bounds)] = bounds.lengths[: len(most)]
    return (need <= most).all(-1) & (need.sum(-1) <= bounds.tokens)


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
        ehr=_sequences(batch.ehr, room.ehr, room),
        cxr=_films(batch.cxr, room),
        note=_sequences(batch.note, room.note, room),
        present=batch.present,
        task=batch.task,
        sample=batch.sample,
    )


def _sequences(part: Packed | None, bounds: Bounds, room: Room) -> Packed | None:
    if part is None:
        return None
    order = np.argsort(-np.asarray(part.layout.lengths), kind="stable")
    rows, used = np.full(len(bounds), room.size), np.zeros(len(bounds), np.int64)
    rows[: len(order)], used[: len(order)] = np.asarray(part.layout.rows)[order], np.asarray(part.layout.lengths)[order]
    sequences = part.values.split(part.layout.lengths)
    filler = part.values.new_zeros(bounds.tokens - part.layout.tokens, part.values.shape[1])
    values = torch.cat([*(sequences[place] for place in order), filler])
    device = values.device
    layout = Slots.end_to_end(bounds, on_device(rows, device), on_device(used, device), room.size, room.joint)
    return Packed(values, layout)


def _films(films: Films | None, room: Room) -> Films | None:
    if films is None:
        return None
    filler = room.cxr - len(films.rows)
    pixels = torch.cat([films.pixels, films.pixels.new_zeros(filler, *films.pixels.shape[1:])])
    rows: Tensor = on_device([*films.rows, *[room.size] * filler], pixels.device)
    return Films(pixels, rows, room.joint)
