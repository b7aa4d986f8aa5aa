"""The plan of one epoch for several seeds side by side: which sample lies in which slot of which step.

Everything is computed for all steps at once from arrays of the samples; no sample is looked at on its own.

Legend: S seeds, T steps, B samples of a seed's batch, n samples of the task.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benchmark.data.augmentation import affine_maps
from benchmark.data.batches import BatchSource
from benchmark.data.dataset import Samples
from benchmark.data.rooms import slot_rooms, sorted_needs
from benchmark.data.stores import RaggedStore
from models.room import Room


@dataclass(frozen=True)
class EpochPlan:
    """An epoch of T steps.

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
    source: BatchSource, seeds: Sequence[int], number: int, batch_size: int, rooms: Sequence[Room]
) -> EpochPlan:
    """Steps whose batch of each seed is that of `source.epoch(seed, number, batch_size)`.

    A step in which no seed has a known label is left out.

    Args:
        rooms: in growing order; the last one holds every batch.
    """
    batch_size = min(batch_size, len(source))
    draw = source.note_draw(number)
    notes = source.notes if draw is None else source.data.notes(source.encoder, draw)
    of_seeds = [_of_seed(source, seed, number, batch_size, notes) for seed in seeds]
    tables = {name: np.stack([own[name] for own in of_seeds], axis=1) for name in of_seeds[0]}
    need = _rooms_of_batches(tables.pop("lengths"), rooms)  # (T, S)
    wanted = (need[:, :, None] == np.arange(len(rooms))) & tables["alive"][:, :, None]  # (T, S, R)
    step, room = np.nonzero(wanted.any(1))
    content = np.arange(len(seeds))  # whose batch a seed is given; where its own does not fit, that of one that does
    content = np.where(need[step] <= room[:, None], content, wanted[step, :, room].argmax(1)[:, None])
    tables = {name: table[step[:, None], content] for name, table in tables.items()}
    tables["alive"] = wanted[step, :, room]
    return EpochPlan(tuple(rooms[place] for place in room), tuple(step.tolist()), tables)


def _rooms_of_batches(lengths: np.ndarray, rooms: Sequence[Room]) -> np.ndarray:
    """(T, S) place of the smallest room that holds each batch, from its (T, S, B, M) tokens."""
    needs = sorted_needs(lengths)
    fit = [
        np.all([(need <= slots).all(2) for need, slots in zip(needs, slot_rooms(room), strict=True)], axis=0)
        for room in rooms
    ]
    if not np.any(fit, axis=0).all():
        raise ValueError(f"no room holds the batches of step {int(np.argmin(np.any(fit, 0).all(1)))}; {rooms[-1]}")
    return np.argmax(fit, axis=0)


def _of_seed(
    source: BatchSource, seed: int, number: int, batch_size: int, notes: RaggedStore | None
) -> dict[str, np.ndarray]:
    """One seed's part of the plan's tables, and `lengths` (T, B, M) of the batches; arrays (T, ...)."""
    samples, order = source.drawn(seed, number), source.order(seed, number)
    chosen = order[: source.samples_an_epoch(batch_size)].reshape(-1, batch_size)  # (T, B)
    labels = samples.labels[chosen]
    y, known = source.targets(labels)
    lengths = token_lengths(source, samples)
    plan = {
        "present": source.presence(samples)[chosen],
        "sample": samples.sample[chosen],
        "y": y,
        "known": known,
        "alive": np.isfinite(labels).any((1, 2)),
        "lengths": lengths[chosen],
    }
    # What absent samples say below is never used.
    series_first = source.data.series.offsets[samples.series] + samples.hours - lengths[:, 0]
    plan |= _slots("ehr", lengths[:, 0], chosen, {"ehr_first": series_first, "ehr_tail": samples.tail})
    note_first = np.zeros(len(samples), np.int64) if notes is None else notes.offsets[samples.note]
    plan |= _slots("note", lengths[:, 2], chosen, {"note_first": note_first})
    draws = source.draws(seed, number)
    of_films = {"film": np.where(lengths[:, 1] > 0, samples.film, -1)}
    if draws is not None:
        of_films["film_map"] = affine_maps(source.settings, draws)
    plan |= _slots("film", lengths[:, 1], chosen, of_films)
    del plan["film_used"]
    return plan


def _slots(name: str, lengths: np.ndarray, chosen: np.ndarray, more: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Sequences in slots, largest first, those of equal length in the order of the batch.

    Args:
        lengths: (n,) tokens of each sample. chosen: (T, B) samples. more: (n, ...) by name.

    Returns:
        `..._rows`, `..._used` and, by name, `more` of each slot, all (T, B, ...).
    """
    need = lengths[chosen]
    order = np.argsort(-need, axis=1, kind="stable")
    used = np.take_along_axis(need, order, 1)
    own = np.take_along_axis(chosen, order, 1)
    rows = np.where(used > 0, order, chosen.shape[1])
    return {f"{name}_rows": rows, f"{name}_used": used} | {key: values[own] for key, values in more.items()}
