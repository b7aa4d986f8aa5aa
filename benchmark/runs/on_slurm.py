"""Jobs as an array of SLURM (extra `slurm`), through submitit. Machines share the folders of data and results."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark.errors import UserError
from benchmark.files import replace_text
from benchmark.runs.execute import Context, RunResult, execute, store_failure
from benchmark.runs.executors import Advanced, Ended, Execute, Started, Tell, waves
from benchmark.runs.job import Job
from benchmark.runs.workers import import_path, threads_in_environment

if TYPE_CHECKING:
    from benchmark.training import EpochReport

PARAMETERS = {"timeout_min": 24 * 60, "cpus_per_task": 2, "mem_gb": 16}
"""What a job asks SLURM for unless told otherwise."""


class SlurmExecutor:
    """Submits jobs as one array, and what starts from one of them as another when all of these are over; waits for
    them. An interrupt cancels what has not ended.

    Args:
        parameters: of submitit, e.g. {"slurm_partition": "gpu", "slurm_array_parallelism": 8}, over `PARAMETERS`.
        cluster: "slurm", or "local" for processes on this machine. wait: seconds between looks at the queue.
    """

    def __init__(
        self,
        parameters: Mapping[str, Any] | None = None,
        cluster: str = "slurm",
        execute: Execute = execute,
        wait: float = 5.0,
    ) -> None:
        self.parameters, self.cluster, self.execute, self.wait = dict(parameters or {}), cluster, execute, wait

    def run(self, jobs: Sequence[Job], context: Context, tell: Tell) -> None:
        for wave in waves(jobs):
            self._run(wave, context, tell)

    def _run(self, jobs: Sequence[Job], context: Context, tell: Tell) -> None:
        """Jobs none of which starts from another, as one array."""
        with threads_in_environment(context.threads, import_path()):
            handles = self._submit(jobs, context)
        since = datetime.now(UTC)
        running: dict[str, tuple[Any, Job]] = {job.id: (handle, job) for handle, job in zip(handles, jobs, strict=True)}
        begun: set[str] = set()
        heard: dict[str, EpochReport] = {}
        try:
            while running:
                for name, (handle, job) in list(running.items()):
                    done = handle.done()
                    if name not in begun and (done or handle.state == "RUNNING"):
                        begun.add(name)
                        tell(Started(job))
                    news = _news(context.out, job)
                    if news is not None and news != heard.get(name):
                        heard[name] = news
                        tell(Advanced(job, news))
                    if done:
                        _news_file(context.out, job).unlink(missing_ok=True)
                        del running[name]
                        tell(Ended(_result(handle, job, since, context)))
                if running:
                    time.sleep(self.wait)
        finally:
            for handle, _ in running.values():
                handle.cancel()

    def _submit(self, jobs: Sequence[Job], context: Context) -> list[Any]:
        submitit = _submitit()
        gpus = {"gpus_per_node": 1} if context.device == "cuda" else {}
        try:
            executor = submitit.AutoExecutor(folder=log_folder(context.out), cluster=self.cluster)
            executor.update_parameters(**{**PARAMETERS, **gpus, "name": "bench", **self.parameters})
            with executor.batch():
                return [executor.submit(_execute, self.execute, job, context) for job in jobs]
        except (RuntimeError, TypeError, NameError, ValueError, submitit.core.utils.FailedJobError) as fault:
            raise UserError(f"SLURM did not take the jobs: {fault}") from fault


def log_folder(out: Path) -> Path:
    """Where the output of SLURM's jobs goes."""
    return out / "slurm"


def _execute(execute: Execute, job: Job, context: Context) -> RunResult:
    """In the job's process; what the training tells is left in a file for who waits."""
    file = _news_file(context.out, job)
    return execute(job, context, lambda report: replace_text(file, json.dumps(asdict(report))))


def _news_file(out: Path, job: Job) -> Path:
    return log_folder(out) / f"{job.id}.epoch.json"


def _news(out: Path, job: Job) -> EpochReport | None:
    """The latest report of a job; None before the first one."""
    from benchmark.training import EpochReport

    try:
        return EpochReport(**json.loads(_news_file(out, job).read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None


def _result(handle: Any, job: Job, since: datetime, context: Context) -> RunResult:
    try:
        return handle.result()
    except Exception as fault:  # whatever became of the process: the job's result is that it did not survive
        seconds = (datetime.now(UTC) - since).total_seconds()
        error = f"SLURM job {handle.job_id} did not end well: {' '.join(str(fault).split())[-300:]}"
        store_failure(job, context, since, seconds, error, None)
        return RunResult(job, "failed", seconds=seconds, error=error)


def _submitit() -> Any:
    try:
        import submitit
    except ImportError as fault:
        text = "executor 'slurm' needs the extra [slurm]: pip install 'flexcare-bench[slurm]'"
        raise UserError(f"{text} ({fault})") from fault
    return submitit
