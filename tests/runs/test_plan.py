"""Which jobs a request makes, and what their hashes depend on."""

from __future__ import annotations

from dataclasses import replace

import pytest
from harness_fakes import config_for, write_data

from benchmark.config import resolve
from benchmark.errors import UserError
from benchmark.manifest import read_manifest
from benchmark.runs import plan as planning
from benchmark.runs.plan import Encoder, make_plan

ENCODER = Encoder("key", "an encoder", 384)


def jobs_of(config, encoder=None, data=None):
    return {(job.model, job.tasks, job.seed): job for job in make_plan(config, data or config.data, encoder).jobs}


def test_one_job_a_seed_for_multitask_models_and_one_a_task_for_others(tmp_path):
    config = config_for(tmp_path, models="flexcare,medfuse", tasks="phe,ihm", seeds="1,2")
    plan = make_plan(config, config.data, None)
    assert {(job.model, job.tasks, job.seed) for job in plan.jobs} == {
        *(("flexcare", ("ihm", "phe"), seed) for seed in (1, 2)),
        *(("medfuse", (task,), seed) for task in ("ihm", "phe") for seed in (1, 2)),
    }
    costs = [job.cost(config.data.samples) for job in plan.jobs]
    assert costs == sorted(costs, reverse=True), "longest first"
    assert len({job.id for job in plan.jobs}) == len(plan.jobs)


def test_the_hash_is_the_same_for_the_same_request(tmp_path):
    config = config_for(tmp_path, models="all")
    again = config_for(tmp_path, models="all", workers=2, out=str(tmp_path / "elsewhere"))
    assert [job.id for job in make_plan(config, config.data, None).jobs] == [
        job.id for job in make_plan(again, again.data, None).jobs
    ], "where and how a job runs is not part of it"


CHANGES = {
    "learning_rate": ("training: {learning_rate: 1e-3}", {"flexcare", "medfuse"}),
    "width": ("dimensions: {width: 64}", {"flexcare", "medfuse"}),
    "singletask epochs": ("training: {epochs: {singletask: 2}}", {"medfuse"}),
    "multitask epochs": ("training: {epochs: {multitask: 2}}", {"flexcare"}),
    "weight of a task that runs": ("training: {task_weights: {ihm: 0.9}}", {"flexcare"}),
    "weight of a task that does not": ("training: {task_weights: {dia: 0.9}}", set()),
    "training of one model": ("training_of: {medfuse: {learning_rate: 1e-3}}", {"medfuse"}),
    "training of a model that does not run": ("training_of: {mt: {epochs: 3}}", set()),
    "option of one model": ("models: {flexcare: {beta: 0.1}}", {"flexcare"}),
    "option of a model that does not run": ("models: {mt: {}}", set()),
    "option set to its default": ("models: {flexcare: {beta: 0.5}}", set()),
    "description": ("description: other words", set()),
    "seeds": ("seeds: [1, 2, 3]", set()),
    "embedded cohort": ("cohort: {patients: 50}", set()),
}


def test_note_dropout_is_in_the_hash_of_models_that_use_it(tmp_path):
    def jobs(text, encoder=ENCODER):
        file = tmp_path / "changed.yaml"
        file.write_text(f"base: quick\ntraining_of: {text}\n")
        models = "flexcare,flexcare-authors,boosted-trees"
        config = config_for(tmp_path, models=models, tasks="ihm", seeds="1", protocol=str(file))
        return {job.model: job for job in make_plan(config, config.data, encoder).jobs}

    text = "{flexcare-authors: {note_dropout: %d}, boosted-trees: {note_dropout: 3}}"
    without, two, many = (jobs(text % count) for count in (0, 2, 50))
    assert {name for name in without if without[name].id != two[name].id} == {"flexcare-authors"}
    assert [job["flexcare-authors"].note_dropout for job in (without, two, many)] == [0, 2, 3], "one an epoch is all"
    assert two["boosted-trees"].note_dropout == 0, "it has no epochs"
    assert jobs(text % 2, None) == jobs(text % 0, None), "there are no notes"


