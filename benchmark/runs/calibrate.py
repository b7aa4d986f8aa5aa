"""How fast jobs are here, and what memory they take: each kind is trained for a few short epochs on a part of the data.

The first epoch does not count; from the time per training step and per predicted sample of the others follows that of
the whole job. As many kinds are calibrated side by side as jobs will be, so that what they take from one another is in
the figures. Other programs are not.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark import registry
from benchmark.data.dataset import PreparedData, TaskData
from benchmark.files import replace_text
from benchmark.random import stream
from benchmark.runs.companies import companies
from benchmark.runs.execute import Context, training_plan
from benchmark.runs.folder import json_text
from benchmark.runs.job import Job, digest
from benchmark.runs.tally import counted
from benchmark.runs.workers import as_worker, threads_in_environment

if TYPE_CHECKING:
    import pandas as pd
    import torch

    from benchmark.training import EpochReport, Trained, TrainingPlan

EPOCHS = {"packed": 2, "fixed": 3}
"""Epochs that are trained, by form. On a GPU a step is recorded when a batch first needs its shape, in whichever epoch
that is; the recording's time is known, but what else it makes slower is left out with the slower epoch."""

ORDERS = 5
"""Times that the test samples are predicted by a model whose samples couple."""

Samples = Mapping[str, Mapping[str, int]]
"""Number of samples by task and partition."""

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Extent:
    """The part of a data set that is trained on: of each task `steps` batches of training samples, `samples` others."""

    steps: int = 24
    samples: int = 256


