"""When a plan would be through."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmark.runs.executors import any_of
from benchmark.runs.gpus import PROCESS, Gpu, packed
from benchmark.runs.schedule import Piece, simulate

GB = 2**30


class Named:
    """What an executor looks at of a job."""

    def __init__(self, memory: int, name: int = 0, initial: int | None = None) -> None:
        self.memory, self.id, self.initial = memory, str(name), None if initial is None else str(initial)


def pieces(seconds, memory=None, initial=None):
    memory, initial = memory or [1] * len(seconds), initial or {}
    return [
        Piece((Named(size, place, initial.get(place)),), float(one), size)
        for place, (one, size) in enumerate(zip(seconds, memory, strict=True))
    ]


def test_each_process_takes_the_next_piece_when_it_is_free():
    assert simulate(pieces([5, 4, 3, 3]), any_of(2), shared=False) == (8, 2)
    assert simulate(pieces([5, 4, 3, 3], [1, 2, 3, 4]), any_of(2), shared=False) == (8, 7), "the last two at once"
    assert simulate(pieces([5, 4, 3, 3]), any_of(1), shared=False) == (15, 1)


def test_what_starts_from_a_piece_waits_for_that_one_alone():
    # 2 starts from 1: it begins at 3 beside the piece of 9 seconds, which it would come after if all were waited for.
    assert simulate(pieces([9, 3, 4], initial={2: 1}), any_of(3), shared=False)[0] == 9
    assert simulate(pieces([9, 3, 7], initial={2: 1}), any_of(2), shared=False)[0] == 10
    assert simulate(pieces([3, 9, 2], initial={0: 1}), any_of(2), shared=False)[0] == 12


def test_pieces_on_one_device_divide_its_time_and_what_is_unknown_has_it_alone():
    gpus = [Gpu("0", 10 * GB), Gpu("1", 10 * GB)]
    known: set[int] = set()
    choose = packed(gpus, lambda one: one.memory if one.memory in known else None, most=8)
    size = 4 * GB - PROCESS
    # One of each size goes first; then two of 4 GB fit on a device together, and take twice as long each.
    work = pieces([6, 6, 2, 2, 2, 2], [size, 7 * GB, size, size, size, size])
    seconds, memory = simulate(work, choose, shared=True, ended=lambda piece: known.add(piece.jobs[0].memory))
    assert (seconds, memory) == (10, 4 * size)


@given(
    seconds=st.lists(st.floats(0.01, 1e5), min_size=1, max_size=30),
    workers=st.integers(1, 9),
)
def test_a_plan_is_at_most_one_job_longer_than_work_divided_evenly(seconds, workers):
    seconds = sorted(seconds, reverse=True)
    took, _ = simulate(pieces(seconds), any_of(workers), shared=False)
    even = sum(seconds) / workers
    assert max(even, seconds[0]) * (1 - 1e-9) <= took <= (even + seconds[0]) * (1 + 1e-9)
    alone, _ = simulate(pieces(seconds), any_of(1), shared=False)
    assert alone == pytest.approx(sum(seconds))


@given(
    work=st.lists(st.tuples(st.floats(0.01, 1e5), st.integers(1, 9)), min_size=1, max_size=30),
    devices=st.integers(1, 8),
)
def test_packed_jobs_never_hold_more_than_the_devices_have_and_lose_no_time(work, devices):
    gpus = [Gpu(str(number), 10 * GB) for number in range(devices)]
    choose = packed(gpus, lambda one: one.memory, most=8)
    todo = pieces([one for one, _ in work], [size * GB for _, size in work])
    took, memory = simulate(todo, choose, shared=True)
    # A piece that exceeds a device is tried alone; those of 9 GB are such, with what a process takes beside.
    assert memory <= devices * 9 * GB
    assert sum(piece.seconds for piece in todo) / devices <= took * (1 + 1e-9)
    if devices == 1:
        assert took == pytest.approx(sum(piece.seconds for piece in todo))
