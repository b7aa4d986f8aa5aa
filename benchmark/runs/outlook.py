"""What a plan will take on this machine: hours and memory, from estimates of its jobs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from benchmark.config import RunConfig
from benchmark.runs.calibrate import Estimate, estimates, is_prepared, kind_of, longest_first, makespan
from benchmark.runs.execute import Context
from benchmark.runs.folder import is_done
from benchmark.runs.job import Job
from benchmark.runs.launch import device_of, worker_count
from benchmark.runs.plan import Plan


@dataclass(frozen=True)
class Outlook:
    """Of the jobs that are still to be run.

    Attributes:
        workers: jobs side by side. seconds: until the last one is done. work: sum over jobs. longest: of one job.
        memory: bytes of the largest jobs that may run side by side. unknown: jobs without an estimate, left out.
        by_model: mean seconds and largest memory of a run, by model.
    """

    workers: int
    seconds: float
    work: float
    longest: float
    memory: int
    unknown: int
    by_model: Mapping[str, Estimate]


def outlook(config: RunConfig, plan: Plan, progress: Callable[[str, int, int], None] | None = None) -> Outlook | None:
    """Calibrates what was not calibrated before; None if nothing is left to run, or the data are not complete yet."""
    waiting = [job for job in plan.jobs if not is_done(config.out, job.id)]
    if not waiting or not is_prepared(plan.data.path, waiting):
        return None
    device = device_of(config)
    context = Context(plan.data.path, config.out, device, threads=1)
    known = estimates(waiting, context, plan.data.samples, progress)
    workers = worker_count(config, device, len(waiting))
    ordered = longest_first(waiting, known, plan.data.samples)
    found = [known[kind_of(job)] for job in ordered if kind_of(job) in known]
    if not found:
        return None
    seconds = [one.seconds for one in found]
    memory = sum(sorted((one.memory for one in found), reverse=True)[:workers])
    return Outlook(
        workers=workers,
        seconds=makespan(seconds, workers),
        work=sum(seconds),
        longest=max(seconds),
        memory=memory,
        unknown=len(waiting) - len(found),
        by_model=_by_model(waiting, known),
    )


def _by_model(jobs: Sequence[Job], known: Mapping[str, Estimate]) -> dict[str, Estimate]:
    several: dict[str, list[Estimate]] = {}
    for job in jobs:
        if kind_of(job) in known:
            several.setdefault(job.model, []).append(known[kind_of(job)])
    return {
        model: Estimate(sum(one.seconds for one in found) / len(found), max(one.memory for one in found))
        for model, found in several.items()
    }
