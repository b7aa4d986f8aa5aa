"""Executes one job and writes its run folder. Knows nothing of other jobs, of processes or of the screen."""

from __future__ import annotations

import hashlib
import os
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark.errors import UserError
from benchmark.locks import holding
from benchmark.runs.folder import (
    FORMAT,
    course_file,
    is_done,
    json_text,
    lock_file,
    new_run,
    remove_course,
    runs_folder,
)
from benchmark.runs.job import Job

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

    from benchmark.data.dataset import PreparedData
    from benchmark.training import EpochReport, Trained, TrainingPlan
    from benchmark.training.resume import Bookmark

    Train = Callable[..., Trained]
    Notify = Callable[[EpochReport], None]


@dataclass(frozen=True)
class Context:
    """What jobs of a plan share and what does not change their numbers.

    Attributes:
        data: folder of the prepared data set. out: folder of the results. device: "cpu" or "cuda".
        threads: of torch on the CPU. caption: facts that are written into every run.json for readers.
        studies: tuning study that a model's settings come from, by model.
        wait: for jobs that another process is at, instead of leaving them out.
        deterministic: of torch's algorithms only those that give the same bytes each time.
        save_every: seconds after which a job keeps what it has reached, at the next end of an epoch.
        form: "packed": jobs are trained one by one, on packed batches; "fixed": seeds of one model are trained side by
            side, on batches of fixed shapes, where the model can be.
    """

    data: Path
    out: Path
    device: str
    threads: int
    caption: Mapping[str, Any] = field(default_factory=dict)
    studies: Mapping[str, str] = field(default_factory=dict)
    save_every: float = 60.0
    deterministic: bool = False
    wait: bool = False
    form: str = "packed"


@dataclass(frozen=True)
class RunResult:
    """How a job ended.

    Attributes:
        status: "done", "failed", "skipped" when another process had finished the job already, or "busy" when another
            process is at it.
        metrics: by task and metric. seconds: it took. error: last line of what went wrong.
    """

    job: Job
    status: str
    metrics: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    seconds: float = 0.0
    error: str = ""


def execute(
    job: Job,
    context: Context,
    notify: Notify = lambda report: None,
    train: Train | None = None,
    data: PreparedData | None = None,
) -> RunResult:
    """Trains, tests and stores one job, from where an earlier call was stopped. An error of the job is stored too and
    never raised.

    Args:
        job: what to do. context: where and on what.
        notify: told after every epoch. train: replaces `benchmark.training.train`. data: the data set, already opened.
    """
    with holding(lock_file(context.out, job.id), context.wait) as mine:
        if is_done(context.out, job.id):
            return RunResult(job, "skipped")
        if not mine or must_wait(job, context):
            return RunResult(job, "busy")
        return execute_held(job, context, notify, train, data)


def must_wait(job: Job, context: Context) -> bool:
    """Whether another process is at the job that this one starts from; if that is to be waited for, it is over then."""
    if job.initial is None or is_done(context.out, job.initial):
        return False
    with holding(lock_file(context.out, job.initial), context.wait) as free:
        return not free


def execute_held(
    job: Job, context: Context, notify: Notify, train: Train | None = None, data: PreparedData | None = None
) -> RunResult:
    """As `execute`, for a job whose lock this process holds."""
    started, clock = datetime.now(UTC), time.perf_counter()
    bookmark = make_bookmark(job, context)
    try:
        outcome: Trained | Exception = _train(job, context, notify, train, data, bookmark)
    except Exception as fault:  # the boundary of a job: whatever a model raises is its result, and the grid goes on
        outcome = fault
    return conclude(job, context, outcome, started, time.perf_counter() - clock, bookmark.earlier)


