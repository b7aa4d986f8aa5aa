"""Ways to get jobs done: in this process, or by a pool of worker processes. GPUs, Ray, SLURM: modules of their own.

An executor takes jobs in order and tells what happens through events; it never raises because a job failed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import TYPE_CHECKING, Protocol

from benchmark.runs.companies import companies, execute_company
from benchmark.runs.execute import Context, RunResult, execute, store_failure
from benchmark.runs.folder import is_done
from benchmark.runs.job import Job
from benchmark.runs.workers import as_worker, threads_in_environment

if TYPE_CHECKING:
    from benchmark.training import EpochReport


@dataclass(frozen=True)
class Started:
    """A job has begun."""

    job: Job


@dataclass(frozen=True)
class Advanced:
    """A job has finished one task's part of an epoch."""

    job: Job
    report: EpochReport


@dataclass(frozen=True)
class Deferred:
    """A job is left for later, because another process is at it."""

    job: Job


@dataclass(frozen=True)
class Stalled:
    """Nothing has been heard of a running job for so many seconds."""

    job: Job
    seconds: float


@dataclass(frozen=True)
class Ended:
    """A job is over."""

    result: RunResult


Event = Started | Advanced | Deferred | Stalled | Ended
Tell = Callable[[Event], None]
Execute = Callable[..., RunResult]


def run_all(executor: Executor, jobs: Sequence[Job], context: Context, tell: Tell) -> None:
    """Executes all jobs; last of all those that another process was at, should it leave them unfinished, and what
    starts from them."""
    busy: list[Job] = []

    def sift(event: Event) -> None:
        if isinstance(event, Ended):
            job, status = event.result.job, event.result.status
            too_early = status == "failed" and job.initial in {one.id for one in busy}
            if status == "busy" or too_early:
                busy.append(job)
                event = Deferred(job)
        tell(event)

    executor.run(jobs, replace(context, wait=False), sift)
    if busy:
        executor.run(busy, replace(context, wait=True), tell)


class Executor(Protocol):
    """Executes all jobs and returns when none is left. What starts from another job begins when that one is over."""

    def run(self, jobs: Sequence[Job], context: Context, tell: Tell) -> None: ...


def waves(jobs: Sequence[Job]) -> list[list[Job]]:
    """Jobs that start from none of these, then those that do."""
    names = {job.id for job in jobs}
    both = [[job for job in jobs if (job.initial in names) == later] for later in (False, True)]
    return [wave for wave in both if wave]


def startable(waiting: Sequence[Sequence[Job]], at_work: Collection[str]) -> list[int]:
    """Numbers of the waiting companies whose jobs start from none that is waiting or at work.

    Args:
        at_work: ids of jobs.
    """
    pending = {job.id for company in waiting for job in company}.union(at_work)
    return [number for number, company in enumerate(waiting) if not any(job.initial in pending for job in company)]


class InProcess:
    """One job after another, here; in the fixed form the seeds of one model at once. The default on one GPU."""

    def __init__(self, execute: Execute = execute) -> None:
        self.execute = execute

    def run(self, jobs: Sequence[Job], context: Context, tell: Tell) -> None:
        for company in (company for wave in waves(jobs) for company in companies(wave, context)):
            for job in company:
                tell(Started(job))
            _carry_out(company, context, self.execute, tell)


def _carry_out(company: Sequence[Job], context: Context, execute: Execute, tell: Tell) -> None:
    """Executes the jobs of a company here; in the packed form it is a single one."""
    if context.form == "packed":
        (job,) = company
        tell(Ended(execute(job, context, lambda report: tell(Advanced(job, report)))))
        return
    for result in execute_company(company, context, lambda job, report: tell(Advanced(job, report))):
        tell(Ended(result))


@dataclass(frozen=True)
class Place:
    """Where a worker process runs: a name, and what its environment has that others' have not."""

    name: str = ""
    variables: tuple[tuple[str, str], ...] = ()


AtWork = Sequence[tuple[Job, Place]]
Choose = Callable[[Sequence[Job], AtWork], tuple[int, Place] | None]
"""Given the waiting jobs in order and those at work: which one begins now, and where; None: none before one ends.

Of seeds that are trained side by side the first one stands for all.
"""


def any_of(workers: int) -> Choose:
    """The first waiting job, as long as fewer than `workers` are at work."""
    return lambda waiting, at_work: (0, Place()) if waiting and len(at_work) < workers else None


