"""Rooms for the batches of a task: how much a batch of fixed shapes must hold, from the lengths of its samples.

The numbers of tokens of random batches differ little: 32 samples of length-of-stay have more than 1.3 times the mean in
one of 100 batches. So rooms are made small by their numbers of tokens. The bounds of single sequences cost little and
are wide: the i-th longest of 32 is not much longer in one batch than in another. They are merged into a few runs of
equal length, for where there are no kernels every run is padded and attended to by operations of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from models.layout import Bounds
from models.room import Room, sorted_needs

RUNS = 6
"""Most runs of equal length among the slots of one modality."""

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
    strange = np.setdiff1d(lengths[:, 1], (0, film_tokens))
    if len(strange):
        raise ValueError(f"a film of {strange[0]} tokens; all have {film_tokens}, absent ones 0")
    batches = _random_batches(lengths, batch_size)
    ranked = _Ranked.of(sorted_needs(batches), film_tokens, runs)
    rooms: list[Room] = []
    for share in sorted(shares):
        room = _smallest(ranked, batches, share)
        if not rooms or room.tokens > rooms[-1].tokens:
            rooms.append(room)
    most = lengths if longest is None else longest
    # No batch needs more than the longest series, films, notes and samples of all.
    longest_of_all = tuple(need[:, :batch_size] for need in sorted_needs(most[None]))
    largest = _Ranked.of(longest_of_all, film_tokens, runs).room(0, 0)
    while rooms and rooms[-1].tokens >= largest.tokens:
        rooms.pop()
    return (*rooms, largest)


@dataclass(frozen=True)
class _Ranked:
    """What K batches need, every number ranked on its own: row r holds the r-th smallest of each.

    Attributes:
        sequences: (K, B) each, the longest, second longest, ... series, film, note, and sample as a whole.
        tokens: (K,) each, of all series, films, notes and samples of a batch.
    """

    sequences: tuple[np.ndarray, ...]
    tokens: tuple[np.ndarray, ...]
    film_tokens: int
    runs: int

    @classmethod
    def of(cls, needs: tuple[np.ndarray, ...], film_tokens: int, runs: int) -> _Ranked:
        """Needs (K, B) each, as `sorted_needs` gives them."""
        sequences = tuple(np.sort(need, axis=0) for need in needs)
        return cls(sequences, tuple(np.sort(need.sum(1)) for need in needs), film_tokens, runs)

    def __len__(self) -> int:
        return len(self.tokens[0])

    def room(self, sequences: int, tokens: int) -> Room:
        """With bounds of the single sequences of one rank, and of all together of another."""
        lengths = [_merged(part[sequences], self.runs) for part in self.sequences]
        ehr, cxr, note, joint = (
            Bounds(own, min(int(part[tokens]), sum(own))) for own, part in zip(lengths, self.tokens, strict=True)
        )
        return Room(ehr, len(cxr), note, joint, self.film_tokens)


def _smallest(ranked: _Ranked, batches: np.ndarray, share: float) -> Room:
    """The smallest room, by one rank for all sequences and one for all numbers of tokens, that holds a share of the
    batches; of those that it does not hold, no more than half fail for the length of a sequence."""
    last = len(ranked) - 1
    sequences = _first(last, lambda rank: ranked.room(rank, last).fits(batches).mean() >= (1 + share) / 2)
    tokens = _first(last, lambda rank: ranked.room(sequences, rank).fits(batches).mean() >= share)
    return ranked.room(sequences, tokens)


def _first(last: int, holds: Callable[[int], bool]) -> int:
    """The first of 0, ..., last that holds, if all after one that holds do too; the last if none before it does."""
    low, high = 0, last
    while low < high:
        middle = (low + high) // 2
        if holds(middle):
            high = middle
        else:
            low = middle + 1
    return low


def _random_batches(lengths: np.ndarray, batch_size: int) -> np.ndarray:
    """(K, B, M): batches of as many epochs as it takes, each in an order of its own."""
    generator, per_epoch = np.random.default_rng(0), len(lengths) // batch_size
    epochs = -(-SIMULATED // per_epoch)
    orders = [generator.permutation(len(lengths))[: per_epoch * batch_size] for _ in range(epochs)]
    return lengths[np.concatenate(orders)[: SIMULATED * batch_size]].reshape(-1, batch_size, lengths.shape[1])


def _merged(need: np.ndarray, runs: int) -> tuple[int, ...]:
    """Bounds for sorted needs in at most `runs` runs of equal length, with the fewest tokens; none where need is 0.

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