def conclude(
    job: Job,
    context: Context,
    outcome: Trained | Exception,
    started: datetime,
    seconds: float,
    earlier: float,
    side_by_side: Sequence[int] = (),
) -> RunResult:
    """Stores what became of a job.

    Args:
        outcome: its result, or what went wrong. seconds: they took. earlier: seconds of interrupted calls before.
        side_by_side: seeds that shared its steps, its own among them, in their order; none: it was trained packed.
    """
    try:
        if isinstance(outcome, Exception):
            raise outcome
        _store(job, context, outcome, started, seconds + earlier, side_by_side)
        remove_course(context.out, job.id)
    except UserError as fault:
        error, trace, samples = str(fault), None, getattr(fault, "samples", ())
    except Exception as fault:
        error, trace, samples = _one_line(fault), traceback.format_exc(), ()
    else:
        return RunResult(job, "done", outcome.metrics, seconds + earlier)
    store_failure(job, context, started, seconds, error, trace, samples)
    return RunResult(job, "failed", seconds=seconds, error=error)


def store_failure(
    job: Job,
    context: Context,
    started: datetime,
    seconds: float,
    error: str,
    trace: str | None,
    samples: Sequence[int] = (),
) -> None:
    """Keeps the record of a job that did not end well; it does not count as done and is tried again.

    Args:
        samples: numbers of those that it failed on; they are named as in the predictions of finished runs.
    """
    named = {"samples": keyed_hashes(_key(context), "sample", samples)} if samples else {}
    with new_run(context.out, job.id, failed=True) as folder:
        record = _record(job, context, "failed", started, seconds)
        text = json_text({**record, "error": error, "traceback": trace, **named})
        (folder / "run.json").write_text(text, encoding="utf-8")


def _key(context: Context) -> bytes:
    """The secret by which samples and patients are named in results; it stays with the data."""
    return (context.data / "private" / "key.bin").read_bytes()


def keyed_hashes(key: bytes, kind: str, values: Iterable[int]) -> list[str]:
    """Names for numbers that only the holder of `key` can trace back; equal for equal numbers of one kind."""
    person = kind.encode()
    return [
        hashlib.blake2b(
            int(value).to_bytes(8, "little", signed=True), digest_size=10, key=key, person=person
        ).hexdigest()
        for value in values
    ]


def make_bookmark(job: Job, context: Context) -> Bookmark:
    """Where a running job keeps what it has reached."""
    from benchmark.training.resume import Bookmark

    return Bookmark(course_file(context.out, job.id), job.id, context.save_every)


def _train(
    job: Job,
    context: Context,
    notify: Notify,
    train: Train | None,
    data: PreparedData | None,
    bookmark: Bookmark,
) -> Trained:
    import torch

    from benchmark.data.dataset import PreparedData

    if train is None:
        from benchmark.training import train
    plan = plan_of(job, context)
    with threads_of(context):
        return train(plan, data or PreparedData.open(context.data), torch.device(context.device), notify, bookmark)


@contextmanager
def threads_of(context: Context) -> Iterator[None]:
    """Gives torch the context's number of threads and kind of algorithms meanwhile."""
    import torch

    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    if context.device == "cpu":
        torch.set_num_threads(context.threads)
    if context.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it when it is first used
        torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        if context.deterministic:  # any call loads torch's compiler, which takes seconds
            torch.use_deterministic_algorithms(before[1])


def plan_of(job: Job, context: Context) -> TrainingPlan:
    """The training of a job, with the state that it starts from if it starts from one.

    Raises:
        UserError: that state is not there, or the model or its options are not of this version.
    """
    if job.initial is not None and not is_done(context.out, job.initial):
        raise UserError(f"starts from {job.initial}, which has not finished")
    return training_plan(job, None if job.initial is None else read_state(context.out, job.initial))


def training_plan(job: Job, initial: Mapping[str, Tensor] | None = None) -> TrainingPlan:
    """What a job asks of the training; `initial` is the state of the job that it starts from.

    Raises:
        UserError: the model or its options are not of this version.
    """
    from benchmark import registry
    from benchmark.config import build_options
    from benchmark.training import TrainingPlan
    from models.contract import Dimensions

    faults: list[str] = []
    options = build_options(registry.get(job.model), job.options, faults)
    if faults:
        raise UserError("; ".join(faults))
    return TrainingPlan(
        model=job.model,
        config=options,
        dimensions=Dimensions(**job.dimensions),
        tasks=job.tasks,
        seed=job.seed,
        batch_size=job.batch_size,
        epochs=job.epochs,
        learning_rate=job.learning_rate,
        task_weights=dict(job.task_weights),
        halve_learning_rate=job.halve_learning_rate,
        augmentation=job.augmentation,
        encoder=job.encoder,
        label_fraction=job.label_fraction,
        redraw_hours=job.redraw_hours,
        note_dropout=job.note_dropout,
        task_rates=dict(job.task_rates),
        precision=job.precision,
        trace=job.trace,
        initial=initial,
    )


