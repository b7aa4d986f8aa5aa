"""What a plan will take on this machine: hours and memory, on one device or on several like it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from benchmark import registry
from benchmark.config import RunConfig
from benchmark.cores import core_count
from benchmark.runs.calibrate import Speeds, device_line, is_prepared, kind_of, measured_speeds
from benchmark.runs.execute import Context
from benchmark.runs.executors import Choose, any_of
from benchmark.runs.folder import is_done
from benchmark.runs.gpus import Gpu, local_gpus, packed
from benchmark.runs.job import Job
from benchmark.runs.launch import context_of, processes_here, worker_count
from benchmark.runs.plan import Plan
from benchmark.runs.schedule import Piece, pieces_of, simulate

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Course:
    """How a plan goes on so many devices.

    Attributes:
        devices: GPUs, or processes with a core each. seconds: until the last job is done.
        memory: bytes of all processes together at the peak.
    """

    devices: int
    seconds: float
    memory: int


@dataclass(frozen=True)
class Demand:
    """Of the runs of one model: how many, seconds of all of them and of the longest, bytes of a process at its peak."""

    runs: int
    seconds: float
    longest: float
    memory: int


@dataclass(frozen=True)
class Outlook:
    """Of the jobs that are still to be run.

    Attributes:
        device: in words. courses: on one or several numbers of devices.
        models: by name; seeds that are trained side by side share the time. timed: training steps behind all this.
        unknown: jobs without an estimate, left out.
    """

    device: str
    courses: tuple[Course, ...]
    models: Mapping[str, Demand]
    timed: int
    unknown: int

    @property
    def work(self) -> float:
        """Seconds on a single device."""
        return sum(demand.seconds for demand in self.models.values())

    @property
    def longest(self) -> float:
        return max(demand.longest for demand in self.models.values())


def outlook(config: RunConfig, plan: Plan, progress: Progress | None = None) -> Outlook | None:
    """Calibrates what was not calibrated before; None if nothing is left to run, or the data are not complete yet."""
    waiting = [job for job in plan.jobs if not is_done(config.out, job.id)]
    if not waiting or not is_prepared(plan.data.path, waiting):
        return None
    context = context_of(config, plan)
    processes = processes_here(config, waiting, context)
    speeds = measured_speeds(waiting, context, plan.data.samples, processes, progress)
    return outlook_of(config, plan, waiting, context, speeds)


def outlook_of(
    config: RunConfig, plan: Plan, waiting: Sequence[Job], context: Context, speeds: Speeds
) -> Outlook | None:
    """From speeds that are known; None if none is."""
    samples = plan.data.samples
    pieces = pieces_of(waiting, context, speeds, samples)
    known = [piece for piece in pieces if piece.seconds is not None]
    if not known:
        return None
    numbers = config.devices or (_devices_here(config, context.device, len(known)),)
    measured = {kind_of(piece.jobs, context.form): speeds.of(piece.jobs, context.form) for piece in known}
    return Outlook(
        device=device_line(context),
        courses=tuple(_course(config, context.device, known, number, speeds.start) for number in numbers),
        models=_by_model(known),
        timed=sum(speed.timed for speed in measured.values()),
        unknown=sum(len(piece.jobs) for piece in pieces if piece.seconds is None),
    )


def _devices_here(config: RunConfig, device: str, pieces: int) -> int:
    everywhere = config.executor == "gpus" or (config.executor == "auto" and config.workers is None)
    if device == "cuda" and everywhere:
        return len(local_gpus())
    return worker_count(config, device, pieces)


def _course(config: RunConfig, device: str, pieces: Sequence[Piece], number: int, start: float) -> Course:
    finished: set[str] = set()
    choose = _choose(config, device, number, pieces, finished)
    seconds, memory = simulate(pieces, choose, device == "cuda", lambda piece: finished.add(piece.jobs[0].variant))
    return Course(number, start + seconds, memory)


def _choose(config: RunConfig, device: str, number: int, pieces: Sequence[Piece], finished: set[str]) -> Choose:
    """What the executor would begin next on `number` devices; the need of a variant is known once one has finished."""
    if device == "cpu":
        return any_of(number)
    (gpu, *_) = local_gpus()
    memory = {piece.jobs[0].id: piece.memory for piece in pieces}
    most = config.workers or max(1, core_count() // number)
    gpus = [Gpu(str(place), gpu.memory) for place in range(number)]
    return packed(gpus, lambda job: memory[job.id] if job.variant in finished else None, most)


def _by_model(pieces: Sequence[Piece]) -> dict[str, Demand]:
    several: dict[str, list[Piece]] = {}
    for piece in pieces:
        several.setdefault(piece.jobs[0].model, []).append(piece)
    return {
        name: Demand(
            runs=sum(len(piece.jobs) for piece in several[name]),
            seconds=sum(piece.seconds for piece in several[name]),
            longest=max(piece.seconds for piece in several[name]),
            memory=max(piece.memory for piece in several[name]),
        )
        for name in registry.models()
        if name in several
    }
