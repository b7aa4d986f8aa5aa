"""Keeps count of a running grid: what is done, what runs, how long it may still take."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmark.runs.execute import RunResult
from benchmark.runs.executors import Advanced, Deferred, Ended, Event, Started
from benchmark.runs.job import Job

if TYPE_CHECKING:
    from benchmark.training import EpochReport


@dataclass
class Cell:
    """State of the runs of one model on one task, over seeds."""

    total: int = 0
    done: int = 0
    running: int = 0
    failed: int = 0


class Tally:
    """Follows the events of an executor.

    Attributes:
        jobs: of the whole grid. running: jobs at work with their latest report. results: of jobs ended in this call.
    """

    def __init__(
        self,
        jobs: Sequence[Job],
        done_before: frozenset[str],
        samples: Mapping[str, Mapping[str, int]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.jobs, self.done_before, self.clock = jobs, done_before, clock
        self.running: dict[str, tuple[Job, EpochReport | None]] = {}
        self.results: dict[str, RunResult] = {}
        self._cost = {job.id: job.cost(samples) for job in jobs}
        self._started = clock()
        self._heard: tuple[float, float] | None = None  # moment of the first news of work, and the work done by then

    def tell(self, event: Event) -> None:
        if isinstance(event, Started):
            self.running[event.job.id] = (event.job, None)
        elif isinstance(event, Advanced):
            self.running[event.job.id] = (event.job, event.report)
        elif isinstance(event, Deferred):
            self.running.pop(event.job.id, None)
        elif isinstance(event, Ended):
            self.running.pop(event.result.job.id, None)
            self.results[event.result.job.id] = event.result
        if self._heard is None and self._work:
            self._heard = self.clock(), self._work

    @property
    def ended(self) -> int:
        return len(self.done_before) + len(self.results)

    @property
    def failed(self) -> int:
        return sum(result.status == "failed" for result in self.results.values())

    @property
    def elapsed(self) -> float:
        return self.clock() - self._started

    def seconds_left(self) -> float | None:
        """From the share of the work done and the time it took; None before there is anything to go by.

        The time until the first news has the start of processes in it, and the work by then may be that of an earlier
        call: once as much time again has passed, neither counts.
        """
        since, before, now = self._started, 0.0, self.clock()
        if self._heard and now - self._heard[0] > self._heard[0] - self._started:
            since, before = self._heard
        work = self._work - before
        rest = sum(
            self._cost[job.id] for job in self.jobs if job.id not in self.done_before and job.id not in self.results
        )
        rest -= sum(self._cost[name] * self.share(name) for name in self.running)
        return (now - since) * rest / work if work > 0 else None

    @property
    def _work(self) -> float:
        """What was done in this call, in samples."""
        work = sum(self._cost[name] for name, result in self.results.items() if result.status != "skipped")
        return work + sum(self._cost[name] * self.share(name) for name in self.running)

    def share(self, job_id: str) -> float:
        """Part of a running job's epochs that is over."""
        _, report = self.running[job_id]
        return report.epoch / report.epochs if report else 0.0

    def grid(self) -> dict[str, dict[str, Cell]]:
        """Cells by model and task."""
        cells: dict[str, dict[str, Cell]] = {}
        for job in self.jobs:
            for task in job.tasks:
                cell = cells.setdefault(job.model, {}).setdefault(task, Cell())
                result = self.results.get(job.id)
                cell.total += 1
                cell.done += job.id in self.done_before or (result is not None and result.status != "failed")
                cell.failed += result is not None and result.status == "failed"
                cell.running += job.id in self.running
        return cells


def counted(number: int, noun: str = "run") -> str:
    """A number with its noun.

    >>> counted(1), counted(0)
    ('1 run', '0 runs')
    """
    return f"{number} {noun}{'' if number == 1 else 's'}"


def duration(seconds: float | None) -> str:
    """A length of time for readers.

    >>> duration(0.42), duration(17.2), duration(185), duration(7512), duration(None)
    ('0.4 s', '17 s', '3 min 5 s', '2 h 5 min', '?')
    """
    if seconds is None:
        return "?"
    whole = round(seconds)
    if whole < 10:
        return f"{seconds:.1f} s"
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
