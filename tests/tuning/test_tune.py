"""Whole studies on a small data set."""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import signal
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState, create_trial
from prepared_data import spoil_test_samples
from tuning_data import configured, plan_of, prepare

from benchmark.config import resolve
from benchmark.errors import UserError
from benchmark.reporting.page import render
from benchmark.runs.plan import make_plan
from benchmark.tuning import trials as trial_running
from benchmark.tuning.objective import LEAST_DEVIATION, front, make_reference, mean_gain
from benchmark.tuning.parameters import parameters, tuned
from benchmark.tuning.report import StudyRecord, _best, _history, _importances, read_studies, study_part, write_markdown
from benchmark.tuning.study import StudyStore, number_of
from benchmark.tuning.trials import Follower
from benchmark.tuning.tune import Heard, Request, find_winner, plan_search, reference_model, run_trials
from benchmark.tuning.validated import known_metrics
from benchmark.tuning.winners import Confirmed, read_confirmed, write_settings


def _study(config, model="flexcare", **wanted):
    request = Request(**{"trials": 2, "best": 1, **wanted})
    return plan_search(config, model, request, plan_of(config), Heard()), request


def _outcome(store: StudyStore) -> list[tuple]:
    return [(trial.params, trial.values, trial.user_attrs["metrics"]) for trial in store.finished()]


def test_the_space_of_a_model_becomes_parameters_and_their_values_become_jobs(tmp_path: Path, data: Path) -> None:
    config = configured(tmp_path, data, models="flexcare,mt")
    found = {one.name: one for one in parameters(config, "flexcare", wide=False)}
    # The gauge is the task of largest weight among the present ones: LOS, 0.5.
    assert {name: one.start for name, one in found.items()} == {"task_weights.ihm": 0.4, "task_weights.dia": 0.4}
    wide = {one.name: one for one in parameters(config, "flexcare", wide=True)}
    assert {"task_rates.los", "learning_rate", "dropout", "options.beta"} <= set(wide)
    values = {"task_weights.ihm": 2.0, "task_rates.los": 0.5, "learning_rate": 2.0, "options.beta": 0.1}
    changed = tuned(config, "flexcare", values, study="f#1", epochs=7)
    (job,) = make_plan(replace(changed, seeds=(1,)), changed.data, None).jobs
    assert job.task_weights == {"ihm": 2.0, "los": 1.0, "dia": 0.2}
    assert (job.learning_rate, job.task_rates, job.options["beta"], job.epochs) == (6e-3, {"los": 0.5}, 0.1, 7)
    single = {one.name for one in parameters(config, "mt", wide=False)}
    assert single == {"learning_rate", "dropout"}, "a layer to fuse from that the protocol does not have is left out"


def test_what_cannot_be_searched_is_refused_before_the_reference_is_trained(tmp_path: Path, data: Path) -> None:
    config = configured(tmp_path, data, models="flexcare", tasks="ihm")
    with pytest.raises(UserError, match="flexcare declares nothing to search on the tasks ihm"):
        _study(config)
    assert not (config.out / "tuning").exists()


def test_gains_are_in_deviations_of_the_reference_and_tasks_of_no_score_are_left_out() -> None:
    runs = {
        1: {"ihm": {"auroc": 0.7, "auprc": 0.3}, "los": {"micro_f1": 0.5}, "dia": {"macro_auroc": math.nan}},
        2: {"ihm": {"auroc": 0.8, "auprc": 0.4}, "los": {"micro_f1": 0.5}, "dia": {"macro_auroc": math.nan}},
    }
    reference = make_reference("st", runs)
    assert reference.deviation["los"] == LEAST_DEVIATION
    trial = {"ihm": {"auroc": 0.8, "auprc": 0.4}, "los": {"micro_f1": 0.501}, "dia": {"macro_auroc": 0.9}}
    gains = reference.gains(trial)
    assert gains == pytest.approx({"ihm": 0.1 / np.std([1.0, 1.2], ddof=1), "los": 0.5})
    assert mean_gain(gains) == pytest.approx((0.1 / np.std([1.0, 1.2], ddof=1) + 0.5) / 2)
    with pytest.raises(UserError, match="1 seed of the reference st"):
        make_reference("st", {1: runs[1]})
    assert front([(1, 2), (2, 1), (1, 1), (0, 3)]) == [0, 1, 3]


