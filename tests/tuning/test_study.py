"""A study's bookkeeping, with an objective that takes no time."""

from __future__ import annotations

import multiprocessing
import os
import signal
from pathlib import Path

import pytest
from optuna.trial import TrialState

from benchmark.tuning.parameters import Parameter
from benchmark.tuning.study import ATTEMPTS, UNPRUNED, StudyStore
from models.search import Choice, LogUniform

pytestmark = pytest.mark.reliability

SEARCHED = (
    Parameter("options.a", LogUniform(0.01, 10), 1.0),
    Parameter("options.b", Choice((0, 1, 2)), 0),
)


def _value(params: dict) -> float:
    return -abs(params["options.a"] - 0.3) - params["options.b"]


def _work(folder: Path, budget: int, die_at: frozenset[int] = frozenset()) -> None:
    store = StudyStore(folder, SEARCHED, seed=5)
    with store.serving():
        while (trial := store.next_trial(budget, patience=0.01)) is not None:
            if trial.number in die_at:
                os.kill(os.getpid(), signal.SIGKILL)
            store.optuna.tell(trial, _value(trial.params))


def _apart(*arguments) -> int:
    process = multiprocessing.get_context("fork").Process(target=_work, args=arguments)
    process.start()
    process.join()
    return process.exitcode


def _values(folder: Path) -> list[tuple]:
    done = StudyStore(folder, SEARCHED, seed=5).finished()
    return [(*sorted(trial.params.items()), trial.value) for trial in done if trial.state == TrialState.COMPLETE]


def test_a_study_whose_worker_was_killed_goes_through_the_same_values_as_an_undisturbed_one(tmp_path: Path) -> None:
    _work(tmp_path / "whole", 16)
    whole = _values(tmp_path / "whole")
    assert whole[0][0] == ("options.a", 1.0), "trial 0 is what holds without tuning"
    assert len({values for values in whole}) == 16, "no draw is repeated"
    killed = tmp_path / "killed"
    assert _apart(killed, 16, frozenset({3})) == -signal.SIGKILL
    assert _apart(killed, 16, frozenset({13})) == -signal.SIGKILL
    with open(killed / "journal.log", "ab") as journal:
        journal.write(b'{"op_code": 4, "worke')  # what a worker was writing when the machine went down
    _work(killed, 16)
    assert _values(killed) == whole
    failed = [trial for trial in StudyStore(killed, SEARCHED, 5).trials() if trial.state == TrialState.FAIL]
    assert [trial.number for trial in failed] == [3, 13]


def test_a_study_goes_on_where_a_smaller_budget_ended_and_depends_on_its_seed(tmp_path: Path) -> None:
    _work(tmp_path / "whole", 14)
    for budget in (1, 12, 14):
        _work(tmp_path / "grown", budget)
    assert _values(tmp_path / "grown") == _values(tmp_path / "whole")
    other = StudyStore(tmp_path / "other", SEARCHED, seed=6)
    with other.serving():
        for _ in range(2):
            trial = other.next_trial(2)
            other.optuna.tell(trial, 0.0)
    assert trial.params != dict(_values(tmp_path / "whole")[1][:2])


def test_several_workers_share_the_budget(tmp_path: Path) -> None:
    fork = multiprocessing.get_context("fork")
    crew = [fork.Process(target=_work, args=(tmp_path, 25)) for _ in range(3)]
    for process in crew:
        process.start()
    for process in crew:
        process.join()
    store = StudyStore(tmp_path, SEARCHED, seed=5)
    assert [trial.state for trial in store.trials()] == [TrialState.COMPLETE] * 25
    assert len({trial.user_attrs["worker"] for trial in store.trials()}) > 1
    assert not list((tmp_path / "workers").iterdir())


def test_a_trial_that_kills_every_worker_is_given_up_and_counts(tmp_path: Path) -> None:
    for number in range(ATTEMPTS):
        assert _apart(tmp_path, 2, frozenset(range(number, number + 1))) == -signal.SIGKILL
    _work(tmp_path, 2)
    store = StudyStore(tmp_path, SEARCHED, seed=5)
    assert [trial.state.name for trial in store.trials()] == ["FAIL"] * ATTEMPTS + ["COMPLETE"]


def test_a_trial_is_stopped_below_the_median_at_its_step(tmp_path: Path) -> None:
    store = StudyStore(tmp_path, SEARCHED, seed=5)
    with store.serving():
        for value in range(UNPRUNED):
            trial = store.next_trial(9)
            for step in (3, 7):
                trial.report(value, step)
                assert not trial.should_prune(), "there is too little to compare with"
            store.optuna.tell(trial, value)
        trial = store.next_trial(9)
        trial.report(3.0, 3)
        assert not trial.should_prune()
        trial.report(1.9, 7)
        assert trial.should_prune()
