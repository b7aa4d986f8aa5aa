"""Seconds of a piece of work, on the device where it is done, and the device's own peak.

A CUDA device is timed by its own events; the host waits for it before and after. On a CPU the clock is the host's.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from statistics import median
from time import perf_counter

import torch

ROUNDS = 7
"""The least number of rounds whose median is reported."""

_SIDES = (256, 512, 1024, 2048, 4096, 8192)
_LONG = 0.02
"""The device's peak is measured on the first of these square products that takes so many seconds, or the last one."""


@dataclass(frozen=True)
class Spread:
    """Median, least and largest of several values."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: list[float]) -> Spread:
        return cls(median(values), min(values), max(values))


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """Time that `work` takes from an idle device to an idle device."""
    if device.type != "cuda":
        begun = perf_counter()
        work()
        return perf_counter() - begun
    start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize(device)
    start.record()
    work()
    stop.record()
    stop.synchronize()
    return start.elapsed_time(stop) / 1e3


def alternating(
    rounds: int, works: Callable[[int], Mapping[str, Callable[[], object]]], device: torch.device, warm_up: int = 1
) -> dict[str, list[float]]:
    """Seconds of several works in turn, `rounds` of each, after `warm_up` rounds that do not count.

    Args:
        works: the works of a round, by name; called before the round, outside of what is timed. Every second round
            goes through them from the last to the first, so that none gains from its place.
    """
    found: dict[str, list[float]] = {}
    with no_collection():
        for number in range(-warm_up, rounds):
            each = list(works(number + warm_up).items())
            for name, work in reversed(each) if number % 2 else each:
                elapsed = seconds(work, device)
                if number >= 0:
                    found.setdefault(name, []).append(elapsed)
    return found


@contextmanager
def no_collection() -> Iterator[None]:
    """Python's collector of garbage rests meanwhile; it would run at any moment."""
    running = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if running:
            gc.enable()


def peak_flops(device: torch.device, dtype: torch.dtype, rounds: int = ROUNDS) -> float:
    """FLOP/s of one large square product of random matrices, a multiply-add counting as two."""
    for side in _SIDES:
        left, right = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
        product = partial(torch.matmul, left, right)
        product()
        if seconds(product, device) > _LONG:
            break
    times = alternating(rounds, lambda _: {"product": product}, device)
    return 2 * side**3 / median(times["product"])
