"""Carries out a study: reference, trials by one or several workers, best settings over seeds, files."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing import get_context

from optuna.trial import FrozenTrial

from benchmark import registry
from benchmark.config import RunConfig, build_options
from benchmark.errors import UserError
from benchmark.files import replace_text
from benchmark.registry import twins
from benchmark.runs.execute import Context
from benchmark.runs.executors import Advanced, InProcess, ProcessPool, Tell
from benchmark.runs.folder import json_text
from benchmark.runs.job import Job, digest
from benchmark.runs.launch import device_of
from benchmark.runs.plan import Plan, make_job, task_sets
from benchmark.runs.workers import as_worker, threads_in_environment
from benchmark.tuning.objective import Metrics, Reference, make_reference
from benchmark.tuning.parameters import parameters
from benchmark.tuning.trials import Search, serve
from benchmark.tuning.validated import known_metrics, missing, validate_job
from benchmark.tuning.winners import Confirmed, confirm


@dataclass(frozen=True)
class Request:
    """How to tune.

    Attributes:
        trials: finished ones, for each model. wide: search the wide space. multi_objective: one objective a task.
        epochs: of a trial; None: the protocol's. seed: of the draws. workers: processes side by side.
        best: how many of the best settings are trained again, with `seeds` seeds.
    """

    trials: int
    wide: bool = False
    multi_objective: bool = False
    epochs: int | None = None
    seed: int = 0
    workers: int = 1
    best: int = 3
    seeds: int = 2


@dataclass(frozen=True)
class Heard:
    """Who is told of what.

    Attributes:
        trial: of each finished trial, with its study. training: of the events of other trainings.
        trainings: of their number, before they begin.
    """

    trial: Callable[[Search, FrozenTrial], None] = lambda search, trial: None
    training: Tell = lambda event: None
    trainings: Callable[[str, int], None] = lambda what, count: None


def reference_model() -> str:
    """Whose deviation is the unit of gains: the single-task twin of the main comparison's multitask model."""
    entries = registry.models()
    found = [other for name, other in twins(entries).items() if entries[name].group == "table3"]
    if not found:
        raise UserError("no multitask model of the main comparison has a single-task twin to measure gains by")
    return found[0]


def plan_search(config: RunConfig, model: str, request: Request, plan: Plan, heard: Heard) -> Search:
    """Everything about a study before its first trial; trains the reference where its runs are missing."""
    parameters(config, model, request.wide)  # refuses what cannot be searched before anything is trained
    name = reference_model()
    faults: list[str] = []
    options = build_options(registry.get(name), config.protocol.models.get(name, {}), faults)
    if faults:
        raise UserError("; ".join(faults))
    known = dataclasses.replace(config, model_options={**config.model_options, name: options}, trace=False)
    jobs = {
        seed: [make_job(known, name, tasks, seed, plan.data, plan.encoder) for tasks in task_sets(name, config.tasks)]
        for seed in config.seeds
    }
    folder, wanted = config.out / "tuning", config.deterministic
    whole = Context(plan.data.path, folder, device_of(config), threads=1, deterministic=wanted)
    several = [job for one in jobs.values() for job in one]
    train_missing(several, whole, request.workers, f"reference {registry.get(name).title}", heard)
    runs = {seed: _together(config, one) for seed, one in jobs.items()}
    return _search(config, model, request, plan, make_reference(name, runs), [job.id for job in several])


def _search(
    config: RunConfig, model: str, request: Request, plan: Plan, reference: Reference, reference_jobs: Sequence[str]
) -> Search:
    searched = parameters(config, model, request.wide)
    training_seed = config.seeds[0]
    search = Search(
        id="",
        config=config,
        model=model,
        searched=searched,
        data=plan.data,
        encoder=plan.encoder,
        reference=reference,
        seed=request.seed,
        training_seed=training_seed,
        epochs=request.epochs,
        multi_objective=request.multi_objective,
        budget=request.trials,
        device=device_of(config),
    )
    start = search.jobs({one.name: one.start for one in searched}, training_seed, request.epochs)
    # What decides a study's trials, and so its name; the number of trials and of workers does not.
    facts = {
        "model": model,
        "title": registry.get(model).title,
        "group": plan.group,
        "data": {"name": plan.data.name, "fingerprint": plan.data.fingerprint, "simulated": plan.data.simulated},
        "protocol": config.protocol.name,
        "searched": [
            {"name": one.name, "kind": type(one.range).__name__, **dataclasses.asdict(one.range), "start": one.start}
            for one in searched
        ],
        "start": [job.id for job in start],
        "epochs": [job.epochs for job in start],
        "reference": {**dataclasses.asdict(reference), "jobs": list(reference_jobs)},
        "seed": request.seed,
        "training_seed": training_seed,
        "objectives": list(search.objectives),
    }
    search = dataclasses.replace(search, id=f"{model}-{digest(facts)}")
    replace_text(search.folder / "study.json", json_text({"format": 1, "study": search.id, **facts}))
    return search


def run_trials(search: Search, workers: int, heard: Heard) -> None:
    """Brings the study to its budget of finished trials."""
    if workers == 1:
        serve(search, lambda trial: heard.trial(search, trial))
        return
    store = search.open()
    told = {trial.number for trial in store.finished()}
    spawn = get_context("spawn")
    crew = [spawn.Process(target=_serve_apart, args=(search,), daemon=True) for _ in range(workers)]
    try:
        with threads_in_environment(search.context.threads):
            for process in crew:
                process.start()
        alive = True
        while alive:
            alive = any(process.is_alive() for process in crew)
            for trial in store.finished():
                if trial.number not in told:
                    told.add(trial.number)
                    heard.trial(search, trial)
            time.sleep(0.3)
    finally:
        for process in crew:
            process.kill()
            process.join()
    if (count := len(store.finished())) < search.budget:
        raise UserError(
            f"all workers of {search.id} ended after {count} of {search.budget} trials; the same command goes on"
        )


def _serve_apart(search: Search) -> None:
    as_worker()
    serve(search)


def find_winner(search: Search, request: Request, heard: Heard) -> list[Confirmed]:
    """The best settings over seeds; the winner comes first."""
    seeds = search.config.seeds[: request.seeds]

    def train(jobs: Sequence[Job]) -> None:
        train_missing(jobs, search.context, request.workers, f"best settings of {search.model}", heard)

    return confirm(search, search.open(), request.best, seeds, train)


def train_missing(jobs: Sequence[Job], context: Context, workers: int, what: str, heard: Heard) -> None:
    """Validates those of `jobs` whose metrics are not known."""
    waiting = missing(context.out.parent, jobs)
    if not waiting:
        return
    heard.trainings(what, len(waiting))
    executor = InProcess(validate_job) if workers == 1 else ProcessPool(workers, validate_job)
    failed: list[str] = []

    def tell(event: object) -> None:
        if not isinstance(event, Advanced):
            result = getattr(event, "result", None)
            if result is not None and result.status == "failed":
                failed.append(f"{result.job.id}: {result.error}")
        heard.training(event)

    executor.run(waiting, context, tell)
    if failed:
        raise UserError(f"{len(failed)} trainings of {what} failed; the first: {failed[0]}")


def _together(config: RunConfig, jobs: Sequence[Job]) -> Metrics:
    return {task: values for job in jobs for task, values in (known_metrics(config.out, job) or {}).items()}