class ProcessPool:
    """Fresh processes that live as long as there are jobs for them.

    A worker that dies (killed, out of memory) costs its job only, in the fixed form the seeds of its company: they are
    recorded as failed and another worker takes its place. Workers end by themselves when this process is gone, however
    it went.

    Args:
        choose: what begins when and where, or the number of workers side by side.
    """

    def __init__(self, choose: int | Choose, execute: Execute = execute) -> None:
        self.choose = any_of(choose) if isinstance(choose, int) else choose
        self.execute = execute
        self._spawn = get_context("spawn")

    def run(self, jobs: Sequence[Job], context: Context, tell: Tell) -> None:
        waiting = companies(jobs, context)
        busy: dict[Connection, _Worker] = {}
        idle: list[_Worker] = []
        try:
            while waiting or busy:
                self._begin(waiting, busy, idle, context, tell)
                for pipe in wait(list(busy)):
                    worker = busy[pipe]
                    try:
                        event = pipe.recv()
                    except (EOFError, OSError):
                        del busy[pipe]
                        for result in worker.buried(context):
                            tell(Ended(result))
                        continue
                    tell(event)
                    if isinstance(event, Ended) and worker.has_ended(event.result.job):
                        idle.append(busy.pop(pipe))
        finally:
            for worker in [*busy.values(), *idle]:
                worker.process.kill()
            for worker in [*busy.values(), *idle]:
                worker.process.join()

    def _begin(
        self,
        waiting: list[list[Job]],
        busy: dict[Connection, _Worker],
        idle: list[_Worker],
        context: Context,
        tell: Tell,
    ) -> None:
        """Gives out all jobs that may begin now, and dismisses workers that nothing is left for."""
        while waiting:
            ready = startable(waiting, [name for worker in busy.values() for name in worker.left])
            choice = self.choose([waiting[number][0] for number in ready], [one.at_work for one in busy.values()])
            if choice is None:
                break
            place = choice[1]
            worker = next((one for one in idle if one.place == place), None)
            if worker is None:
                worker = self._hire(context, place)
            else:
                idle.remove(worker)
            busy[worker.pipe] = worker
            worker.give(waiting.pop(ready[choice[0]]), tell)
        while not waiting and idle:
            worker = idle.pop()
            worker.process.kill()  # its results are on disk; nothing is lost, and no time
            worker.process.join()

    def _hire(self, context: Context, place: Place) -> _Worker:
        ours, theirs = self._spawn.Pipe()
        process = self._spawn.Process(target=_work, args=(theirs, context, self.execute), daemon=True)
        with threads_in_environment(context.threads, dict(place.variables)):
            process.start()
        theirs.close()
        return _Worker(process, ours, place)


class _Worker:
    """The pool's view of one process.

    Attributes:
        jobs: that it was given last. left: those of them that it has not ended yet, by id.
    """

    def __init__(self, process: BaseProcess, pipe: Connection, place: Place) -> None:
        self.process, self.pipe, self.place = process, pipe, place
        self.jobs: Sequence[Job] = ()
        self.left: dict[str, Job] = {}
        self.since = datetime.now(UTC)

    @property
    def at_work(self) -> tuple[Job, Place]:
        return self.jobs[0], self.place

    def give(self, jobs: Sequence[Job], tell: Tell) -> None:
        self.jobs, self.left, self.since = jobs, {job.id: job for job in jobs}, datetime.now(UTC)
        for job in jobs:
            tell(Started(job))
        with suppress(BrokenPipeError):  # it died; `wait` reports that
            self.pipe.send(jobs)

    def has_ended(self, job: Job) -> bool:
        """Notes that a job is over; whether it was the last one."""
        del self.left[job.id]
        return not self.left

    def buried(self, context: Context) -> list[RunResult]:
        """The results of the jobs that the process did not survive; those that it had stored before are finished."""
        self.process.join()
        code = self.process.exitcode
        how = f"was killed by signal {-code}" if code is not None and code < 0 else f"ended with code {code}"
        error = f"the worker process {how}" + (" (out of memory?)" if code == -9 else "")
        seconds = (datetime.now(UTC) - self.since).total_seconds()
        results = []
        for job in self.left.values():
            if is_done(context.out, job.id):
                results.append(RunResult(job, "skipped"))
            else:
                store_failure(job, context, self.since, seconds, error, None)
                results.append(RunResult(job, "failed", seconds=seconds, error=error))
        return results


def _work(pipe: Connection, context: Context, execute: Execute) -> None:
    """Life of a worker process: one company of jobs after another until told to stop."""
    as_worker()

    def tell(event: Event) -> None:
        try:
            pipe.send(event)
        except OSError:  # the pool is gone: nobody waits for this job, and its end must not be stored as a failure
            os._exit(1)

    with suppress(EOFError):
        while (company := pipe.recv()) is not None:
            _carry_out(company, context, execute, tell)
