"""Which executor a request asks for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmark.config import RunConfig
from benchmark.cores import core_count
from benchmark.errors import UserError
from benchmark.runs.collect import read_run
from benchmark.runs.executors import Executor, InProcess, ProcessPool
from benchmark.runs.folder import is_done, runs_folder
from benchmark.runs.gpus import MemoryOf, local_gpus, packed
from benchmark.runs.job import Job


def executor_for(config: RunConfig, device: str, workers: int, jobs: Sequence[Job], form: str) -> Executor:
    """The executor that `config` names; by default processes for several workers, and all GPUs where there are several.

    Args:
        device: "cpu" or "cuda". workers: processes side by side. jobs: all of the plan, finished ones too.
        form: "packed" or "fixed", in which the seeds of a model are in one process.
    """
    if config.executor == "ray":
        from benchmark.runs.on_ray import RayExecutor

        return RayExecutor(config.address, config.workers, config.gpu_share)
    if config.executor == "slurm":
        from benchmark.runs.on_slurm import SlurmExecutor

        return SlurmExecutor(config.slurm)
    gpus = local_gpus() if device == "cuda" and config.executor in ("auto", "gpus") else []
    if config.executor == "gpus" and not gpus:
        raise UserError("executor 'gpus' needs CUDA devices and jobs that run on them (--device cuda); torch sees none")
    if config.executor == "gpus" or (len(gpus) > 1 and config.workers is None):
        most = config.workers or max(1, core_count() // len(gpus))
        return ProcessPool(packed(gpus, memory_of_runs(config.out, jobs, form), most))
    if config.executor == "process" or (config.executor == "auto" and workers == 1):
        return InProcess()
    return ProcessPool(workers)


def memory_of_runs(out: Path, jobs: Sequence[Job], form: str) -> MemoryOf:
    """What a finished run of the same settings and any seed took on a GPU; looks again for those not finished yet.

    In the fixed form it is what seeds take together, in proportion if there are more of them now.
    """
    alike: dict[str, list[Job]] = {}
    for job in jobs:
        alike.setdefault(job.variant, []).append(job)
    known: dict[str, int] = {}

    def memory(job: Job) -> int | None:
        if job.variant not in known:
            done = next((one for one in alike.get(job.variant, ()) if is_done(out, one.id)), None)
            record = read_run(runs_folder(out) / done.id) if done else None
            if record and record["environment"]["device"] == "cuda":
                waiting = sum(not is_done(out, one.id) for one in alike[job.variant]) if form == "fixed" else 1
                more = waiting / record["info"].get("seeds_together", 1)
                known[job.variant] = int(record["info"]["peak_memory"] * max(1.0, more))
        return known.get(job.variant)

    return memory
