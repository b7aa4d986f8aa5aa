"""Models that start from the final state of another: which jobs they need, and in which order these run."""

from __future__ import annotations

import functools
import json
import os
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from harness_fakes import config_for, fake_train, last_to_end, write_data

from benchmark.errors import UserError
from benchmark.locks import acquire
from benchmark.runs.calibrate import Speed, Speeds, kind_of
from benchmark.runs.execute import execute
from benchmark.runs.executors import Deferred, Ended, InProcess, ProcessPool, Started, any_of
from benchmark.runs.folder import is_done, lock_file
from benchmark.runs.launch import context_of, launch
from benchmark.runs.plan import make_plan
from benchmark.runs.schedule import pieces_of, simulate


@pytest.fixture
def config(tmp_path):
    """A data set that has DRG too."""
    data = write_data(tmp_path / "data")
    manifest = json.loads((data / "manifest.json").read_text())
    manifest["tasks"]["drg"] = {"classes": ["1"], "samples": {"train": 5, "val": 5, "test": 5}}
    manifest["impossible"] = {}
    (data / "manifest.json").write_text(json.dumps(manifest))
    return functools.partial(config_for, tmp_path, models="flexcare-pretrained", seeds="1,2")


def test_the_first_training_is_part_of_the_plan_and_of_the_name(config):
    jobs = make_plan(settings := config(tasks="drg", label_fraction=0.01), settings.data, None).jobs
    sources = {job.seed: job for job in jobs if job.model == "flexcare"}
    carried = {job.seed: job for job in jobs if job.model == "flexcare-pretrained"}
    assert len(jobs) == 4
    for seed in (1, 2):
        assert sources[seed].tasks == ("ihm", "los", "dec", "phe", "rea", "dia")
        assert sources[seed].label_fraction == 1.0 and carried[seed].label_fraction == 0.01
        assert carried[seed].tasks == ("drg",) and carried[seed].initial == sources[seed].id
    paper = config(tasks="drg", models="flexcare,flexcare-st,flexcare-pretrained", protocol="paper")
    epochs = {(job.model, job.tasks): job.epochs for job in make_plan(paper, paper.data, None).jobs}
    assert epochs.pop(("flexcare", sources[1].tasks)) == 25
    assert set(epochs.values()) == {40}, "on one task nobody is trained for longer than another"
    assert carried[1].variant == carried[2].variant, "seeds of one cell, though each starts from its own run"
    other = replace(settings, protocol=settings.protocol.model_copy(update={"seeds": (1,)}))
    training = other.protocol.training.model_copy(update={"batch_size": 7})
    other = replace(other, protocol=other.protocol.model_copy(update={"training": training}))
    changed = {job.id for job in make_plan(other, other.data, None).jobs}
    assert not changed & {job.id for job in jobs}, "another first training is another job"
    variants = {job.variant for job in make_plan(other, other.data, None).jobs if job.model == "flexcare-pretrained"}
    assert variants.isdisjoint({carried[1].variant})


def test_it_has_the_options_of_its_first_training_unless_it_is_given_others(config, tmp_path):
    def options(**given) -> list[dict]:
        (tmp_path / "own.yaml").write_text(json.dumps({"base": "quick", "name": "own", "models": given}))
        settings = config(tasks="drg", seeds="1", protocol=str(tmp_path / "own.yaml"))
        found = {job.model: job.options for job in make_plan(settings, settings.data, None).jobs}
        return [found["flexcare"], found["flexcare-pretrained"]]

    first, second = options(flexcare={"temperature": 0.5, "top_k": 3})
    assert first["temperature"] == 0.5 and {name: second[name] for name in first} == first
    first, second = options(**{"flexcare": {"temperature": 0.5}, "flexcare-pretrained": {"temperature": 0.7}})
    assert (first["temperature"], second["temperature"]) == (0.5, 0.7)


def test_there_is_nothing_to_carry_over_to_a_task_of_the_first_training(config):
    with pytest.raises(UserError, match="flexcare-pretrained is for tasks that flexcare is not trained on first: drg"):
        config(tasks="ihm")
    settings = config(tasks="ihm", models="extensions,flexcare")
    assert {job.model for job in make_plan(settings, settings.data, None).jobs} == {"flexcare"}
    settings = config(tasks="ihm,drg", models="flexcare,flexcare-pretrained")
    assert {(job.model, len(job.tasks)) for job in make_plan(settings, settings.data, None).jobs} == {
        ("flexcare", 2),
        ("flexcare", 6),
        ("flexcare-pretrained", 1),
    }


