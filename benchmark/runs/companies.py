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
from benchmark.runs.execute import Context, RunResult, conclude, execute_held, make_bookmark, plan_of, threads_of
from benchmark.runs.folder import is_done, lock_file
from benchmark.runs.job import Job

if TYPE_CHECKING:
    from benchmark.training import EpochReport, Trained
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
        for job in jobs:
            held = locks.enter_context(holding(lock_file(context.out, job.id), context.wait))
            if is_done(context.out, job.id):
                results.append(RunResult(job, "skipped"))
            elif held:
                mine.append(job)
            else:
                results.append(RunResult(job, "busy"))
        return results + (_together(mine, context, notify) if mine else [])


def _together(jobs: Sequence[Job], context: Context, notify: Notify) -> list[RunResult]:
    from benchmark.training.portions import out_of_memory
    from benchmark.training.together import NotTogether

    started, clock = datetime.now(UTC), time.perf_counter()
    bookmarks = [make_bookmark(job, context) for job in jobs]
    outcomes: Sequence[Trained | Exception] = ()
    try:
        outcomes = _train(jobs, context, notify, bookmarks)
    except NotTogether:
        return [execute_held(job, context, partial(notify, job)) for job in jobs]
    except Exception as fault:
        if len(jobs) == 1 or not out_of_memory(fault):
            outcomes = [fault] * len(jobs)
    if not outcomes:  # here, where no traceback holds tensors any more
        warnings.warn(f"out of memory with {len(jobs)} seeds side by side; going on with half as many", stacklevel=2)
        parts = jobs[: len(jobs) // 2], jobs[len(jobs) // 2 :]
        return [result for part in parts for result in _together(part, context, notify)]
    seconds = time.perf_counter() - clock
    return [
        conclude(job, context, outcome, started, seconds, bookmark.earlier)
        for job, outcome, bookmark in zip(jobs, outcomes, bookmarks, strict=True)
    ]


def _train(
    jobs: Sequence[Job], context: Context, notify: Notify, bookmarks: Sequence[Bookmark]
) -> list[Trained | Exception]:
    import torch

    from benchmark.data.dataset import PreparedData
    from benchmark.training.together import train_together

    plans, data = [plan_of(job, context) for job in jobs], PreparedData.open(context.data)
    with threads_of(context):
        return train_together(
            plans, data, torch.device(context.device), [partial(notify, job) for job in jobs], bookmarks
        )