def read_state(out: Path, run: str) -> Mapping[str, Tensor]:
    """The final state of a finished run.

    Raises:
        UserError: it is not finished, or its checkpoint cannot be read.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    file = runs_folder(out) / run / "checkpoint.safetensors"
    if not is_done(out, run):
        raise UserError(f"{run} has not finished")
    try:
        return load_file(file)
    except (OSError, SafetensorError) as fault:
        raise UserError(f"cannot read {file}: {fault}; delete its folder to have the run repeated") from fault


def _store(
    job: Job, context: Context, trained: Trained, started: datetime, seconds: float, side_by_side: Sequence[int]
) -> None:
    from safetensors.torch import save_file

    key = _key(context)
    with new_run(context.out, job.id) as folder:
        _predictions(trained.predictions, key).to_parquet(folder / "predictions.parquet", index=False)
        trained.history.to_parquet(folder / "history.parquet", index=False)
        if trained.trace is not None:
            trained.trace.to_parquet(folder / "trace.parquet", index=False)
        state = {name: value.detach().cpu().contiguous().clone() for name, value in trained.state.items()}
        save_file(state, folder / "checkpoint.safetensors", metadata={"run": job.id})
        # As it was really trained: the context says only which form was asked for.
        form = {"form": "fixed" if side_by_side else "packed", "side_by_side": side_by_side}
        record = _record(job, context, "done", started, seconds) | form
        text = json_text({**record, "metrics": trained.metrics, "info": trained.info})
        (folder / "run.json").write_text(text, encoding="utf-8")


def _record(job: Job, context: Context, status: str, started: datetime, seconds: float) -> dict[str, Any]:
    from benchmark import registry
    from benchmark.runs.environment import environment

    entry = registry.get(job.model)
    return {
        "format": FORMAT,
        "run": job.id,
        "status": status,
        "model": {"name": entry.name, "title": entry.title, "paper": entry.paper, "multitask": entry.multitask},
        "job": asdict(job),
        "variant": job.variant,
        "study": context.studies.get(job.model),
        **context.caption,
        "environment": environment(context.device, context.threads) | {"deterministic": context.deterministic},
        "started": started.isoformat(timespec="seconds"),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(seconds, 3),
    }


def _predictions(frames: Mapping[str, pd.DataFrame], key: bytes) -> pd.DataFrame:
    """One row a test sample and task; labels and probabilities as lists, masked labels as NaN."""
    import pandas as pd

    tables = []
    for task, frame in frames.items():
        table = pd.DataFrame({"task": task, "sample": keyed_hashes(key, "sample", frame["sample"])})
        table["patient"] = keyed_hashes(key, "patient", frame["patient"])
        for column in (name for name in frame.columns if name.startswith("present_")):
            table[column] = frame[column].to_numpy(bool)
        for column in ("y", "p"):
            table[column] = list(_numbered(frame, column).to_numpy("float32"))
        tables.append(table)
    return pd.concat(tables, ignore_index=True)


def _numbered(frame: pd.DataFrame, prefix: str) -> pd.DataFrame:
    """The columns prefix0, prefix1, ... in the order of their numbers."""
    names = [name for name in frame.columns if name[: len(prefix)] == prefix and name[len(prefix) :].isdigit()]
    return frame[sorted(names, key=lambda name: int(name[len(prefix) :]))]


def _one_line(fault: Exception) -> str:
    text = " ".join(str(fault).split())
    return f"{type(fault).__name__}: {text[:300]}" if text else type(fault).__name__
