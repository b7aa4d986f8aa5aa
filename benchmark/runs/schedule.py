"""When a plan will be through: its jobs given out as an executor gives them out, with the time that each will take."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmark.runs.calibrate import Samples, Speeds
from benchmark.runs.companies import companies
from benchmark.runs.execute import Context
from benchmark.runs.executors import Choose, Place, startable
from benchmark.runs.job import Job


@dataclass(frozen=True)
class Piece:
    """What a process does in one go: a job, or the seeds that are trained side by side. Seconds, and bytes at its peak;
    the seconds are None for models that are fitted in one go."""

    jobs: tuple[Job, ...]
    seconds: float | None
    memory: int

    def cost(self, samples: Samples) -> int:
        """Samples seen in training."""
        return sum(job.cost(samples) for job in self.jobs)


def pieces_of(jobs: Sequence[Job], context: Context, speeds: Speeds, samples: Samples) -> list[Piece]:
    """The jobs in pieces, the longest first; to a piece belongs the time of what starts from it.

    Those whose speed is not known have their place by their number of samples, at the mean pace of the others.
    """
    found = []
    for company in companies(jobs, context):
        speed = speeds.of(company, context.form)
        seconds = None if speed is None else speed.seconds(company, samples)
        found.append(Piece(tuple(company), seconds, speed.memory if speed else 0))
    paces = [piece.seconds / max(1, piece.cost(samples)) for piece in found if piece.seconds is not None]
    pace = sum(paces) / len(paces) if paces else 1.0
    own = [pace * piece.cost(samples) if piece.seconds is None else piece.seconds for piece in found]
    after: dict[str | None, float] = {}
    for piece, seconds in zip(found, own, strict=True):
        for job in piece.jobs:
            after[job.initial] = max(seconds, after.get(job.initial, 0.0))
    whole = [
        seconds + max(after.get(job.id, 0.0) for job in piece.jobs) for piece, seconds in zip(found, own, strict=True)
    ]
    return [found[place] for place in sorted(range(len(found)), key=lambda place: -whole[place])]


@dataclass
class _Running:
    piece: Piece
    place: Place
    left: float


def simulate(
    pieces: Sequence[Piece], choose: Choose, shared: bool, ended: Callable[[Piece], None] = lambda piece: None
) -> tuple[float, int]:
    """Seconds until the last piece is done, and bytes that all of them take at most at the same time.

    Args:
        pieces: in order, all with known seconds. choose: which one begins, and where.
        shared: pieces at the same place divide its time; otherwise each has a core of its own.
        ended: told of each piece that is over.
    """
    waiting, at_work = list(pieces), []
    now, peak = 0.0, 0
    while waiting or at_work:
        while waiting:
            running = [job.id for one in at_work for job in one.piece.jobs]
            ready = startable([piece.jobs for piece in waiting], running)
            first_jobs = [waiting[number].jobs[0] for number in ready]
            choice = choose(first_jobs, [(one.piece.jobs[0], one.place) for one in at_work])
            if choice is None:
                break
            piece = waiting.pop(ready[choice[0]])
            at_work.append(_Running(piece, choice[1], piece.seconds))
        peak = max(peak, sum(one.piece.memory for one in at_work))
        sharers = Counter(one.place for one in at_work)
        slowness = {id(one): sharers[one.place] if shared else 1 for one in at_work}
        first = min(at_work, key=lambda one: one.left * slowness[id(one)])
        step = first.left * slowness[id(first)]
        now += step
        for one in at_work:
            one.left = 0.0 if one is first else max(0.0, one.left - step / slowness[id(one)])
        for one in at_work:
            if one.left == 0.0:
                ended(one.piece)
        at_work = [one for one in at_work if one.left > 0.0]
    return now, peak