def test_training_settings_of_one_model(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(
        "protocol: {base: quick, training_of: "
        "{medfuse: {learning_rate: 1e-3, epochs: 7, halve_learning_rate: true}, mt: {epochs: 2}}}"
    )
    given = {"data": str(write_data(tmp_path / "data")), "models": "medfuse,mt", "tasks": "ihm", "seeds": "1"}
    config = resolve({**given, "out": str(tmp_path / "out")}, file)
    jobs = {name: job for (name, _, _), job in jobs_of(config).items()}
    medfuse, mt = jobs["medfuse"], jobs["mt"]
    assert (medfuse.learning_rate, medfuse.epochs, medfuse.halve_learning_rate) == (1e-3, 7, True)
    assert (mt.learning_rate, mt.epochs, mt.halve_learning_rate) == (3e-3, 2, False)
    paper = jobs_of(resolve({**given, "models": "flexcare,flexcare-authors", "protocol": "paper"}))
    rates = {name: (job.learning_rate, job.epochs) for (name, _, _), job in paper.items()}
    assert rates == {"flexcare": (5e-4, 40), "flexcare-authors": (1e-4, 25)}
    file.write_text("protocol: {base: quick, training_of: {medfus: {epochs: 7}, mt: {epocs: 1}}}")
    with pytest.raises(UserError) as caught:
        resolve({**given, "out": str(tmp_path / "out")}, file)
    assert "training_of.mt.epocs: unknown key; did you mean 'epochs'" in str(caught.value)


@pytest.mark.parametrize("change", CHANGES)
def test_a_hash_changes_if_and_only_if_something_changes_that_reaches_the_job(tmp_path, change):
    text, expected = CHANGES[change]
    before = jobs_of(config_for(tmp_path, models="flexcare,medfuse", tasks="ihm,phe", seeds="1"))
    file = tmp_path / "changed.yaml"
    file.write_text(f"base: quick\n{text}\n")
    after = jobs_of(config_for(tmp_path, models="flexcare,medfuse", tasks="ihm,phe", seeds="1", protocol=str(file)))
    assert {key[0] for key in before if before[key].id != after[key].id} == expected


def test_data_encoder_and_code_are_part_of_every_hash(tmp_path, monkeypatch):
    config = config_for(tmp_path, models="flexcare,medfuse", tasks="ihm,phe", seeds="1")
    ids = {job.id for job in jobs_of(config, ENCODER).values()}
    others = [
        jobs_of(config, None),
        jobs_of(config, replace(ENCODER, key="other")),
        jobs_of(config, ENCODER, read_manifest(write_data(tmp_path / "more", "e" * 64))),
    ]
    monkeypatch.setattr(planning, "code_version", lambda: "other code")
    others.append(jobs_of(config, ENCODER))
    for jobs in others:
        assert not ids & {job.id for job in jobs.values()}
    renamed = jobs_of(config, replace(ENCODER, name="same encoder, other name"))
    assert {job.id for job in renamed.values()} == {job.id for job in others[-1].values()}


def test_dimensions_take_the_width_of_the_encoder(tmp_path):
    jobs = jobs_of(config_for(tmp_path, models="medfuse", tasks="ihm", seeds="1"), ENCODER)
    assert next(iter(jobs.values())).dimensions["note_features"] == 384


def test_settings_of_one_model_reach_its_jobs_alone(tmp_path):
    settings = tmp_path / "tuned.yaml"
    settings.write_text(
        "protocol:\n"
        "  base: quick\n"
        "  training_of:\n"
        "    flexcare: {dropout: 0.3, task_weights: {ihm: 0.7}, task_rates: {phe: 2.0, los: 1.0}, study: f-12}\n"
        "    mt: {task_weights: {ihm: 0.7}}\n"
    )
    write_data(tmp_path / "data")
    given = {"models": "flexcare,mt,mmf", "tasks": "ihm,los,phe", "seeds": "1", "data": str(tmp_path / "data")}
    config = resolve(given | {"out": str(tmp_path / "out")}, settings)
    jobs = {job.model: job for job in make_plan(config, config.data, None).jobs}
    assert jobs["flexcare"].task_weights == {"ihm": 0.7, "los": 0.5, "phe": 1.0}
    assert jobs["flexcare"].task_rates == {"phe": 2.0}
    assert (jobs["flexcare"].dimensions["dropout"], jobs["mmf"].dimensions["dropout"]) == (0.3, 0.0)
    assert jobs["mt"].task_weights == {jobs["mt"].tasks[0]: 1.0}, "a model of one task has no weights"
