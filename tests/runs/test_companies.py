"""Seeds side by side through the runner: the same folders as alone, failures and refusals included."""

from __future__ import annotations

import json
import os
import signal
from contextlib import nullcontext
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from unittest.mock import Mock

import pytest
from harness_fakes import config_for, fake_execute, fake_train
from tuning_data import configured, plan_of, prepare

from benchmark.errors import UserError
from benchmark.runs.companies import companies, execute_company
from benchmark.runs.execute import Context
from benchmark.runs.executors import Advanced, Ended, Place, _Worker
from benchmark.runs.folder import finished_runs, is_done, runs_folder
from benchmark.runs.launch import Summary, launch
from benchmark.runs.plan import make_plan
from benchmark.training.together import NotTogether


@pytest.fixture
def sizes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Replaces the training; collects how many seeds each call had. Seed 13 fails, ehr-only comes alone, and more than
    two seeds of mt do not fit into memory."""
    seen: list[int] = []

    def train_together(plans, data, device, notify, bookmarks):
        if plans[0].model == "ehr-only":
            raise NotTogether("packed only")
        if (plans[0].model == "mt" and len(plans) > 2) or (plans[0].model == "multimodn" and plans[0].seed == 77):
            raise MemoryError
        seen.append(len(plans))
        outcomes = []
        for plan, tell in zip(plans, notify, strict=True):
            try:
                outcomes.append(fake_train(plan, data, device, tell))
            except RuntimeError as fault:
                outcomes.append(fault)
        return outcomes

    monkeypatch.setattr("benchmark.training.together.train_together", train_together)
    monkeypatch.setattr("benchmark.training.train", fake_train)
    monkeypatch.setattr("benchmark.data.dataset.PreparedData.open", lambda folder: None)
    return seen


def run(tmp_path: Path, **options) -> tuple[dict[str, str], Path]:
    config = config_for(tmp_path, form="fixed", tasks="ihm", **options)
    ended: dict[str, str] = {}

    def tell(event) -> None:
        if isinstance(event, Ended):
            ended[f"{event.result.job.model} {event.result.job.seed}"] = event.result.status

    launch(config, make_plan(config, config.data, None), lambda tally: nullcontext(tell))
    return ended, config.out


def forms(out: Path) -> dict[str, tuple[str, list[int]]]:
    """By model and seed: in which form each run was trained, and which seeds shared its steps."""
    records = [
        json.loads((folder / "run.json").read_text()) for folder in finished_runs(out) if folder.suffix != ".failed"
    ]
    return {f"{one['model']['name']} {one['job']['seed']}": (one["form"], one["side_by_side"]) for one in records}


def test_seeds_of_one_model_and_task_keep_company(tmp_path: Path, sizes: list[int]) -> None:
    ended, out = run(tmp_path, models="mmf,multimodn", seeds="1,2,3")
    assert sizes == [3, 3]
    assert set(ended.values()) == {"done"} and len(list(finished_runs(out))) == 6
    again, _ = run(tmp_path, models="mmf,multimodn", seeds="1,2,3,4")
    assert sizes == [3, 3, 1, 1], "finished runs are not repeated, whatever company they had"
    assert list(again) == ["mmf 4", "multimodn 4"]


@pytest.mark.reliability
def test_a_failing_seed_is_its_own_affair(tmp_path: Path, sizes: list[int]) -> None:
    ended, out = run(tmp_path, models="mmf", seeds="1,13,2")
    assert ended == {"mmf 1": "done", "mmf 13": "failed", "mmf 2": "done"}
    assert forms(out)["mmf 1"] == ("fixed", [1, 13, 2]), "the failed seed shared its steps"
    (failed,) = runs_folder(out).glob("*.failed")
    assert "the loss exploded in two lines" in json.loads((failed / "run.json").read_text())["error"]


def test_models_of_packed_batches_go_alone_and_too_many_seeds_are_divided(tmp_path: Path, sizes: list[int]) -> None:
    with pytest.warns(UserWarning, match="out of memory with 4 seeds side by side; going on with half as many"):
        ended, out = run(tmp_path, models="mt,ehr-only", seeds="1,2,3,4")
    assert sizes == [2, 2]
    assert set(ended.values()) == {"done"} and len(ended) == 8
    halves = {"mt 1": [1, 2], "mt 2": [1, 2], "mt 3": [3, 4], "mt 4": [3, 4]}
    assert forms(out) == {name: ("fixed", halves[name]) if name in halves else ("packed", []) for name in ended}


def test_one_seed_that_does_not_fit_is_trained_packed_and_it_is_said(tmp_path: Path, sizes: list[int]) -> None:
    with pytest.warns(UserWarning, match="one seed in the fixed form; it is trained on packed batches"):
        ended, out = run(tmp_path, models="multimodn", seeds="77")
    assert (sizes, ended) == ([], {"multimodn 77": "done"})
    assert forms(out) == {"multimodn 77": ("packed", [])}


def test_a_job_that_another_process_has_finished_is_skipped(tmp_path: Path, sizes: list[int]) -> None:
    config = config_for(tmp_path, form="fixed", tasks="ihm", models="mmf", seeds="1,2")
    jobs = make_plan(config, config.data, None).jobs
    context = Context(config.data.path, config.out, "cpu", 1, form="fixed")
    execute_company(jobs[:1], context, lambda job, report: None)
    results = execute_company(jobs, context, lambda job, report: None)
    assert {result.job.seed: result.status for result in results} == {1: "skipped", 2: "done"}
    assert all(is_done(config.out, job.id) for job in jobs)


def seeds_together(out: Path) -> dict[str, int]:
    records = {folder.name: json.loads((folder / "run.json").read_text()) for folder in finished_runs(out)}
    return {name: record["info"]["seeds_together"] for name, record in records.items()}


@pytest.mark.slow
def test_a_pool_gives_whole_companies_to_its_workers(tmp_path: Path) -> None:
    data, predictions = prepare(tmp_path), []
    for workers in (1, 2):
        (tmp_path / str(workers)).mkdir()
        options = {"models": "flexcare,mt", "tasks": "ihm", "seeds": "1,2", "form": "fixed", "workers": workers}
        config = configured(tmp_path / str(workers), data, **options)
        summary = launch(config, plan_of(config), lambda tally: nullcontext(tally.tell))
        assert [result.status for result in summary.results.values()] == ["done"] * 4
        assert seeds_together(config.out) == dict.fromkeys(summary.results, 2)
        predictions.append({name: read_predictions(config.out, name) for name in sorted(summary.results)})
    assert predictions[0] == predictions[1]


@pytest.mark.reliability
@pytest.mark.parametrize("dies_at", [1, 2], ids=["both seeds have one epoch", "one seed has two epochs"])
def test_a_company_that_is_killed_goes_on_as_if_it_had_not_been(dies_at: int, tmp_path: Path) -> None:
    data, outs = prepare(tmp_path), {}
    for name in ("killed", "whole"):
        (tmp_path / name).mkdir()
        outs[name] = configured(tmp_path / name, data, models="m3care", tasks="ihm", seeds="1,2", form="fixed")
    config = replace(outs["killed"], save_every=0.0)

    def die(event: object) -> None:
        if isinstance(event, Advanced) and (event.job.seed, event.report.epoch) == (dies_at, 2):
            os.kill(os.getpid(), signal.SIGKILL)

    process = get_context("fork").Process(target=go, args=(config, die))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL and not list(finished_runs(config.out))
    again: list[tuple[int, int]] = []

    def note(event: object) -> None:
        if isinstance(event, Advanced):
            again.append((event.job.seed, event.report.epoch))

    summary = go(config, note)
    assert again == [(1, 2), (2, 2)][dies_at - 1 :], "no kept epoch is trained again"
    together = seeds_together(config.out)
    assert list(together.values()) == [2, 2] and not summary.failed
    go(outs["whole"], lambda event: None)
    for name in together:
        for file in ("predictions.parquet", "checkpoint.safetensors"):
            own, whole = ((runs_folder(one.out) / name / file).read_bytes() for one in (config, outs["whole"]))
            assert own == whole, f"other bytes in {file} of {name}"


def go(config, tell) -> Summary:
    return launch(config, plan_of(config), lambda tally: nullcontext(tell))


def read_predictions(out: Path, name: str) -> bytes:
    return (runs_folder(out) / name / "predictions.parquet").read_bytes()


@pytest.mark.reliability
def test_a_worker_that_dies_costs_those_seeds_of_its_company_that_it_has_not_ended(tmp_path: Path) -> None:
    config = config_for(tmp_path, form="fixed", tasks="ihm", models="mmf", seeds="1,2,3")
    first, *others = make_plan(config, config.data, None).jobs
    process = get_context("spawn").Process(target=os._exit, args=(7,))
    process.start()
    worker, told = _Worker(process, Mock(), Place()), []
    worker.give([first, *others], told.append)
    assert (worker.has_ended(first), [event.job.seed for event in told]) == (False, [1, 2, 3])
    context = Context(config.data.path, config.out, "cpu", 1, form="fixed")
    stored, lost = others
    assert fake_execute(stored, context).status == "done"  # and the news of it never came
    results = worker.buried(context)
    assert [(result.job, result.status, result.error) for result in results] == [
        (stored, "skipped", ""),
        (lost, "failed", "the worker process ended with code 7"),
    ]
    assert [folder.name for folder in runs_folder(config.out).glob("*.failed")] == [f"{lost.id}.failed"]


def test_in_the_packed_form_everybody_is_alone(tmp_path: Path) -> None:
    config = config_for(tmp_path, tasks="ihm", models="mmf", seeds="1,2")
    jobs = make_plan(config, config.data, None).jobs
    assert companies(jobs, Context(config.data.path, config.out, "cpu", 1)) == [[job] for job in jobs]
    with pytest.raises(UserError, match="executor: 'ray' takes job by job, not seeds side by side; allowed: auto"):
        config_for(tmp_path, form="fixed", executor="ray")
