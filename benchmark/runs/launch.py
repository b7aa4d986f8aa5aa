"""Carries out a request: data, note embeddings, plan, execution. `bench run` is this and a table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from benchmark.code_version import code_version
from benchmark.config import RunConfig
from benchmark.cores import core_count
from benchmark.errors import UserError
from benchmark.files import remove_abandoned
from benchmark.manifest import DataInfo, read_manifest
from benchmark.options import BY_THE_JOB
from benchmark.runs.backends import executor_for
from benchmark.runs.calibrate import stored_speeds
from benchmark.runs.companies import companies
from benchmark.runs.embedded import Progress, embedded_cohort, embedded_folder
from benchmark.runs.environment import git_commit
from benchmark.runs.execute import Context, RunResult
from benchmark.runs.executors import Executor, Tell, run_all
from benchmark.runs.folder import folders, is_done, remove_course
from benchmark.runs.groups import caption_of, record_plan
from benchmark.runs.job import Job
from benchmark.runs.plan import Encoder, Plan, make_plan
from benchmark.runs.schedule import pieces_of
from benchmark.runs.tally import Tally
from benchmark.runs.watchdog import watchdog
from benchmark.tasks import TASKS

Watch = Callable[[Tally], AbstractContextManager[Tell]]


@dataclass(frozen=True)
class Summary:
    """What a call of the runner did.

    Attributes:
        plan: what was asked for. done_before: ids of jobs that were finished already. results: of the others, by id.
        seconds: they took.
    """

    plan: Plan
    done_before: frozenset[str]
    results: Mapping[str, RunResult]
    seconds: float

    @property
    def failed(self) -> list[RunResult]:
        return [result for result in self.results.values() if result.status == "failed"]


def prepare_plan(config: RunConfig, progress: Progress | None = None, again: bool = False) -> Plan:
    """Everything that jobs need: makes the embedded cohort and the note embeddings where they are missing.

    Args:
        again: whether finished jobs will be trained once more, as in a search.
    """
    data, encoder = config.data, None
    if data is None or data.modalities.get("note"):
        encoder = find_encoder(config)  # first, so that an encoder out of reach is told before any work is done
    if data is None:
        cohort = config.protocol.cohort
        data = read_manifest(embedded_cohort(config.out, cohort.patients, cohort.seed, progress))
    _require_tasks(config, data)
    plan = make_plan(config, data, encoder)
    if encoder:
        _embed(config, plan, progress, again)
    return plan


def preview(config: RunConfig) -> Plan | None:
    """The plan for a dry run, which makes nothing; None if the embedded cohort does not exist yet."""
    data = config.data
    if data is None:
        folder = embedded_folder(config.out, config.protocol.cohort.patients, config.protocol.cohort.seed)
        if not (folder / "manifest.json").is_file():
            return None
        data = read_manifest(folder)
    _require_tasks(config, data)
    return make_plan(config, data, find_encoder(config) if data.modalities.get("note") else None)


def find_encoder(config: RunConfig) -> Encoder:
    """The protocol's note encoder; a `UserError` within seconds if it is not to be had."""
    from benchmark.data.note_encoder import encoder_key, resolve

    protocol = config.protocol
    source = resolve(protocol.note_encoder)
    key = encoder_key(source, protocol.dimensions.note_tokens, protocol.note_special_tokens)
    return Encoder(key, source.name, source.width)