def test_jobs_start_from_the_stored_state_and_after_it(config):
    order, given = [], {}

    def train(plan, data, device, notify, bookmark):
        order.append((plan.model, plan.seed))
        if plan.initial is not None:
            given[plan.seed] = plan.initial
        trained = fake_train(plan, data, device, notify)
        return replace(trained, state={"weight": torch.full((2,), float(plan.seed))})

    settings = config(tasks="drg")
    plan = make_plan(settings, settings.data, None)
    watch = lambda tally: nullcontext(tally.tell)  # noqa: E731
    summary = launch(settings, plan, watch, InProcess(functools.partial(execute, train=train)))
    assert not summary.failed and all(is_done(settings.out, job.id) for job in plan.jobs)
    assert [model for model, _ in order] == ["flexcare"] * 2 + ["flexcare-pretrained"] * 2
    assert {seed: state["weight"].tolist() for seed, state in given.items()} == {1: [1.0, 1.0], 2: [2.0, 2.0]}


def test_a_first_training_begins_before_what_is_longer_than_itself_and_shorter_than_both(config):
    settings = config(tasks="drg", models="mt,flexcare-pretrained", seeds="1")
    plan, hours = make_plan(settings, settings.data, None), {"mt": 5.0, "flexcare": 3.0, "flexcare-pretrained": 4.0}
    speeds = {
        kind_of([job], "packed"): Speed(dict.fromkeys(job.tasks, 0.0), 0.0, hours[job.model], 1, 1, 1)
        for job in plan.jobs
    }
    context = context_of(settings, plan)
    pieces = pieces_of(plan.jobs, context, Speeds(speeds), plan.data.samples)
    assert [piece.jobs[0].model for piece in pieces] == ["flexcare", "mt", "flexcare-pretrained"]
    assert simulate(pieces, any_of(2), shared=False)[0] == 7


@pytest.mark.parametrize("dies_after", [1, 2])
def test_it_is_left_for_later_while_another_process_is_at_its_first_training(config, dies_after):
    """The other process may die before it is its turn, or when both are left for later."""
    settings = config(tasks="drg", seeds="1")
    plan = make_plan(settings, settings.data, None)
    source, later = sorted(plan.jobs, key=lambda job: job.initial is not None)
    lock, deferred, statuses = acquire(lock_file(settings.out, source.id)), [], {}

    def hear(event):
        if isinstance(event, Deferred):
            deferred.append(event.job.id)
            if len(deferred) == dies_after:
                os.close(lock)  # the other process dies
        if isinstance(event, Ended):
            statuses[event.result.job.id] = event.result.status

    watch = lambda tally: nullcontext(lambda event: (tally.tell(event), hear(event)))  # noqa: E731
    launch(settings, plan, watch, InProcess(functools.partial(execute, train=fake_train)))
    assert deferred == [source.id, later.id]
    assert statuses == {source.id: "done", later.id: "done"}


def test_a_pool_begins_it_as_soon_as_its_own_first_training_is_over(config, tmp_path):
    settings = config(tasks="drg", seeds="1,2,3")
    plan, events = make_plan(settings, settings.data, None), []
    watch = lambda tally: nullcontext(lambda event: (tally.tell(event), events.append(event)))  # noqa: E731
    train = functools.partial(last_to_end, tmp_path / "begun", 3)
    assert not launch(settings, plan, watch, ProcessPool(2, functools.partial(execute, train=train))).failed
    ended = {event.result.job.id: place for place, event in enumerate(events) if isinstance(event, Ended)}
    begun = {event.job.id: place for place, event in enumerate(events) if isinstance(event, Started)}
    carried = [job for job in plan.jobs if job.initial]
    assert len(carried) == 3 and all(ended[job.initial] < begun[job.id] for job in carried)


def test_a_failed_first_training_fails_what_starts_from_it_with_the_reason(config):
    def train(plan, data, device, notify, bookmark):
        if plan.model == "flexcare" and plan.seed == 1:
            raise RuntimeError("no")
        return fake_train(plan, data, device, notify)

    settings = config(tasks="drg")
    plan = make_plan(settings, settings.data, None)
    watch = lambda tally: nullcontext(tally.tell)  # noqa: E731
    summary = launch(settings, plan, watch, InProcess(functools.partial(execute, train=train)))
    failed = {result.job.model: result.error for result in summary.failed}
    assert set(failed) == {"flexcare", "flexcare-pretrained"}
    assert failed["flexcare-pretrained"].startswith("starts from flexcare-6tasks-s1-")
