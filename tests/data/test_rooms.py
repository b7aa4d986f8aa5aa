"""Rooms hold the batches they promise to."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmark.data.rooms import RUNS, make_rooms
from models.layout import Bounds
from models.room import Room

FILM_TOKENS = 5


@st.composite
def lengths(draw: st.DrawFn) -> np.ndarray:
    """(n, 3) tokens of samples of which each has something."""
    hours, tokens = draw(st.integers(1, 60)), draw(st.integers(1, 60))
    row = st.tuples(st.integers(0, hours), st.sampled_from([0, FILM_TOKENS]), st.integers(0, tokens)).filter(any)
    return np.array(draw(st.lists(row, min_size=1, max_size=60)))


def runs(slots: tuple[int, ...]) -> int:
    return len(list(itertools.groupby(slots)))


@settings(max_examples=40, deadline=None)
@given(lengths(), st.integers(1, 60), st.randoms(use_true_random=False))
def test_the_last_room_holds_every_batch_and_rooms_grow(samples: np.ndarray, size: int, random) -> None:
    size = min(size, len(samples))
    rooms = make_rooms(samples, size, FILM_TOKENS)
    worst = [np.argsort(-samples[:, m])[:size] for m in range(3)] + [np.argsort(-samples.sum(1))[:size]]
    for chosen in [*worst, *(random.sample(range(len(samples)), size) for _ in range(5))]:
        assert rooms[-1].fits(samples[chosen])
    assert all(small.tokens < large.tokens for small, large in itertools.pairwise(rooms))
    for room in rooms:
        assert room.size == size
        for bounds in (room.ehr, room.note, room.joint):
            slots = bounds.lengths
            assert list(slots) == sorted(slots, reverse=True) and runs(slots) <= RUNS and 0 not in slots
            assert max(slots, default=0) <= bounds.tokens <= sum(slots)


def realistic(n: int, seed: int) -> np.ndarray:
    """Medians 47 hours and 101 note tokens, means 83 and 128, cut at 512; missing as for in-hospital mortality."""
    generator = np.random.default_rng(seed)
    hours = generator.lognormal(np.log(47), np.sqrt(2 * np.log(83 / 47)), n)
    tokens = generator.lognormal(np.log(101), np.sqrt(2 * np.log(128 / 101)), n)
    own = generator.random((n, 3)) >= (0, 0.764, 0.075)
    return np.stack([np.clip(hours, 1, 512), np.full(n, 196), np.clip(tokens, 1, 512)], 1).astype(int) * own


def test_the_first_room_holds_99_of_100_batches_at_little_more_than_the_mean() -> None:
    samples = realistic(18_000, 0)
    first, *_, last = make_rooms(samples, 32, 196)
    batches = [np.random.default_rng(seed).choice(len(samples), 32, replace=False) for seed in range(1500)]
    assert np.mean([first.fits(samples[chosen]) for chosen in batches]) == pytest.approx(0.99, abs=0.01)
    mean = samples.sum(1).mean() * 32
    of_modalities = first.ehr.tokens + first.cxr * 196 + first.note.tokens
    assert first.tokens < 1.4 * mean and of_modalities < 1.7 * mean
    assert first.tokens < 0.5 * last.tokens


def test_samples_that_change_from_epoch_to_epoch_fit_at_their_longest() -> None:
    now, longest = np.array([[3, 0, 0]] * 8), np.array([[9, FILM_TOKENS, 0]] * 8)
    first, last = make_rooms(now, 4, FILM_TOKENS, longest)
    three, nine, most = (Bounds.full((length,) * 4) for length in (3, 9, 14))
    assert first == Room(three, 0, Bounds((), 0), three, FILM_TOKENS)
    assert last == Room(nine, 4, Bounds((), 0), most, FILM_TOKENS)


def test_what_is_no_batch_or_no_film_is_refused() -> None:
    with pytest.raises(ValueError, match="batch size 3; with 2 samples, 1 to 2 are allowed"):
        make_rooms(np.array([[3, 0, 0]] * 2), 3, FILM_TOKENS)
    with pytest.raises(ValueError, match="a film of 7 tokens"):
        make_rooms(np.array([[3, 7, 0]] * 2), 1, FILM_TOKENS)
