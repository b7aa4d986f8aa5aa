"""A study that several workers can serve and any of them may leave at any time: Optuna, with a journal on disk.

What is drawn depends on the seed of the study, the number of the draw and the finished trials alone. A trial whose
worker is gone counts as failed and is tried again with the same values, in place of a new draw, so that an interrupted
study goes through the same values as an undisturbed one. (With several workers at once, which trials have finished at a
draw is a matter of time, and so are the values.)
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler, TPESampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, Trial, TrialState

from benchmark.errors import UserError
from benchmark.random import stream_seed
from benchmark.tuning.locks import FileLock, Presence, is_present
from benchmark.tuning.parameters import Parameter
from models.search import Choice, LogUniform, Range

ATTEMPTS = 3
"""How often a trial is tried whose worker dies; after that it counts as finished, without a value."""
FIRST_PRUNED_EPOCH = 3
"""No trial is stopped before the end of this epoch."""
UNPRUNED = 5
"""Completed trials that must have come as far before one may be stopped."""
NAME = "study"

_FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)


class StudyStore:
    """The trials of one study.

    Args:
        folder: of the study. searched: its parameters. seed: of its draws.
        objectives: names of what is maximised; one, or one a task.
    """

    def __init__(
        self, folder: Path, searched: Sequence[Parameter], seed: int, objectives: Sequence[str] = ("gain",)
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.searched, self.objectives = folder, searched, tuple(objectives)
        self._distributions = {one.name: distribution(one.range) for one in searched}
        self._presence: Presence | None = None
        journal = folder / "journal.log"
        with self._lock():
            _drop_torn_line(journal)
            storage = JournalStorage(JournalFileBackend(str(journal), lock_obj=_JournalLock(folder)))
            self.optuna = optuna.create_study(
                study_name=NAME,
                storage=storage,
                directions=["maximize"] * len(self.objectives),
                sampler=SamplerByDraw(seed),
                pruner=MedianAtStep(),
                load_if_exists=True,
            )
            if not self.trials():
                self.optuna.enqueue_trial({one.name: one.start for one in searched})

    def trials(self) -> list[FrozenTrial]:
        return self.optuna.get_trials(deepcopy=False)

    def finished(self) -> list[FrozenTrial]:
        """Trials that count against the budget: completed, pruned, or given up after `ATTEMPTS`."""
        return [trial for trial in self.trials() if _is_finished(trial)]

    @contextmanager
    def serving(self) -> Iterator[None]:
        """Makes this process a worker of the study while the block lasts; only workers may ask for trials."""
        self._presence = Presence(self.folder / "workers")
        try:
            yield
        finally:
            self._presence.leave()
            self._presence = None

    def next_trial(self, budget: int, patience: float = 0.5) -> Trial | None:
        """The next trial to run; None when `budget` trials have finished.

        Waits while other workers run what is left of the budget, for one of them may die.
        """
        while True:
            with self._lock():
                self._retry_what_died()
                trials = self.trials()
                finished = sum(map(_is_finished, trials))
                running = sum(trial.state == TrialState.RUNNING for trial in trials)
                waiting = any(trial.state == TrialState.WAITING for trial in trials)
                if finished >= budget:
                    return None
                if waiting or finished + running < budget:
                    return self._ask()
            time.sleep(patience)

    def _ask(self) -> Trial:
        assert self._presence is not None, "ask within `serving`"
        trial = self.optuna.ask(self._distributions)
        trial.set_user_attr("worker", self._presence.name)
        trials = self.trials()
        trial.set_user_attr("draw", draw_number(next(one for one in trials if one.number == trial.number), trials))
        return trial

    def _retry_what_died(self) -> None:
        """Fails trials whose worker is gone, and puts each failed one into the queue once."""
        for trial in self.trials():
            worker = trial.user_attrs.get("worker")
            alive = worker is not None and is_present(self.folder / "workers", worker)
            if trial.state == TrialState.RUNNING and not alive:
                self.optuna.tell(trial.number, state=TrialState.FAIL)
        trials = self.trials()
        retried = {trial.user_attrs.get("retry_of") for trial in trials}
        for trial in trials:
            attempt = trial.user_attrs.get("attempt", 1)
            if trial.state == TrialState.FAIL and trial.number not in retried and attempt < ATTEMPTS:
                # A worker that died while it drew left a part of the values: all are drawn again, as the same draw.
                known = trial.params if set(trial.params) == set(self._distributions) else {}
                fixed = known or trial.system_attrs.get("fixed_params", {})
                self.optuna.enqueue_trial(fixed, user_attrs={"retry_of": trial.number, "attempt": attempt + 1})

    def _lock(self) -> FileLock:
        return FileLock(self.folder / "lock")


class MedianAtStep(BasePruner):
    """Stops a trial whose value at a step is below the median of the completed trials' at the same step.

    Optuna's own median pruner looks at the best value of all steps so far. That is the same where values never fall;
    but those of a model that is trained on one task after the other are means over the tasks so far, and do fall.
    """

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        step = trial.last_step
        completed = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        others = [one.intermediate_values[step] for one in completed if step in one.intermediate_values]
        return len(others) >= UNPRUNED and trial.intermediate_values[step] < median(others)


class SamplerByDraw(BaseSampler):
    """TPE whose random state belongs to the number of the draw, not to the process that draws."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._tpe = TPESampler(seed=seed)

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        draw = draw_number(trial, study.get_trials(deepcopy=False))
        self._tpe = TPESampler(seed=stream_seed(self._seed, "draw", draw) % 2**32)
        self._tpe.before_trial(study, trial)

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self._tpe.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return self._tpe.sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return self._tpe.sample_independent(study, trial, param_name, param_distribution)

    def after_trial(
        self, study: optuna.Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        self._tpe.after_trial(study, trial, state, values)


def read_trials(folder: Path) -> list[FrozenTrial]:
    """The finished trials of a stored study, which is not changed.

    Raises:
        UserError: there is no journal, or it is damaged.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    journal = folder / "journal.log"
    if not journal.is_file():
        raise UserError(f"{folder} has no journal.log")
    try:
        study = optuna.load_study(study_name=NAME, storage=JournalStorage(JournalFileBackend(str(journal))))
    except (KeyError, ValueError) as fault:
        raise UserError(f"{journal} cannot be read: {fault}") from fault
    return [trial for trial in study.get_trials(deepcopy=False) if _is_finished(trial)]


def number_of(trial: FrozenTrial) -> int:
    """The number of a trial for readers: that of its draw, which is the same however often workers were killed."""
    return trial.user_attrs.get("draw", trial.number)


def draw_number(trial: FrozenTrial, trials: Sequence[FrozenTrial]) -> int:
    """How many values were drawn before those of `trial`; a repetition is the same draw as what it repeats."""
    by_number = {one.number: one for one in trials}
    while (first := trial.user_attrs.get("retry_of")) is not None:
        trial = by_number[first]
    return trial.number - sum("retry_of" in one.user_attrs for one in trials if one.number < trial.number)


def distribution(values: Range) -> BaseDistribution:
    """A range as Optuna knows it."""
    if isinstance(values, Choice):
        return CategoricalDistribution(values.values)
    return FloatDistribution(values.low, values.high, log=isinstance(values, LogUniform))


def _is_finished(trial: FrozenTrial) -> bool:
    given_up = trial.state == TrialState.FAIL and trial.user_attrs.get("attempt", 1) >= ATTEMPTS
    return trial.state in _FINISHED or given_up


class _JournalLock:
    """Optuna's own locks are files that stay when their holder is killed; this one does not."""

    def __init__(self, folder: Path) -> None:
        self._lock = FileLock(folder / "journal.lock")

    def acquire(self) -> bool:
        self._lock.__enter__()
        return True

    def release(self) -> None:
        self._lock.__exit__(None, None, None)


def _drop_torn_line(journal: Path) -> None:
    """Cuts off a last line that a killed worker did not finish; nothing can be read after it otherwise."""
    if not journal.exists():
        return
    with FileLock(journal.parent / "journal.lock"), open(journal, "r+b") as file:
        content = file.read()
        if content and not content.endswith(b"\n"):
            file.truncate(content.rfind(b"\n") + 1)
