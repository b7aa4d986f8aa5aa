"""How long jobs will take here, and how much memory: each kind is trained for two short epochs on a part of the data.

The second epoch counts; from its time per training step and per validation sample follows that of the whole job. An
estimate knows nothing of what other programs, or jobs side by side, take from one another.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING

from benchmark import registry
from benchmark.data.dataset import PreparedData, TaskData
from benchmark.files import replace_text
from benchmark.random import stream
from benchmark.runs.execute import Context, training_plan
from benchmark.runs.folder import json_text
from benchmark.runs.job import Job, digest
from benchmark.runs.workers import as_worker, threads_in_environment

if TYPE_CHECKING:
    import pandas as pd

    from benchmark.training import EpochReport

STEPS, SAMPLES = 24, 256
"""Training batches and validation samples of each task in the part of the data."""
ORDERS = 5
"""Times that the test samples are predicted by a model whose samples couple."""


@dataclass(frozen=True)
class Estimate:
    """Of one job: seconds, and bytes at the peak (on the CPU of the whole process)."""

    seconds: float
    memory: int


class Excerpt(PreparedData):
    """A part of a data set: of each task `STEPS` batches of training samples and `SAMPLES` others, drawn at random."""

    batch_size = 1

    def task(self, name: str, splits: Sequence[str] = ("train", "val")) -> TaskData:
        whole = super().task(name, splits)
        parts = {}
        for split, samples in whole.partitions.items():
            count = STEPS * self.batch_size if split == "train" else SAMPLES
            parts[split] = samples.take(stream(0, "excerpt", name, split).permutation(len(samples))[:count])
        return replace(whole, partitions=parts)


def calibrate(job: Job, context: Context, samples: Mapping[str, Mapping[str, int]]) -> Estimate | None:
    """Trains an excerpt of `job` here; None for models that are fitted in one go, whose time does not follow from it.

    Args:
        samples: of the whole data, by task and partition.
    """
    import torch

    from benchmark.training import validate
    from benchmark.training.expense import forget_peak_memory, peak_memory

    if registry.get(job.model).fits:
        return None
    device = torch.device(context.device)
    data = Excerpt.open(context.data)
    data.batch_size = job.batch_size
    plan = replace(training_plan(replace(job, initial=None)), epochs=2, label_fraction=1.0)
    clock = _Clock(len(job.tasks))
    forget_peak_memory(device)
    if context.device == "cpu":
        torch.set_num_threads(context.threads)
    history = validate(plan, data, device, clock.notify).history
    return Estimate(_seconds(job, samples, history, clock), peak_memory(device))


def _seconds(job: Job, samples: Mapping[str, Mapping[str, int]], history: pd.DataFrame, clock: _Clock) -> float:
    second = history[history["epoch"] == 2].set_index("task")
    seen = sum(min(SAMPLES, samples[task]["val"]) for task in job.tasks)
    for_sample = max(0.0, clock.epoch_seconds - second["seconds"].sum()) / seen
    epoch = sum(samples[task]["val"] for task in job.tasks) * for_sample
    for task in job.tasks:
        count = max(1, round(samples[task]["train"] * job.label_fraction))
        steps = max(1, count // job.batch_size)
        done = max(1, math.ceil(second.loc[task, "samples"] / job.batch_size))
        epoch += steps * second.loc[task, "seconds"] / done
    orders = ORDERS if registry.get(job.model).couples_samples else 1
    test = sum(samples[task]["test"] for task in job.tasks) * for_sample * orders
    return float(clock.before + job.epochs * epoch + test)


class _Clock:
    """Times the second epoch from outside: between the last reports of both."""

    def __init__(self, tasks: int) -> None:
        self._tasks, self._reports = tasks, 0
        self._started = time.perf_counter()
        self._ends: list[float] = []

    def notify(self, report: EpochReport) -> None:
        self._reports += 1
        if self._reports % self._tasks == 0:
            self._ends.append(time.perf_counter())

    @property
    def epoch_seconds(self) -> float:
        return self._ends[1] - self._ends[0]

    @property
    def before(self) -> float:
        """Seconds before the first epoch, if that took as long as the second."""
        return max(0.0, self._ends[0] - self._started - self.epoch_seconds)


def kind_of(job: Job) -> str:
    """Hash of what jobs have in common that take the same time: all but the seed."""
    return digest({**asdict(job), "seed": None, "initial": None, "initial_variant": None, "trace": None})


def estimates(
    jobs: Sequence[Job],
    context: Context,
    samples: Mapping[str, Mapping[str, int]],
    progress: Callable[[str, int, int], None] | None = None,
) -> dict[str, Estimate]:
    """Estimates by `kind_of` a job; kinds that were calibrated on this machine and device before are not again.

    They are kept in OUT/estimates.json. The calibration runs in a process of its own, whose memory is like a worker's.
    """
    known = stored_estimates(context)
    kinds = {kind_of(job): job for job in jobs if not registry.get(job.model).fits}
    missing = {kind: job for kind, job in kinds.items() if kind not in known}
    if missing:
        known |= _apart(missing, context, samples, progress)
        stored = _read(context.out) | {_machine(context): {kind: asdict(one) for kind, one in known.items()}}
        replace_text(_file(context.out), json_text(stored))
    return {kind: known[kind] for kind in kinds if kind in known}


def stored_estimates(context: Context) -> dict[str, Estimate]:
    """What was calibrated on this machine and device before."""
    return {kind: Estimate(**one) for kind, one in _read(context.out).get(_machine(context), {}).items()}


def _file(out: Path) -> Path:
    return out / "estimates.json"


def _read(out: Path) -> dict[str, dict[str, dict[str, float]]]:
    return json.loads(_file(out).read_text(encoding="utf-8")) if _file(out).is_file() else {}


def _apart(
    jobs: Mapping[str, Job],
    context: Context,
    samples: Mapping[str, Mapping[str, int]],
    progress: Callable[[str, int, int], None] | None,
) -> dict[str, Estimate]:
    spawn = get_context("spawn")
    found: dict[str, Estimate] = {}
    with threads_in_environment(context.threads), spawn.Pool(1, as_worker) as pool:
        arguments = [(job, context, samples) for job in jobs.values()]
        for kind, estimate in zip(jobs, pool.imap(_calibrate, arguments), strict=True):
            if estimate is not None:
                found[kind] = estimate
            if progress:
                progress("calibration", len(found), len(jobs))
    return found


def _calibrate(arguments: tuple[Job, Context, Mapping[str, Mapping[str, int]]]) -> Estimate | None:
    return calibrate(*arguments)


def _machine(context: Context) -> str:
    from benchmark.runs.environment import environment

    facts = environment(context.device, context.threads)
    return f"{facts['device_name']}, {context.device}, {context.threads} threads"


def is_prepared(folder: Path, jobs: Sequence[Job]) -> bool:
    """Whether everything is there that jobs read, so that they could be calibrated."""
    from benchmark.data.dataset import embeddings_folder

    tasks = {task for job in jobs for task in job.tasks}
    files = [folder / "samples" / f"{task}.parquet" for task in tasks]
    files += [embeddings_folder(folder, job.encoder) / "offsets.npy" for job in jobs if job.encoder]
    return all(file.is_file() for file in files)


def makespan(seconds: Sequence[float], workers: int) -> float:
    """Seconds until all jobs are done if each worker takes the next one when it is free, in the given order.

    >>> makespan([3, 2, 2], 2)
    4.0
    """
    free = [0.0] * workers
    for one in seconds:
        free[free.index(min(free))] += one
    return max(free)


def longest_first(
    jobs: Sequence[Job], known: Mapping[str, Estimate], samples: Mapping[str, Mapping[str, int]]
) -> list[Job]:
    """Jobs by estimated seconds; those without an estimate by their number of samples, at the pace of the others."""
    paces = [known[kind_of(job)].seconds / max(1, job.cost(samples)) for job in jobs if kind_of(job) in known]
    pace = sum(paces) / len(paces) if paces else 1.0

    def seconds(job: Job) -> float:
        estimate = known.get(kind_of(job))
        return estimate.seconds if estimate else pace * job.cost(samples)

    return sorted(jobs, key=lambda job: -seconds(job))