def test_a_study_never_reads_the_test_samples_and_ends_in_settings_that_run(tmp_path: Path, data: Path) -> None:
    spoilt_data = spoil_test_samples(prepare(tmp_path))
    (tmp_path / "spoilt").mkdir()
    outcomes = []
    for folder, source in ((tmp_path, data), (tmp_path / "spoilt", spoilt_data)):
        config = configured(folder, source)
        search, request = _study(config)
        run_trials(search, 1, Heard())
        (winner,) = find_winner(search, request, Heard())
        outcomes.append((search.id, _outcome(search.open()), winner))
    assert outcomes[0] == outcomes[1]
    assert outcomes[0][1][0][0] == {"task_weights.ihm": 0.4, "task_weights.dia": 0.4}

    assert read_confirmed(search.folder) == [winner]
    (record,) = read_studies(tmp_path / "spoilt" / "out", "test-90-0")
    assert not read_studies(tmp_path / "spoilt" / "out", "of other data")
    text = write_markdown(record).read_text()
    for part in ("Tuning of FlexCare", "test patients were not read", "Trade-off", f"| {winner.mean:+.3f} ("):
        assert part in text
    assert "<svg" in render("Results", True, [study_part(record)])
    file = search.folder / "best.yaml"
    write_settings(file, [search], [winner])
    again = resolve({"out": str(tmp_path / "out"), "data": str(data)}, file)
    assert again.protocol.name == "tiny-tuned"
    (job,) = make_plan(replace(again, seeds=(1,)), again.data, None).jobs
    (tried,) = search.jobs(winner.values, seed=1)
    assert replace(job, data=tried.data) == tried, "the settings make the job that was tried"
    assert again.protocol.training_of["flexcare"].study == f"{search.id}#{winner.trial}"
    wanted = replace(search, config=replace(search.config, deterministic=True))
    assert wanted.context.deterministic and not search.context.deterministic
    content = yaml.safe_load(file.read_text())
    assert content["models"] == ["flexcare"] and content["tasks"] == list(search.config.tasks)


def test_objective_is_the_mean_gain_over_the_reference_with_the_raw_sum_beside_it(tmp_path: Path, data: Path) -> None:
    config = configured(tmp_path, data)
    search, _ = _study(config, trials=1)
    assert search.reference.model == reference_model() == "flexcare-st"
    run_trials(search, 1, Heard())
    (trial,) = search.open().finished()
    (job,) = search.jobs(trial.params, search.training_seed)
    scores = {task: sum(values.values()) for task, values in trial.user_attrs["metrics"].items()}
    expected = [
        (scores[task] - search.reference.mean[task]) / search.reference.deviation[task] for task in config.tasks
    ]
    assert trial.value == pytest.approx(sum(expected) / 3)
    assert trial.user_attrs["raw_sum"] == pytest.approx(sum(scores.values()))
    record = json.loads((search.folder / "study.json").read_text())
    assert record["reference"]["seeds"] == [1, 2]
    assert known_metrics(config.out, job) is None, "trials are no finished validations"


def test_a_trial_that_was_killed_is_repeated_with_the_same_outcome(tmp_path: Path, data: Path, monkeypatch) -> None:
    search, _ = _study(configured(tmp_path, data), trials=3)
    run_trials(search, 1, Heard())
    whole = _outcome(search.open())
    (tmp_path / "killed").mkdir()
    other, _ = _study(configured(tmp_path / "killed", data), trials=3)

    def die(*arguments) -> None:
        monkeypatch.setattr(trial_running, "mean_gain", lambda gains: os.kill(os.getpid(), signal.SIGKILL))
        trial_running.serve(other)

    process = multiprocessing.get_context("fork").Process(target=die)
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    monkeypatch.undo()
    run_trials(other, 1, Heard())
    assert _outcome(other.open()) == whole
    assert [trial.state for trial in other.open().trials()].count(TrialState.FAIL) == 1
    assert [number_of(trial) for trial in other.open().finished()] == [0, 1, 2], "for readers nothing has happened"


