"""Rooms for the batches of a task: how much a batch of fixed shapes must hold, from the lengths of its samples.

Sorted by length, the sequences of random batches differ little: the i-th longest of 32 is nearly the same each time. So
a room whose i-th slot holds the i-th longest sequence of 99 of 100 batches has little filler. Slots are merged into a
few runs of equal room, for every run is padded and attended to by operations of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce

import numpy as np

from models.room import Room

RUNS = 6
"""Most runs of equal room among the slots of one modality."""

SHARES = (0.99, 0.9999)
"""Shares of all batches that the smaller rooms hold."""

SIMULATED = 4000
"""Random batches that rooms are made from."""


def make_rooms(
    lengths: np.ndarray,
    batch_size: int,
    film_tokens: int,
    longest: np.ndarray | None = None,
    shares: tuple[float, ...] = SHARES,
    runs: int = RUNS,
) -> tuple[Room, ...]:
    """Rooms of growing size for random batches of `batch_size` of n samples; the last one holds every batch.

    Args:
        lengths: (n, M) tokens of each modality of each sample, 0 where absent. If they change from epoch to epoch,
            those of several epochs, one after another. film_tokens: tokens of a film.
        longest: (n', M) the most tokens that each sample ever has; `lengths` if they never change.
        shares: of all batches that each smaller room holds, about.

    Returns:
        Rooms, each larger than the one before; fewer than asked for where a smaller one holds all already.
    """
    if not 1 <= batch_size <= len(lengths):
        raise ValueError(f"batch size {batch_size}; with {len(lengths)} samples, 1 to {len(lengths)} are allowed")
    most = lengths if longest is None else longest
    bound = _Needs.of(most[None], film_tokens).cut(batch_size)
    needs = _Needs.of(_random_batches(lengths, batch_size), film_tokens)
    ranked = _Needs(*(np.sort(part, axis=0) for part in needs.parts))
    rooms: list[Room] = []
    for share in sorted(shares):
        room = _smallest(needs, ranked, share, runs, film_tokens)
        if not rooms or room.tokens > rooms[-1].tokens:
            rooms.append(room)
    largest = bound.room(0, runs, film_tokens)
    while rooms and rooms[-1].tokens >= largest.tokens:
        rooms.pop()
    return (*rooms, largest)


def slot_rooms(room: Room) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(B,) room of the i-th largest sequence of series, films, notes and samples; 0 where there is no slot."""
    parts = (room.ehr, (room.film_tokens,) * room.cxr, room.note, room.joint)
    return tuple(np.array([*part, *[0] * (room.size - len(part))], np.int64) for part in parts)


def sorted_needs(lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(..., B, M) tokens -> (..., B) of series, films, notes and whole samples, each largest first."""
    ehr, cxr, note = np.moveaxis(lengths, -1, 0)
    return tuple(-np.sort(-part, axis=-1) for part in (ehr, cxr, note, ehr + cxr + note))


@dataclass(frozen=True)
class _Needs:
    """Sorted needs of K batches, (K, B) each."""

    ehr: np.ndarray
    cxr: np.ndarray
    note: np.ndarray
    joint: np.ndarray

    @classmethod
    def of(cls, lengths: np.ndarray, film_tokens: int) -> _Needs:
        """lengths (K, B, M)."""
        strange = np.setdiff1d(lengths[..., 1], (0, film_tokens))
        if len(strange):
            raise ValueError(f"a film of {strange[0]} tokens; all have {film_tokens}, absent ones 0")
        return cls(*sorted_needs(lengths))

    @property
    def parts(self) -> tuple[np.ndarray, ...]:
        return (self.ehr, self.cxr, self.note, self.joint)

    def cut(self, size: int) -> _Needs:
        """The largest `size` needs of each."""
        return _Needs(*(part[:, :size] for part in self.parts))

    def room(self, batch: int, runs: int, film_tokens: int) -> Room:
        """Room for what one of the batches needs."""
        ehr, cxr, note, joint = (part[batch] for part in self.parts)
        return Room(_merged(ehr, runs), int((cxr > 0).sum()), _merged(note, runs), _merged(joint, runs), film_tokens)

    def fit(self, room: Room) -> np.ndarray:
        """(K,) bool, which batches the room holds."""
        pairs = zip(self.parts, slot_rooms(room), strict=True)
        return reduce(np.logical_and, ((part <= slots).all(1) for part, slots in pairs))


def _smallest(needs: _Needs, ranked: _Needs, share: float, runs: int, film_tokens: int) -> Room:
    """The room of the lowest rank, the same for all slots, that holds a share of the batches.

    Args:
        ranked: each column of `needs` on its own in ascending order, so that row r holds the r-th smallest need of
            every slot.
    """
    low, high = 0, len(needs.ehr) - 1
    while low < high:
        middle = (low + high) // 2
        if needs.fit(ranked.room(middle, runs, film_tokens)).mean() >= share:
            high = middle
        else:
            low = middle + 1
    return ranked.room(low, runs, film_tokens)


def _random_batches(lengths: np.ndarray, batch_size: int) -> np.ndarray:
    """(K, B, M): batches of as many epochs as it takes, each in an order of its own."""
    generator, per_epoch = np.random.default_rng(0), len(lengths) // batch_size
    epochs = -(-SIMULATED // per_epoch)
    orders = [generator.permutation(len(lengths))[: per_epoch * batch_size] for _ in range(epochs)]
    return lengths[np.concatenate(orders)[: SIMULATED * batch_size]].reshape(-1, batch_size, lengths.shape[1])


def _merged(need: np.ndarray, runs: int) -> tuple[int, ...]:
    """Slots for sorted needs in at most `runs` runs of equal room, with the fewest tokens; none where need is 0.

    >>> _merged(np.array([9, 8, 3, 3, 1, 0]), runs=2)
    (9, 9, 3, 3, 3)
    """
    need = need[need > 0]
    count = len(need)
    if not count:
        return ()
    # best[i]: fewest tokens of the first i slots in as many runs as have been allowed; begin: where the last one begins
    size = np.arange(count + 1)
    cost = np.where(size[:, None] > size[None, :-1], (size[:, None] - size[None, :-1]) * need, np.inf)  # of run a:i
    best, begins = np.where(size > 0, np.inf, 0.0), []
    for _ in range(min(runs, count)):
        total = best[None, :-1] + cost  # (i, a)
        begin = total.argmin(1)
        fewer = np.minimum(best, total[size, begin])
        begins.append(np.where(fewer < best, begin, -1))
        best = fewer
    slots, end = np.empty(count, np.int64), count
    for begin in reversed(begins):
        if begin[end] >= 0:  # otherwise fewer runs do as well
            slots[begin[end] : end] = need[begin[end]]
            end = begin[end]
    return tuple(slots.tolist())
