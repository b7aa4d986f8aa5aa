"""How the cost of a training step grows: with length, batch size, missing modalities, seeds, and patients.

One quantity changes at a time. The points of a quantity take turns in every round. Beside each stands what the work
says: the products that the step carries out, which tests hold equal to the models' closed formulas, at the speed of the
point with the most work. Where a curve lies above, something else than products takes the time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from benchmark.throughput.clock import Spread, alternating
from benchmark.throughput.counting import flops
from benchmark.throughput.forms import Runner, Subject, make_runner
from benchmark.throughput.mixes import Lengths, Mix
from benchmark.throughput.steps import DTYPES, Request

LENGTHS = (16, 32, 64, 128, 256, 512)
MISSING = (0.0, 0.25, 0.5, 0.75, 0.9)
SEEDS = (1, 2, 4, 8)
FACTORS = (0.25, 0.5, 1, 2)
"""Of the batch size asked for."""

STEPS = (1, 2, 4, 8)
"""Steps of the shortened epochs."""

QUANTITIES = ("length", "batch size", "missing rate", "seeds", "patients")


@dataclass(frozen=True)
class Point:
    """One value of a quantity.

    Attributes:
        form: packed, or fixed for several seeds. seconds: of each round. flops: of each round's step or epoch.
    """

    model: str
    title: str
    task: str
    form: str
    quantity: str
    value: float
    seconds: tuple[float, ...]
    flops: tuple[int, ...]

    @property
    def time(self) -> Spread:
        return Spread.of(list(self.seconds))

    @property
    def work(self) -> float:
        return Spread.of(list(self.flops)).median


@dataclass(frozen=True)
class _Case:
    """What is timed for a point: `steps` steps of a runner on batches of a size."""

    value: float
    subject: Subject
    runner: Runner
    size: int
    steps: int = 1

    def batches(self, number: int) -> list:
        numbers = range(number * self.steps, (number + 1) * self.steps)
        return [self.runner.fit(self.subject.batch(self.size, each), each) for each in numbers]

    def work(self, number: int, what: str = "train") -> Callable[[], None]:
        step = getattr(self.runner, what)
        return partial(_each, step, self.batches(number))


def _each(step: Callable, batches: Sequence) -> None:
    for batch in batches:
        step(batch)


def measure_scaling(request: Request, notify: Callable[[str], None] = lambda _: None) -> list[Point]:
    """All quantities for every model and mix of a request, in its first precision."""
    points = []
    for entry in (entry for entry in request.entries if not entry.fits):
        for mix in request.mixes:
            subject = Subject(entry, mix, request.dimensions, request.device)
            for quantity in QUANTITIES:
                notify(f"{entry.title}, {mix.task.title}: {quantity}")
                points += _points(request, subject, quantity)
    return points


def _points(request: Request, subject: Subject, quantity: str) -> list[Point]:
    cases = _cases(request, subject, quantity)
    times = alternating(request.rounds, lambda number: {c.value: c.work(number) for c in cases}, request.device)
    form = "fixed" if quantity == "seeds" else "packed"
    names = (subject.entry.name, subject.entry.title, subject.mix.task.name, form, quantity)
    return [
        # The batches of the rounds that counted, after the one of warm-up.
        Point(*names, c.value, tuple(times[c.value]), tuple(_work(c, number + 1) for number in range(request.rounds)))
        for c in cases
    ]


def _work(case: _Case, number: int) -> int:
    return flops(case.work(number, "unrecorded"))


def _cases(request: Request, subject: Subject, quantity: str) -> list[_Case]:
    dtype, size, dims = DTYPES[request.dtypes[0]], request.batch_size, request.dimensions

    def runner(form: str = "packed", of: Subject = subject, seeds: int = 1) -> Runner | str:
        return make_runner(of, form, dtype, size, seeds)

    if quantity == "length":
        lengths = [length for length in LENGTHS if length <= min(dims.hours, dims.note_tokens)]
        own = [replace(subject, mix=_whole(subject.mix, length)) for length in lengths]
        return [_Case(length, each, runner(of=each), size) for length, each in zip(lengths, own, strict=True)]
    if quantity == "missing rate":
        own = [replace(subject, mix=_sparse(subject.mix, rate)) for rate in MISSING]
        return [_Case(rate, each, runner(of=each), size) for rate, each in zip(MISSING, own, strict=True)]
    if quantity == "seeds":
        made = [(seeds, runner("fixed", seeds=seeds)) for seeds in SEEDS]
        return [_Case(seeds, subject, each, size) for seeds, each in made if not isinstance(each, str)]
    one = runner()
    if quantity == "batch size":
        sizes = dict.fromkeys(max(1, round(factor * size)) for factor in FACTORS)
        return [_Case(each, subject, one, each) for each in sizes]
    return [_Case(count * size, subject, one, size, count) for count in STEPS]


def _whole(mix: Mix, length: int) -> Mix:
    """Every sample owns everything, hours and note tokens are `length`."""
    return replace(mix, missing=(0.0, 0.0, 0.0), hours=Lengths(length, length), tokens=Lengths(length, length))


def _sparse(mix: Mix, rate: float) -> Mix:
    """Modalities but the primary one are missing at this rate."""
    names = ("ehr", "cxr", "note")
    return replace(mix, missing=tuple(0.0 if name == mix.task.primary else rate for name in names))


def by_work(points: Sequence[Point]) -> list[float]:
    """Seconds of each point of a quantity by its work alone, at the speed of the point with the most work."""
    most = max(points, key=lambda point: point.work)
    return [most.time.median * point.work / most.work for point in points]


def groups(points: Sequence[Point]) -> list[list[Point]]:
    """The points of each model, task and quantity, in order."""
    found: dict[tuple[str, str, str], list[Point]] = {}
    for point in points:
        found.setdefault((point.model, point.task, point.quantity), []).append(point)
    return list(found.values())