def _record(gains: list[tuple[dict, float]], draws: list[int] | None = None, **facts) -> StudyRecord:
    """A study whose trials had these values and gains."""
    ranges = {name: FloatDistribution(-1, 1) for name in ("a", "b")}
    trials = [
        create_trial(params=values, distributions=ranges, value=gain, user_attrs={"gains": {"ihm": gain}})
        for values, gain in gains
    ]
    for trial, draw in zip(trials, draws or range(len(trials)), strict=True):
        trial.user_attrs["draw"] = draw
    searched = [{"name": name} for name in ranges]
    data = {"name": "toy", "simulated": True}
    return StudyRecord(Path(), {"searched": searched, "data": data, "protocol": "p", "group": "g", **facts}, trials, ())


def test_what_parameters_explain_together_is_no_share_of_one_alone() -> None:
    grid = [{"a": a / 3, "b": b / 3} for a in range(-3, 4) for b in range(-3, 4)]
    table = _importances(_record([(values, values["a"] * values["b"]) for values in grid]))
    assert "explains alone" in table.caption
    assert sum(float(share.key) for _, share in table.rows) < 0.5


def test_a_task_that_validation_cannot_score_neither_stops_nor_breaks_a_trial() -> None:
    reference = make_reference("st", {seed: {"los": {"micro_f1": 0.5}} for seed in (1, 2)})
    told, job = [], SimpleNamespace(epochs=9, tasks=("ihm",))
    trial = SimpleNamespace(report=lambda value, step: told.append((value, step)), should_prune=lambda: False)
    follower = Follower(SimpleNamespace(reference=reference, multi_objective=False), trial)
    follower.begin(job, {})
    unknown = {"auroc": math.nan, "auprc": math.nan}
    follower.notify(SimpleNamespace(epoch=3, epochs=9, task="ihm", metrics=unknown))
    assert told == []
    follower.begin(SimpleNamespace(epochs=9, tasks=("los",)), {"ihm": unknown})
    follower.notify(SimpleNamespace(epoch=3, epochs=9, task="los", metrics={"micro_f1": 0.504}))
    assert told == [(pytest.approx(2.0), 12)]


def test_the_settings_without_tuning_stand_beside_the_best_with_the_epochs_of_trials() -> None:
    confirmed = Confirmed(1, {"a": 0.5, "b": 0.0}, (1, 2), (0.5, 0.7), {"ihm": (0.5, 0.7)}, 1.0)
    record = replace(_record([({"a": 0.0, "b": 0.0}, 0.1)], epochs=[8, 8]), confirmed=(confirmed,))
    assert _best(record).caption.endswith("last row: trial 0, the settings without tuning, one seed, 8 epochs.")


def test_the_best_so_far_follows_the_draws_also_where_one_was_repeated_later() -> None:
    gains = [({"a": 0.0, "b": 0.0}, gain) for gain in (0.0, 2.0, 1.0)]
    (axes,) = _history(_record(gains, draws=[0, 2, 1])).axes
    (best,) = [line for line in axes.lines if line.get_label() == "best so far"]
    assert (list(best.get_xdata()), list(best.get_ydata())) == ([0, 1, 2], [0.0, 1.0, 2.0])


def test_values_that_are_drawn_again_are_not_trained_again(tmp_path: Path, data: Path) -> None:
    search, _ = _study(configured(tmp_path, data, models="mt"), "mt", epochs=1, trials=8)
    run_trials(search, 1, Heard())
    trials = search.open().finished()
    copies = [trial for trial in trials if "same_as" in trial.user_attrs]
    assert len(trials) == 8
    assert copies, "of 3 rates and 3 shares of dropout some are drawn twice"
    for trial in copies:
        first = trials[trial.user_attrs["same_as"]]
        assert (trial.params, trial.value) == (first.params, first.value)


def test_a_diverged_training_is_a_result_and_several_objectives_are_one_a_task(tmp_path: Path, data: Path) -> None:
    search, _ = _study(configured(tmp_path, data), trials=1, multi_objective=True)
    assert search.objectives == ("ihm", "los", "dia")
    run_trials(search, 1, Heard())
    (trial,) = search.open().finished()
    assert trial.values == [trial.user_attrs["gains"][task] for task in search.objectives]
    broken = replace(search, config=_at_rate(search.config, 1e30), id="broken")
    run_trials(broken, 1, Heard())
    (trial,) = broken.open().finished()
    assert trial.state == TrialState.PRUNED
    assert "lower the learning rate" in trial.user_attrs["diverged"]


def _at_rate(config, rate: float):
    training = config.protocol.training.model_copy(update={"learning_rate": rate})
    return replace(config, protocol=config.protocol.model_copy(update={"training": training}))
