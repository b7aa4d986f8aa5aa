"""Measures training steps and predictions of models, by task mix and form, alternating in one run.

In every round all forms of a model get the same fresh batch, one after the other; from round to round they change
places. What is reported is the median over rounds, with the least and the largest; a ratio is formed in each round and
then summed up the same way. The first form is measured a second time as if it were another: how far that ratio is from
1 is the noise. Making batches is not part of a step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import torch

from benchmark.throughput.clock import Spread, alternating, peak_flops
from benchmark.throughput.counting import allocated, counted, flops, idle_share, launches
from benchmark.throughput.forms import Runner, Subject, make_runner
from benchmark.throughput.mixes import VALIDATION_SHARE, Mix
from models.contract import Dimensions, ModelEntry

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
"""Precision of the products, by name; in bfloat16 autocast chooses which, and parameters stay float32."""

YARDSTICK = ("dense", "float32")
"""Form and precision that others are compared with."""


@dataclass(frozen=True)
class Request:
    """What to measure.

    Attributes:
        forms, dtypes: each form in each precision. against: measure the yardstick beside them.
        seeds: models that the fixed form trains side by side. rounds: that count. dimensions: sizes of the models.
    """

    entries: Sequence[ModelEntry]
    mixes: Sequence[Mix]
    forms: Sequence[str]
    dtypes: Sequence[str]
    against: bool
    batch_size: int
    seeds: int
    rounds: int
    dimensions: Dimensions
    device: torch.device

    @property
    def cells(self) -> list[tuple[str, str]]:
        """(form, dtype) of all that is measured of a model, the yardstick last."""
        cells = [(form, dtype) for form in self.forms for dtype in self.dtypes]
        if self.against and YARDSTICK not in cells:
            cells.append(YARDSTICK)
        return cells


@dataclass(frozen=True)
class Row:
    """One form of one model on one task mix.

    Attributes:
        train, infer: seconds of each round. seeds: models trained in one step; predictions are of one of them.
        operations, waits: of a training step, as torch calls them (`Counts`). kernels, cuda_waits: as the CUDA runtime
            is called, None without a CUDA device that the profiler sees. train_flops, infer_flops: carried out.
        peak_bytes: of tensors in a training step, beyond parameters, state of the optimizer and the batch.
        difference: largest difference of this form's first predictions from those of the comparison's first form,
            relative to the largest of these.
        steps: an epoch of the mix. validation: samples that are predicted after it.
        idle: share of the time of steps in a row in which a CUDA device does nothing, None likewise.
    """

    model: str
    title: str
    task: str
    form: str
    dtype: str
    seeds: int
    batch_size: int
    train: tuple[float, ...]
    infer: tuple[float, ...]
    operations: int
    waits: int
    kernels: int | None
    cuda_waits: int | None
    train_flops: int
    infer_flops: int
    peak_bytes: int
    difference: float
    steps: int
    validation: int
    idle: float | None

    @property
    def train_rate(self) -> float:
        """Samples a second, of all seeds together."""
        return self.seeds * self.batch_size / Spread.of(self.train).median

    @property
    def infer_rate(self) -> float:
        return self.batch_size / Spread.of(self.infer).median


@dataclass(frozen=True)
class Comparison:
    """All forms of a model on a mix, from alternating rounds.

    Attributes:
        rows: in the order of the request. again: the first row's form, timed once more.
        missing: (form, reason) of forms that the model does not have.
    """

    rows: tuple[Row, ...]
    again: Row
    missing: tuple[tuple[str, str], ...] = ()

    @property
    def noise(self) -> Spread:
        """Time of the same form measured twice: second over first."""
        return ratio(self.again, self.rows[0])

    @property
    def yardstick(self) -> Row | None:
        return next((row for row in self.rows if (row.form, row.dtype) == YARDSTICK), None)


@dataclass(frozen=True)
class Measurement:
    """What a request gave.

    Attributes:
        peaks: FLOP/s of one large matrix product, by precision.
        left_out: (model, reason) of models without training steps.
    """

    comparisons: tuple[Comparison, ...]
    peaks: dict[str, float]
    left_out: tuple[tuple[str, str], ...] = field(default=())


def ratio(slow: Row, fast: Row, what: str = "train") -> Spread:
    """How many times longer `slow` takes for a sample of a seed, formed in each round."""
    scale = fast.seeds / slow.seeds if what == "train" else 1.0
    return Spread.of([scale * a / b for a, b in zip(getattr(slow, what), getattr(fast, what), strict=True)])


def measure(request: Request, notify: Callable[[str], None] = lambda _: None) -> Measurement:
    """Carries a request out; tells `notify` what comes next."""
    needed = dict.fromkeys([*request.dtypes, YARDSTICK[1]])
    peaks = {name: peak_flops(request.device, DTYPES[name]) for name in needed}
    found, left_out = [], []
    for entry in request.entries:
        if entry.fits:
            left_out.append((entry.title, "fitted in one go, without training steps"))
            continue
        for mix in request.mixes:
            notify(f"{entry.title}, {mix.task.title}")
            found.append(compare(request, Subject(entry, mix, request.dimensions, request.device)))
    return Measurement(tuple(found), peaks, tuple(left_out))


def compare(request: Request, subject: Subject) -> Comparison:
    """All forms of one model on one mix."""
    runners: dict[tuple[str, str], Runner] = {}
    missing = []
    for form, dtype in request.cells:
        made = make_runner(subject, form, DTYPES[dtype], request.batch_size, request.seeds)
        if isinstance(made, str):
            missing.append((f"{subject.entry.title}: {form}", made))
        else:
            runners[form, dtype] = made
    if not runners:
        raise ValueError(f"{subject.entry.name} has none of the forms {', '.join(request.forms)}: {missing}")
    first = next(iter(runners))
    again = make_runner(subject, first[0], DTYPES[first[1]], request.batch_size, request.seeds)
    every = {**runners, "again": again}
    differences = _differences(request, subject, every)
    times = {what: _times(request, subject, every, what) for what in ("infer", "train")}
    batch = subject.batch(request.batch_size, 0)
    rows = [
        _row(request, subject, key, runner, times, differences[key], runner.fit(batch, 0))
        for key, runner in runners.items()
    ]
    repeated = {what: tuple(each["again"]) for what, each in times.items()}
    return Comparison(tuple(rows), replace(rows[0], difference=differences["again"], **repeated), tuple(missing))


def _times(request: Request, subject: Subject, runners: dict, what: str) -> dict:
    """Seconds of each round by runner."""

    def works(number: int) -> dict:
        batch = subject.batch(request.batch_size, number)
        return {key: partial(getattr(runner, what), runner.fit(batch, number)) for key, runner in runners.items()}

    return alternating(request.rounds, works, request.device)


def _differences(request: Request, subject: Subject, runners: dict) -> dict:
    """See `Row.difference`."""
    batch = subject.batch(request.batch_size, 0)
    logits = {key: runner.infer(runner.fit(batch, 0)).float() for key, runner in runners.items()}
    first = next(iter(logits.values()))
    return {key: float((each - first).abs().max() / first.abs().max()) for key, each in logits.items()}


def _row(
    request: Request, subject: Subject, key: tuple[str, str], runner: Runner, times: dict, difference: float, batch
) -> Row:
    train, infer = partial(runner.train, batch), partial(runner.infer, batch)
    counts, launched = counted(partial(runner.unrecorded, batch)), launches(train, request.device)
    peak = allocated(partial(runner.unrecorded, batch), request.device)
    return Row(
        model=subject.entry.name,
        title=subject.entry.title,
        task=subject.mix.task.name,
        form=key[0],
        dtype=key[1],
        seeds=runner.seeds,
        batch_size=request.batch_size,
        train=tuple(times["train"][key]),
        infer=tuple(times["infer"][key]),
        operations=counts.operations,
        waits=counts.waits,
        kernels=launched.kernels if launched else None,
        cuda_waits=launched.waits if launched else None,
        train_flops=flops(partial(runner.unrecorded, batch)),
        infer_flops=flops(infer),
        peak_bytes=counts.peak_bytes if peak is None else peak,
        difference=difference,
        steps=subject.mix.steps_an_epoch(request.batch_size),
        validation=round(subject.mix.samples * VALIDATION_SHARE),
        idle=idle_share(train, request.device),
    )


def epochs(measurement: Measurement) -> dict[tuple[str, str, str, int], dict[str, float]]:
    """Hours of one epoch over the measured tasks, and the yardstick's as a multiple, by model, form, dtype and seeds.

    A step's median is multiplied by the steps of its task's epoch (`Mix.steps_an_epoch`). With several seeds the hours
    are those of one of them. Forms that were not measured on all the tasks of a model have no total.
    """
    totals: dict[tuple[str, str, str, int], list[float]] = {}
    tasks: dict[str, int] = {}
    for comparison in measurement.comparisons:
        for row in comparison.rows:
            key = (row.model, row.form, row.dtype, row.seeds)
            totals.setdefault(key, []).append(row.steps * Spread.of(row.train).median / row.seeds)
        tasks[row.model] = tasks.get(row.model, 0) + 1
    whole = {key: sum(parts) for key, parts in totals.items() if len(parts) == tasks[key[0]]}
    found = {}
    for key, total in whole.items():
        dense = whole.get((key[0], *YARDSTICK, 1))
        found[key] = {"hours": total / 3600, "tasks": tasks[key[0]]} | ({"ratio": dense / total} if dense else {})
    return found