def launch(config: RunConfig, plan: Plan, watch: Watch, executor: Executor | None = None) -> Summary:
    """Executes the jobs of `plan` that are not finished yet.

    Args:
        config, plan: what to do. watch: shows a tally while jobs run, and gives the function that takes the events.
        executor: instead of the one that suits the device and the number of workers.
    """
    out = config.out
    for folder in folders(out):
        remove_abandoned(folder)
    caption = caption_of(plan, {"version": code_version(), "commit": git_commit()})
    record_plan(out, plan, caption)
    done = frozenset(job.id for job in plan.jobs if is_done(out, job.id))
    for job in done:
        remove_course(out, job)  # of a process that was killed between its last two steps
    waiting = [job for job in plan.jobs if job.id not in done]
    tally = Tally(plan.jobs, done, plan.data.samples)
    if waiting:
        context = context_of(config, plan, caption)
        workers = worker_count(config, context.device, len(companies(waiting, context)))
        executor = executor or executor_for(config, context.device, workers, plan.jobs, context.form)
        speeds = stored_speeds(context, processes_here(config, waiting, context))
        with watch(tally) as show, watchdog(show, out, 60 * config.stall_after) as tell:
            pieces = pieces_of(waiting, context, speeds, plan.data.samples)
            run_all(executor, [job for piece in pieces for job in piece.jobs], context, tell)
    return Summary(plan, done, tally.results, tally.elapsed)


def context_of(config: RunConfig, plan: Plan, caption: Mapping[str, Any] | None = None) -> Context:
    """What the jobs of a plan share."""
    device = device_of(config)
    return Context(
        data=plan.data.path,
        out=config.out,
        device=device,
        threads=1,  # on the CPU, whatever the executor: sums in another order would give other last digits
        caption=caption or {},
        studies={name: own.study for name, own in config.protocol.training_of.items() if own.study},
        save_every=config.save_every,
        deterministic=config.deterministic,
        form=form_of(config, device),
    )


def processes_here(config: RunConfig, jobs: Sequence[Job], context: Context) -> int:
    """So many jobs share the processor of this machine while they run; so many are calibrated side by side."""
    if context.device != "cpu":
        return 1
    return min(core_count(), worker_count(config, context.device, len(companies(jobs, context))))


def device_of(config: RunConfig) -> str:
    """ "cpu" or "cuda"."""
    if config.device != "auto":
        return config.device
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def form_of(config: RunConfig, device: str) -> str:
    """ "packed" or "fixed": as asked; otherwise fixed on GPUs, and packed on the CPU, where seeds side by side gain
    nothing, and under Ray and SLURM, which take job by job."""
    if config.form != "auto":
        return config.form
    return "fixed" if device == "cuda" and config.executor not in BY_THE_JOB else "packed"


def worker_count(config: RunConfig, device: str, jobs: int | None) -> int:
    """Processes side by side: as asked; otherwise one on a GPU, and one a core on the CPU; never more than `jobs`, of
    which companies of seeds count as one."""
    count = config.workers or (1 if device == "cuda" else core_count())
    return max(1, min(count, jobs if jobs is not None else count))


def _require_tasks(config: RunConfig, data: DataInfo) -> None:
    missing = [task for task in config.tasks if task not in data.samples]
    if missing:
        reasons = "; ".join(f"{task}: {data.impossible.get(task, 'no samples')}" for task in missing)
        raise UserError(f"not possible on {data.name}: {reasons}. Allowed: {', '.join(data.samples)}")


def _embed(config: RunConfig, plan: Plan, progress: Progress | None, again: bool) -> None:
    """Makes the embeddings of all texts that the jobs read, and those with noise that they will train on."""
    from benchmark.data.note_cache import ensure_embeddings

    protocol, tokens = config.protocol, config.protocol.dimensions.note_tokens
    device, special = device_of(config), protocol.note_special_tokens

    def ensure(jobs: Sequence[Job], draw: int | None) -> None:
        sections = {TASKS[task].note_section for job in jobs for task in job.tasks}
        spec, folder = protocol.note_encoder, plan.data.path
        ensure_embeddings(folder, spec, sections, tokens, device, progress, special, draw)

    ensure(plan.jobs, None)
    noisy = [job for job in plan.jobs if job.note_dropout and (again or not is_done(config.out, job.id))]
    for draw in range(max((job.note_dropout for job in noisy), default=0)):
        ensure([job for job in noisy if job.note_dropout > draw], draw)
