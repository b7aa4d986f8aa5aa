"""Jobs that differ in the seed alone, executed side by side in one process."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

from benchmark.locks import holding
from benchmark.runs.execute import (
    Context,
    RunResult,
    conclude,
    execute_held,
    make_bookmark,
    must_wait,
    plan_of,
    threads_of,
)
from benchmark.runs.folder import is_done, lock_file
from benchmark.runs.job import Job

if TYPE_CHECKING:
    from benchmark.training import EpochReport, Trained, TrainingPlan
    from benchmark.training.resume import Bookmark

    Notify = Callable[[Job, EpochReport], None]


def companies(jobs: Sequence[Job], context: Context) -> list[list[Job]]:
    """The jobs in groups that can be executed side by side, in the order of each group's first job.

    In the packed form everybody is alone. A job whose model starts from another's state has company of jobs that start
    from the same model's states, each from that of its own seed.
    """
    if context.form == "packed":
        return [[job] for job in jobs]
    groups: dict[str, list[Job]] = {}
    for job in jobs:
        groups.setdefault(job.variant, []).append(job)
    return list(groups.values())


def execute_company(jobs: Sequence[Job], context: Context, notify: Notify) -> list[RunResult]:
    """Executes jobs that differ in the seed alone; each is stored as if it had been alone.

    Where they cannot be trained side by side, for the model's sake or for want of memory, they are in smaller groups or
    one by one.
    """
    with ExitStack() as locks:
        results, mine = [], []
        # One order everywhere, so that no two processes wait for each other.
        for job in sorted(jobs, key=lambda job: job.id):
            held = locks.enter_context(holding(lock_file(context.out, job.id), context.wait))
            if is_done(context.out, job.id):
                results.append(RunResult(job, "skipped"))
            elif held and not must_wait(job, context):
                mine.append(job.id)
            else:
                results.append(RunResult(job, "busy"))
        return results + _together([job for job in jobs if job.id in mine], context, notify)


def _together(jobs: Sequence[Job], context: Context, notify: Notify) -> list[RunResult]:
    from benchmark.training.portions import out_of_memory
    from benchmark.training.together import NotTogether

    started, clock = datetime.now(UTC), time.perf_counter()
    ready, plans, results = _plans(jobs, context, started)
    bookmarks = [make_bookmark(job, context) for job in ready]
    outcomes: Sequence[Trained | Exception] = ()
    too_large = False
    try:
        outcomes = _train(ready, plans, context, notify, bookmarks) if ready else ()
    except NotTogether:
        pass
    except Exception as fault:
        too_large = out_of_memory(fault)
        outcomes = () if too_large else [fault] * len(ready)
    if outcomes or not ready:
        seconds, seeds = time.perf_counter() - clock, [job.seed for job in ready]
        return results + [
            conclude(job, context, outcome, started, seconds, bookmark.earlier, seeds)
            for job, outcome, bookmark in zip(ready, outcomes, bookmarks, strict=True)
        ]
    # What follows is done here, where no traceback holds tensors any more.
    if too_large and len(ready) > 1:
        warnings.warn(f"out of memory with {len(ready)} seeds side by side; going on with half as many", stacklevel=2)
        halves = ready[: len(ready) // 2], ready[len(ready) // 2 :]
        return results + [result for half in halves for result in _together(half, context, notify)]
    if too_large:
        warnings.warn("out of memory with one seed in the fixed form; it is trained on packed batches", stacklevel=2)
    return results + [execute_held(job, context, partial(notify, job)) for job in ready]


def _plans(
    jobs: Sequence[Job], context: Context, started: datetime
) -> tuple[list[Job], list[TrainingPlan], list[RunResult]]:
    """The jobs that can begin with their plans, and the ends of those whose first training is missing."""
    ready, plans, failed = [], [], []
    for job in jobs:
        try:
            plans.append(plan_of(job, context))
            ready.append(job)
        except Exception as fault:
            failed.append(conclude(job, context, fault, started, 0.0, 0.0))
    return ready, plans, failed


def _train(
    jobs: Sequence[Job],
    plans: Sequence[TrainingPlan],
    context: Context,
    notify: Notify,
    bookmarks: Sequence[Bookmark],
) -> list[Trained | Exception]:
    import torch

    from benchmark.data.dataset import PreparedData
    from benchmark.training.together import train_together

    data = PreparedData.open(context.data)
    with threads_of(context):
        return train_together(
            plans, data, torch.device(context.device), [partial(notify, job) for job in jobs], bookmarks
        )
