"""Jobs as tasks of Ray (extra `ray`): on this machine, or on a cluster that is running already.

Every job has a process of its own, and one that is killed costs its job only. Without an address, Ray is started for
the time of the jobs, on the loopback interface and without its dashboard; nothing of it stays. The share of a GPU that
a job asks for is Ray's bookkeeping, not a limit on memory.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from benchmark.errors import UserError
from benchmark.runs.execute import Context, RunResult, execute, store_failure
from benchmark.runs.executors import Advanced, Ended, Execute, Started, Tell, startable
from benchmark.runs.job import Job
from benchmark.runs.workers import import_path, threads_in_environment

if TYPE_CHECKING:
    from benchmark.training import EpochReport

STARTS = 4
"""Tries to start Ray on this machine."""
LOOK = 2.0
"""Seconds between looks at what running jobs tell."""


class RayExecutor:
    """Executes jobs as Ray tasks, as many at a time as the cluster has room for.

    Args:
        address: of a running cluster, whose machines share the folders of data and results and have this package;
            None: Ray on this machine. workers: jobs side by side here; None: one a core, or by the share of a GPU.
        gpu_share: of a device that a job takes, where jobs run on GPUs.
    """

    def __init__(
        self,
        address: str | None = None,
        workers: int | None = None,
        gpu_share: float = 1.0,
        execute: Execute = execute,
    ) -> None:
        self.address, self.workers, self.gpu_share, self.execute = address, workers, gpu_share, execute

    def run(self, jobs: Sequence[Job], context: Context, tell: Tell) -> None:
        ray = _ray(alone=self.address is None)
        with self._cluster(ray, context):
            share = self.gpu_share if context.device == "cuda" else 0
            task = ray.remote(num_cpus=1, num_gpus=share, max_calls=1, max_retries=0)(_execute)
            reports = ray.remote(num_cpus=0)(_Reports).remote()
            waiting = list(jobs)
            running: dict[Any, tuple[Job, datetime]] = {}
            try:
                while waiting or running:
                    while len(running) < _room(ray, share) and (ready := _ready(waiting, running.values())):
                        job = waiting.pop(ready[0])
                        tell(Started(job))
                        running[task.remote(self.execute, job, context, reports)] = (job, datetime.now(UTC))
                    done, _ = ray.wait(list(running), num_returns=1, timeout=LOOK)
                    for event in ray.get(reports.take.remote()):
                        tell(event)
                    for reference in done:
                        tell(Ended(_result(ray, reference, *running.pop(reference), context)))
            finally:
                for reference in running:
                    ray.cancel(reference, force=True)

    def _start(self, ray: Any, quiet: dict[str, Any]) -> None:
        """Starts Ray here. It gives itself 30 seconds for that, too few on a busy machine: several tries."""
        for left in reversed(range(STARTS)):
            try:
                ray.init(num_cpus=self.workers, include_dashboard=False, _node_ip_address="127.0.0.1", **quiet)
                return
            except Exception as fault:
                if not left or "timed out" not in str(fault):
                    raise
                ray.shutdown()

    @contextmanager
    def _cluster(self, ray: Any, context: Context) -> Iterator[None]:
        quiet = {"log_to_driver": False, "logging_level": "error", "configure_logging": False}
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_agent_register_timeout_ms", "120000")  # a busy machine takes long to start it
        try:
            with threads_in_environment(context.threads, import_path()):  # its workers inherit them
                if self.address is None:
                    self._start(ray, quiet)
                else:
                    ray.init(address=self.address, **quiet)
        except Exception as fault:  # Ray raises plain exceptions of many kinds
            ray.shutdown()
            raise UserError(f"Ray could not be {'reached' if self.address else 'started'}: {fault}") from fault
        try:
            yield
        finally:
            ray.shutdown()


class _Reports:
    """An actor that keeps what running jobs tell until it is asked."""

    def __init__(self) -> None:
        self.kept: list[Advanced] = []

    def add(self, event: Advanced) -> None:
        self.kept.append(event)

    def take(self) -> list[Advanced]:
        kept, self.kept = self.kept, []
        return kept


def _execute(execute: Execute, job: Job, context: Context, reports: Any) -> RunResult:
    import ray

    def notify(report: EpochReport) -> None:
        with suppress(ray.exceptions.RayError):  # the machine of the actor is lost; the job is not
            ray.get(reports.add.remote(Advanced(job, report)))

    return execute(job, context, notify)


def _ready(waiting: Sequence[Job], running: Iterable[tuple[Job, datetime]]) -> list[int]:
    """Numbers of the waiting jobs that may begin."""
    return startable([[job] for job in waiting], [job.id for job, _ in running])


def _room(ray: Any, share: float) -> int:
    """Jobs that the cluster can take side by side, at least one."""
    has = ray.cluster_resources()
    room = has.get("CPU", 1)
    if share:
        room = min(room, has.get("GPU", 0) // share if share >= 1 else has.get("GPU", 0) * (1 // share))
    return max(1, int(room))


def _result(ray: Any, reference: Any, job: Job, since: datetime, context: Context) -> RunResult:
    try:
        return ray.get(reference)
    except ray.exceptions.RayError as fault:
        seconds = (datetime.now(UTC) - since).total_seconds()
        error = f"the Ray worker of the job died: {' '.join(str(fault).split())[:300]}"
        store_failure(job, context, since, seconds, error, None)
        return RunResult(job, "failed", seconds=seconds, error=error)


def _ray(alone: bool) -> Any:
    if alone:  # read when Ray is imported: its processes then listen on the loopback interface only
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    try:
        import ray
    except ImportError as fault:
        raise UserError(f"executor 'ray' needs the extra [ray]: pip install 'flexcare-bench[ray]' ({fault})") from fault
    return ray
