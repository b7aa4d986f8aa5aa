"""The plan of one epoch for several seeds side by side: which sample lies in which slot of which step.

Everything is computed for many steps at once from arrays of the samples; no sample is looked at on its own.

Legend: S seeds, T steps, B samples of a seed's batch, n samples of the task.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from benchmark.data.augmentation import affine_maps
from benchmark.data.batches import BatchSource
from benchmark.data.dataset import Samples
from benchmark.data.stores import RaggedStore
from models.room import Room

BLOCK = 128
"""Batches of a seed that are planned at a time: few enough that an epoch begins at once."""


@dataclass(frozen=True)
class EpochPlan:
    """T steps of an epoch.

    A seed's batch always goes into the smallest room that holds it, whatever room the others need, so that its shapes,
    and with them its random numbers, do not depend on who trains beside it. So a step is done once for each room that
    any seed needs, and the seeds that need another one sit it out.

    Attributes:
        rooms: (T) the room of each step. steps: (T) its number in the epoch, the same for all its rooms.
        tables: arrays (T, S, ...) by name. `present`, `sample`, `y`, `known` and `alive` as in `StackedBatch`. For the
            slots of a modality, as many as there are samples, largest first: `..._rows` and `..._used` as there,
            `..._first` row of the store where the slot's sequence begins; `ehr_tail` row of the tail store, -1 if
            none; `film` row of the film store, -1 for a slot of nobody; `film_map` (2, 3) its affine map.
    """

    rooms: tuple[Room, ...]
    steps: tuple[int, ...]
    tables: dict[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.rooms)


def film_tokens(source: BatchSource) -> int:
    """Tokens of a film."""
    return (source.dimensions.film // source.dimensions.patch) ** 2


def token_lengths(source: BatchSource, samples: Samples) -> np.ndarray:
    """(n, M) int64 tokens of each modality that batches of the source hold of its samples; 0 where absent."""
    hours = np.minimum(samples.hours.astype(np.int64), source.dimensions.hours)
    tokens = np.zeros_like(hours)
    if source.notes is not None and len(source.notes):
        tokens = np.minimum(source.notes.lengths[np.maximum(samples.note, 0)], source.dimensions.note_tokens)
    lengths = np.stack([hours, np.full_like(hours, film_tokens(source)), tokens], axis=1)
    return lengths * source.presence(samples)


def plan_epoch(
    source: BatchSource, seeds: Sequence[int], number: int, batch_size: int, rooms: Sequence[Room], block: int = BLOCK
) -> Iterator[EpochPlan]:
    """Steps whose batch of each seed is that of `source.epoch(seed, number, batch_size)`, some at a time.

    A step in which no seed has a known label is left out.

    Args:
        rooms: in growing order; the last one holds every batch. block: batches of a seed that are planned at a time.
    """
    draw = source.note_draw(number)
    notes = source.notes if draw is None else source.data.notes(source.encoder, draw)
    of_seeds = [_Shuffled.of(source, seed, number, batch_size, notes) for seed in seeds]
    for start in range(0, len(of_seeds[0].order), block):
        own = [shuffled.slots(source, start, start + block) for shuffled in of_seeds]
        yield _plan({name: np.stack([tables[name] for tables in own], axis=1) for name in own[0]}, start, rooms)


def _plan(tables: dict[str, np.ndarray], first: int, rooms: Sequence[Room]) -> EpochPlan:
    """The plan of steps `first` and following from tables as `_Shuffled.slots` makes them, of all seeds."""
    fits = _fitting(tables.pop("lengths"), rooms)
    need = fits.argmax(0)  # (T, S)
    wanted = (need[:, :, None] == np.arange(len(rooms))) & tables["alive"][:, :, None]  # (T, S, R)
    step, room = np.nonzero(wanted.any(1))
    content = np.arange(need.shape[1])  # whose batch a seed is given; where its own does not fit, that of one that does
    content = np.where(fits[room, step], content, wanted[step, :, room].argmax(1)[:, None])
    tables = {name: table[step[:, None], content] for name, table in tables.items()}
    tables["alive"] = wanted[step, :, room]
    return EpochPlan(tuple(rooms[place] for place in room), tuple((first + step).tolist()), tables)


def _fitting(lengths: np.ndarray, rooms: Sequence[Room]) -> np.ndarray:
    """(R, T, S) bool, which room holds which batch, from its (T, S, B, M) tokens.

    A larger room need not have larger bounds everywhere, and so need not hold what a smaller one does.
    """
    fits = np.stack([room.fits(lengths) for room in rooms])
    if not fits.any(0).all():
        raise ValueError(f"no room holds the batches of step {int(np.argmin(fits.any(0).all(1)))}; {rooms[-1]}")
    return fits


@dataclass(frozen=True)
class _Shuffled:
    """The samples of one seed in one epoch.

    Attributes:
        order: (T, B) samples of each batch. samples: at the epoch's hours. lengths: (n, M) tokens.
        series_first, note_first: (n,) row of the store where a sample's hours or note begin; anything if it has none.
        draws: (n, DRAWS) numbers of each film's augmentation; None for none.
    """

    order: np.ndarray
    samples: Samples
    lengths: np.ndarray
    series_first: np.ndarray
    note_first: np.ndarray
    draws: np.ndarray | None

    @classmethod
    def of(cls, source: BatchSource, seed: int, number: int, batch_size: int, notes: RaggedStore | None) -> _Shuffled:
        batch_size, samples = min(batch_size, len(source)), source.drawn(seed, number)
        lengths = token_lengths(source, samples)
        return cls(
            order=source.order(seed, number)[: source.samples_an_epoch(batch_size)].reshape(-1, batch_size),
            samples=samples,
            lengths=lengths,
            series_first=source.data.series.offsets[samples.series] + samples.hours - lengths[:, 0],
            note_first=np.zeros(len(samples), np.int64) if notes is None else notes.offsets[samples.note],
            draws=source.draws(seed, number),
        )

    def slots(self, source: BatchSource, start: int, stop: int) -> dict[str, np.ndarray]:
        """The tables of `EpochPlan` (T, ...) for some batches, and their `lengths` (T, B, M)."""
        chosen, samples = self.order[start:stop], self.samples
        labels, lengths = samples.labels[chosen], self.lengths[chosen]
        y, known = source.targets(labels)
        ehr, film, note = (_largest_first(chosen, lengths[..., m]) for m in range(3))
        tables = {
            "present": lengths > 0,
            "sample": samples.sample[chosen],
            "y": y,
            "known": known,
            "alive": np.isfinite(labels).any((1, 2)),
            "lengths": lengths,
            "ehr_rows": ehr.rows,
            "ehr_used": ehr.used,
            "ehr_first": self.series_first[ehr.samples],
            "ehr_tail": samples.tail[ehr.samples],
            "film_rows": film.rows,
            "film": np.where(film.used > 0, samples.film[film.samples], -1),
            "note_rows": note.rows,
            "note_used": note.used,
            "note_first": self.note_first[note.samples],
        }
        if self.draws is not None:
            tables["film_map"] = affine_maps(source.settings, self.draws[film.samples])
        return tables


@dataclass(frozen=True)
class _Sorted:
    """Slots of one modality, (T, B) each: owner's row in the batch (B for nobody), owner, and its number of tokens."""

    rows: np.ndarray
    samples: np.ndarray
    used: np.ndarray


def _largest_first(chosen: np.ndarray, lengths: np.ndarray) -> _Sorted:
    """Slots for batches (T, B) of samples with (T, B) tokens; those of equal length in the order of the batch."""
    order = np.argsort(-lengths, axis=1, kind="stable")
    used = np.take_along_axis(lengths, order, 1)
    rows = np.where(used > 0, order, lengths.shape[1])
    return _Sorted(rows, np.take_along_axis(chosen, order, 1), used)
