"""Tells of running jobs of which nothing is heard. It stops none, for an epoch may take hours.

The same for every executor. A job is heard of when it begins, at each report of an epoch that reaches this process, and
when it keeps what it has reached in the folder of results.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmark.runs.executors import Advanced, Ended, Event, Stalled, Started, Tell
from benchmark.runs.folder import course_file
from benchmark.runs.job import Job


@contextmanager
def watchdog(tell: Tell, out: Path, patience: float) -> Iterator[Tell]:
    """Gives the function to tell events to, which passes them on to `tell`, and tells it of silence while the block
    lasts, from a thread of its own; again whenever as much time has gone.

    Args:
        out: folder of results. patience: seconds.
    """
    ears = _Ears(out, patience)
    over = threading.Event()

    def listen(event: Event) -> None:
        ears.hear(event)
        tell(event)

    def look() -> None:
        while not over.wait(min(60.0, patience / 4)):
            for event in ears.silent():
                tell(event)

    thread = threading.Thread(target=look, name="watchdog", daemon=True)
    thread.start()
    try:
        yield listen
    finally:
        over.set()
        thread.join()


@dataclass
class _Heard:
    """When something was heard of a job last, and when its silence was told last, in seconds since 1970."""

    job: Job
    at: float
    told: float = 0.0


class _Ears:
    def __init__(self, out: Path, patience: float) -> None:
        self.out, self.patience = out, patience
        self.running: dict[str, _Heard] = {}

    def hear(self, event: Event) -> None:
        if isinstance(event, Started | Advanced):
            self.running[event.job.id] = _Heard(event.job, time.time())
        elif not isinstance(event, Stalled):
            self.running.pop(event.result.job.id if isinstance(event, Ended) else event.job.id, None)

    def silent(self) -> list[Stalled]:
        """The jobs to tell of now."""
        now, found = time.time(), []
        for heard in list(self.running.values()):
            heard.at = max(heard.at, _kept_at(self.out, heard.job))
            if now - max(heard.at, heard.told) > self.patience:
                heard.told = now
                found.append(Stalled(heard.job, now - heard.at))
        return found


def _kept_at(out: Path, job: Job) -> float:
    """When the job kept an epoch last; 0 if it has not."""
    try:
        return course_file(out, job.id).stat().st_mtime
    except OSError:
        return 0.0