@dataclass(frozen=True)
class Speed:
    """What was measured of a kind of job.

    Attributes:
        steps: seconds of a training step by task, for all seeds that are trained together. sample: of a prediction.
        once: seconds that a training takes beside its epochs and tests.
        memory: bytes at the peak; on the CPU of the whole process, on a GPU what torch holds there.
        together: seeds that a step trains. timed: steps behind these figures.
    """

    steps: Mapping[str, float]
    sample: float
    once: float
    memory: int
    together: int
    timed: int

    def seconds(self, jobs: Sequence[Job], samples: Samples) -> float:
        """Of a company of jobs, as `companies` makes them, on data of so many samples."""
        job, rounds = jobs[0], math.ceil(len(jobs) / self.together)
        step_seconds = 0.0
        for task in job.tasks:
            count = max(1, round(samples[task]["train"] * job.label_fraction))
            step_seconds += max(1, count // job.batch_size) * self.steps[task]
        validation, test = (sum(samples[task][part] for task in job.tasks) for part in ("val", "test"))
        tests = test * (_orders(job) + (job.epochs * len(job.tasks) if job.trace else 0))
        predicted = (job.epochs * validation + tests) * self.sample
        return rounds * (self.once + job.epochs * step_seconds) + len(jobs) * predicted


class Excerpt(PreparedData):
    """A part of a data set, drawn at random."""

    batch_size, extent = 1, Extent()

    def task(self, name: str, splits: Sequence[str] = ("train", "val", "test")) -> TaskData:
        whole = super().task(name, splits)
        parts = {}
        for split, samples in whole.partitions.items():
            count = self.extent.steps * self.batch_size if split == "train" else self.extent.samples
            parts[split] = samples.take(stream(0, "excerpt", name, split).permutation(len(samples))[:count])
        return replace(whole, partitions=parts)


def calibrate(jobs: Sequence[Job], context: Context, samples: Samples, extent: Extent) -> Speed:
    """Trains an excerpt of a company of jobs here.

    Args:
        samples: of the whole data.
    """
    import torch

    from benchmark.training.expense import peak_memory
    from benchmark.training.portions import out_of_memory

    job, device = jobs[0], torch.device(context.device)
    data = Excerpt.open(context.data)
    data.batch_size, data.extent = job.batch_size, extent
    if context.device == "cpu":
        torch.set_num_threads(context.threads)
    # Noisy notes take as long as others, and may not be there yet.
    plain = [training_plan(replace(one, initial=None, trace=False, note_dropout=0)) for one in jobs]
    epochs = EPOCHS[context.form]
    plans = [replace(plan, epochs=epochs, label_fraction=1.0) for plan in plain]
    while True:
        reports: list[EpochReport] = []
        started = time.perf_counter()
        try:
            trained = _train(plans, data, device, reports.append, context.form)
            break
        except Exception as fault:
            if len(plans) == 1 or not out_of_memory(fault):
                raise
        plans = plans[: len(plans) // 2]  # as runs do
    whole, seen = time.perf_counter() - started, _seen(job, samples, extent)
    return _speed(job, trained[0].history, reports, len(trained), whole, seen, peak_memory(device))


def _train(
    plans: Sequence[TrainingPlan],
    data: PreparedData,
    device: torch.device,
    notify: Callable[[EpochReport], None],
    form: str,
) -> list[Trained]:
    """All plans side by side, or the first one where they cannot be."""
    from benchmark.training import train
    from benchmark.training.together import NotTogether, train_together

    if form == "fixed":
        try:
            outcomes = train_together(plans, data, device, [notify] * len(plans), [None] * len(plans))
        except NotTogether:
            pass
        else:
            for outcome in outcomes:
                if isinstance(outcome, Exception):
                    raise outcome
            return outcomes
    return [train(plans[0], data, device, notify)]


def _seen(job: Job, samples: Samples, extent: Extent) -> dict[str, int]:
    """Validation and test samples of an excerpt."""
    return {part: sum(min(extent.samples, samples[task][part]) for task in job.tasks) for part in ("val", "test")}


def _speed(
    job: Job,
    history: pd.DataFrame,
    reports: Sequence[EpochReport],
    together: int,
    whole: float,
    seen: Mapping[str, int],
    memory: int,
) -> Speed:
    """From the epochs of `together` seeds with a test at the end; of the epochs after the first the fastest counts.

    Args:
        history: of one of the seeds; their steps are the same. reports: of all. whole: seconds of all.
    """
    later = history[history["epoch"] > 1]
    fastest = later.groupby("task")[["seconds", "samples"]].min()
    epochs = sorted(set(history["epoch"]))
    validating = min(sum(one.validating for one in reports if one.epoch == epoch) for epoch in epochs[1:])
    sample = validating / (together * seen["val"])
    steps = {task: max(1, math.ceil(fastest.loc[task, "samples"] / job.batch_size)) for task in job.tasks}
    tests = together * seen["test"] * _orders(job) * sample
    usual = fastest["seconds"].sum() + validating
    return Speed(
        steps={task: float(fastest.loc[task, "seconds"]) / count for task, count in steps.items()},
        sample=sample,
        once=float(max(0.0, whole - len(epochs) * usual - tests)),
        memory=memory,
        together=together,
        timed=sum(steps.values()),
    )


def _orders(job: Job) -> int:
    return ORDERS if registry.get(job.model).couples_samples else 1


def kind_of(jobs: Sequence[Job], form: str) -> str:
    """Hash of what companies of jobs have in common whose steps are equally fast."""
    shared = {"seed": None, "initial": None, "initial_variant": None, "trace": None, "epochs": None}
    shared |= {"label_fraction": None, "form": form, "seeds": len(jobs) if form == "fixed" else 1}
    return digest({**asdict(jobs[0]), **shared})


@dataclass(frozen=True)
class Speeds:
    """What was calibrated on a device with so many processes side by side.

    Attributes:
        kinds: by `kind_of`. start: seconds that a new process takes beside its jobs.
    """

    kinds: Mapping[str, Speed]
    start: float = 0.0

    def of(self, jobs: Sequence[Job], form: str) -> Speed | None:
        """None for models that are fitted in one go, and for what was not calibrated."""
        return self.kinds.get(kind_of(jobs, form))


def measured_speeds(
    jobs: Sequence[Job],
    context: Context,
    samples: Samples,
    processes: int,
    progress: Progress | None = None,
    extent: Extent = Extent(),
) -> Speeds:
    """Speeds of all jobs; kinds that were calibrated under the same circumstances before are not again.

    They are kept in OUT/speeds.json, each as soon as it is known. The calibration runs in processes of its own.

    Args:
        processes: side by side.
    """
    known = stored_speeds(context, processes)
    kinds = {kind_of(company, context.form): company for company in companies(jobs, context)}
    missing = [
        (kind, company)
        for kind, company in kinds.items()
        if kind not in known.kinds and not registry.get(company[0].model).fits
    ]
    if not missing:
        return known
    spawn, count = get_context("spawn"), min(processes, len(missing))
    with threads_in_environment(context.threads):
        began = time.perf_counter()
        with spawn.Pool(count, as_worker) as pool:
            work = [(kind, company, context, samples, extent) for kind, company in missing]
            pool.map(_begin, range(count), chunksize=1)
            start = time.perf_counter() - began
            shortest = min(work, key=lambda one: one[1][0].cost(samples))
            warming = pool.map(_warm_up, [shortest] * count, chunksize=1)
            known = replace(known, start=start + sum(warming) / count)
            for done, (kind, speed) in enumerate(pool.imap_unordered(_calibrate, work), start=1):
                known = replace(known, kinds={**known.kinds, kind: speed})
                _store(known, context, processes)
                if progress:
                    progress("calibration", done, len(missing))
    return known


def stored_speeds(context: Context, processes: int) -> Speeds:
    """What was calibrated on this device with so many processes before."""
    found = _read(context.out).get(_circumstances(context, processes), {"kinds": {}, "start": 0.0})
    return Speeds({kind: Speed(**one) for kind, one in found["kinds"].items()}, found["start"])


def _store(speeds: Speeds, context: Context, processes: int) -> None:
    everything = _read(context.out) | {_circumstances(context, processes): asdict(speeds)}
    replace_text(_file(context.out), json_text(everything))


def _file(out: Path) -> Path:
    return out / "speeds.json"


def _read(out: Path) -> dict[str, Any]:
    return json.loads(_file(out).read_text(encoding="utf-8")) if _file(out).is_file() else {}


def _begin(_: int) -> None:
    """What every worker process does before its first job."""
    import benchmark.training  # noqa: F401


Work = tuple[str, Sequence[Job], Context, Samples, Extent]


def _warm_up(work: Work) -> float:
    """Seconds that the first job of a process takes longer than a second one like it: libraries are loaded when they
    are first used."""
    first, second = (calibrate(*work[1:]) for _ in range(2))
    return max(0.0, first.once - second.once)


def _calibrate(work: Work) -> tuple[str, Speed]:
    kind, *arguments = work
    return kind, calibrate(*arguments)


def _circumstances(context: Context, processes: int) -> str:
    return f"{device_line(context)}, processes side by side: {processes}"


def device_line(context: Context) -> str:
    """The device that jobs run on, in words."""
    from benchmark.runs.environment import environment

    facts = environment(context.device, context.threads)
    threads = f", {counted(context.threads, 'thread')} a process" if context.device == "cpu" else ""
    return f"{facts['device_name']} ({context.device}){threads}"


def is_prepared(folder: Path, jobs: Sequence[Job]) -> bool:
    """Whether everything is there that jobs read, so that they could be calibrated."""
    from benchmark.data.dataset import embeddings_folder

    tasks = {task for job in jobs for task in job.tasks}
    files = [folder / "samples" / f"{task}.parquet" for task in tasks]
    files += [embeddings_folder(folder, job.encoder) / "offsets.npy" for job in jobs if job.encoder]
    return all(file.is_file() for file in files)
