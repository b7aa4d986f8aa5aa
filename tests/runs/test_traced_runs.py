"""Traced runs: jobs of their own, whose numbers stand in the place of their untraced twins'."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd
from harness_fakes import config_for, fake_train

from benchmark.runs.collect import collect
from benchmark.runs.execute import Context, execute
from benchmark.runs.groups import choose, groups
from benchmark.runs.job import Job
from benchmark.runs.plan import make_plan


def jobs(tmp_path: Path, **options: object) -> dict[str, Job]:
    config = config_for(tmp_path, models="flexcare,mt", tasks="ihm,phe", seeds="1", **options)
    return {job.model: job for job in make_plan(config, config.data, None).jobs}


def traced_train(plan, data, device, notify, bookmark):
    trained = fake_train(plan, data, device, notify)
    return replace(trained, trace=pd.DataFrame({"segment": [0]})) if plan.trace else trained


def test_only_models_of_several_tasks_are_traced(tmp_path: Path) -> None:
    plain, traced = jobs(tmp_path), jobs(tmp_path, trace=True)
    assert plain["mt"].id == traced["mt"].id
    assert (plain["flexcare"].trace, traced["flexcare"].trace) == (False, True)
    assert plain["flexcare"].id != traced["flexcare"].id
    assert plain["flexcare"].variant == traced["flexcare"].variant


def test_a_seed_counts_once_although_it_ran_with_and_without_trace(tmp_path: Path) -> None:
    plain, traced = jobs(tmp_path)["flexcare"], jobs(tmp_path, trace=True)["flexcare"]
    caption = {"group": "g", "data": {}, "protocol": {}, "encoder": None, "code": {}}
    context = Context(tmp_path / "data", tmp_path / "out", "cpu", 1, caption)
    other = replace(plain, seed=2)
    for job in (plain, traced, other):
        assert execute(job, context, train=traced_train, data=object()).status == "done"
    runs = collect(tmp_path / "out")
    assert set(runs["run"]) == {traced.id, other.id}
    assert choose(groups(tmp_path / "out", runs), None).runs
    folders = tmp_path / "out" / "runs"
    assert [(folders / job.id / "trace.parquet").is_file() for job in (plain, traced)] == [False, True]
