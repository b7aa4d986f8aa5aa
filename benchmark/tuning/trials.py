"""One worker of a study: draws, trains, scores, until the budget is spent."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import optuna
from optuna.trial import FrozenTrial, Trial, TrialState

from benchmark.config import RunConfig
from benchmark.manifest import DataInfo
from benchmark.runs.execute import Context
from benchmark.runs.job import Job
from benchmark.runs.plan import Encoder, make_job, task_sets
from benchmark.training.faults import Diverged
from benchmark.tuning.objective import Reference, mean_gain, raw_sum
from benchmark.tuning.parameters import Parameter, tuned
from benchmark.tuning.study import FIRST_PRUNED_EPOCH, StudyStore, number_of
from benchmark.tuning.validated import run_validation

if TYPE_CHECKING:
    from benchmark.data.dataset import PreparedData
    from benchmark.training import EpochReport


@dataclass(frozen=True)
class Search:
    """Everything that a worker must know of a study.

    Attributes:
        id: name of the study and of its folder. config: without tuning. model: to be tuned. searched: its parameters.
        data, encoder: as in plans. reference: what gains are over. seed: of the draws. training_seed: of all trials.
        epochs: of a trial, None for the protocol's. multi_objective: one objective a task. budget: finished trials.
        device: "cpu" or "cuda".
    """

    id: str
    config: RunConfig
    model: str
    searched: tuple[Parameter, ...]
    data: DataInfo
    encoder: Encoder | None
    reference: Reference
    seed: int
    training_seed: int
    epochs: int | None
    multi_objective: bool
    budget: int
    device: str

    @property
    def folder(self) -> Path:
        return self.config.out / "tuning" / self.id

    @property
    def context(self) -> Context:
        """One thread on the CPU, as for runs: sums in another order would give other last digits."""
        folder, wanted = self.config.out / "tuning", self.config.deterministic
        return Context(self.data.path, folder, self.device, threads=1, deterministic=wanted)

    @property
    def objectives(self) -> tuple[str, ...]:
        tasks = tuple(task for task in self.config.tasks if task in self.reference.mean)
        return tasks if self.multi_objective else ("gain",)

    def open(self) -> StudyStore:
        return StudyStore(self.folder, self.searched, self.seed, self.objectives)

    def jobs(self, values: Mapping[str, object], seed: int, epochs: int | None = None) -> list[Job]:
        """The trainings that values of the parameters stand for: one a set of tasks."""
        config = tuned(self.config, self.model, values, epochs=epochs)
        sets = task_sets(self.model, config.tasks)
        return [make_job(config, self.model, tasks, seed, self.data, self.encoder) for tasks in sets]


def serve(search: Search, tell: Callable[[FrozenTrial], None] = lambda trial: None) -> None:
    """Runs trials of a study until its budget is spent; `tell` hears of each that this process has finished."""
    from benchmark.data.dataset import PreparedData

    store, data = search.open(), PreparedData.open(search.data.path)
    with store.serving():
        while (trial := store.next_trial(search.budget)) is not None:
            run_trial(search, store, trial, data)
            tell(next(one for one in store.trials() if one.number == trial.number))


def run_trial(search: Search, store: StudyStore, trial: Trial, data: PreparedData) -> None:
    """Trains what the trial stands for, and tells the study what came out.

    A training that diverges is a result: the trial ends like one that was stopped, and ranks below those with a value.
    Anything else that goes wrong fails the trial, to be tried again, and is raised. Values that were drawn before, as
    happens among few choices, have the outcome that they had: the same training would repeat it bit by bit.
    """
    if (same := _done_before(store, trial)) is not None:
        for name in ("gains", "metrics", "raw_sum", "best_epochs"):
            trial.set_user_attr(name, same.user_attrs[name])
        trial.set_user_attr("same_as", number_of(same))
        store.optuna.tell(trial, same.values)
        return
    started, metrics, best_epochs = time.perf_counter(), {}, {}
    follower = Follower(search, trial)
    try:
        for job in search.jobs(trial.params, search.training_seed, search.epochs):
            follower.begin(job, metrics)
            validated = run_validation(job, search.context, follower.notify, data)
            metrics |= validated.metrics
            best_epochs["+".join(job.tasks)] = validated.best_epoch
    except optuna.TrialPruned:
        _describe(trial, started, follower.metrics(), search.reference)
        store.optuna.tell(trial, state=TrialState.PRUNED)
        return
    except Diverged as fault:
        trial.set_user_attr("diverged", str(fault))
        trial.set_user_attr("seconds", time.perf_counter() - started)
        store.optuna.tell(trial, state=TrialState.PRUNED)
        return
    except BaseException as fault:
        trial.set_user_attr("error", f"{type(fault).__name__}: {fault}")
        store.optuna.tell(trial, state=TrialState.FAIL)
        raise
    gains = _describe(trial, started, metrics, search.reference)
    trial.set_user_attr("best_epochs", best_epochs)
    store.optuna.tell(
        trial, [gains[task] for task in search.objectives] if search.multi_objective else mean_gain(gains)
    )


def _done_before(store: StudyStore, trial: Trial) -> FrozenTrial | None:
    completed = (one for one in store.trials() if one.state == TrialState.COMPLETE)
    return next((one for one in completed if one.params == trial.params), None)


class Follower:
    """Reports a trial's progress after every epoch and stops it where the study's pruner says so.

    The value of an epoch is the mean gain with the state that would be kept now; of a model that is trained on one task
    after the other it is the mean over the tasks so far, and steps count on through the tasks.
    """

    def __init__(self, search: Search, trial: Trial) -> None:
        self._search, self._trial = search, trial
        self._before: dict[str, Mapping[str, float]] = {}
        self._now: dict[str, Mapping[str, float]] = {}
        self._best: dict[str, Mapping[str, float]] = {}
        self._first_step, self._job = 0, None

    def begin(self, job: Job, before: Mapping[str, Mapping[str, float]]) -> None:
        """The next training of the trial; `before` are the metrics of those that are over."""
        if self._job is not None:
            self._first_step += self._job.epochs
        self._job, self._before, self._now, self._best = job, dict(before), {}, {}

    def metrics(self) -> dict[str, Mapping[str, float]]:
        return {**self._before, **self._best}

    def notify(self, report: EpochReport) -> None:
        assert self._job is not None
        if report.epochs != self._job.epochs:  # fitted in one go: stages are no epochs
            return
        self._now[report.task] = dict(report.metrics)
        if set(self._now) != set(self._job.tasks):
            return
        if not self._best or raw_sum(self._now) > raw_sum(self._best):
            self._best = self._now
        self._now = {}
        if self._search.multi_objective or report.epoch < FIRST_PRUNED_EPOCH or report.epoch == report.epochs:
            return
        gains = self._search.reference.gains(self.metrics())
        if not gains:  # validation cannot score the tasks so far
            return
        self._trial.report(mean_gain(gains), self._first_step + report.epoch)
        if self._trial.should_prune():
            raise optuna.TrialPruned


def _describe(
    trial: Trial, started: float, metrics: Mapping[str, Mapping[str, float]], reference: Reference
) -> dict[str, float]:
    """Stores what the search does not need and readers do; returns the gains."""
    gains = reference.gains(metrics)
    trial.set_user_attr("gains", gains)
    trial.set_user_attr("metrics", {task: _finite(values) for task, values in metrics.items()})
    trial.set_user_attr("raw_sum", raw_sum(metrics))
    trial.set_user_attr("seconds", time.perf_counter() - started)
    return gains


def _finite(values: Mapping[str, float]) -> dict[str, float | None]:
    return {name: value if value == value else None for name, value in values.items()}
