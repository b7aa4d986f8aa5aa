"""Two models side by side."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pandas as pd
import pytest
from stored_runs import write_run

from benchmark.cli.compare import compare_command
from benchmark.errors import UserError
from benchmark.evaluation.metrics import auroc
from benchmark.reporting.pairs import EVERYTHING, choose_runs, compare
from benchmark.reporting.stored import Stored
from benchmark.runs.collect import collect
from benchmark.runs.groups import CAPTION

N = 300


@pytest.fixture
def out(tmp_path):
    """`mt` is good where a film is present and worthless elsewhere; `medfuse` is fair everywhere."""
    rng = np.random.default_rng(0)
    y, film = (np.arange(N) % 2).astype(np.float32), np.arange(N) % 3 == 0
    for model in ("medfuse", "mt"):
        for seed in (1, 2, 3):
            strength = 1.0 if model == "medfuse" else np.where(film, 3.0, 0.0)
            p = 1 / (1 + np.exp(-strength * y - rng.normal(size=N)))
            frame = pd.DataFrame({"task": "ihm", "sample": [f"{i:04}" for i in range(N)]})
            frame["patient"] = [f"p{i // 2}" for i in range(N)]
            frame["present_ehr"], frame["present_cxr"], frame["present_note"] = True, film, False
            frame["y"], frame["p"] = [[v] for v in y], [[v] for v in p.astype(np.float32)]
            write_run(tmp_path, model, seed, {"ihm": {}}, tasks=["ihm"])
            frame.to_parquet(tmp_path / "runs" / f"{model}-ihm-s{seed}-v-aaaa" / "predictions.parquet")
    return tmp_path


def test_differences_by_pattern_are_found_and_are_those_of_the_predictions(out):
    runs = collect(out)
    pairs = compare(out, choose_runs(runs, "mt"), choose_runs(runs, "medfuse"), resamples=200).pairs
    by = {pair.pattern: pair for pair in pairs if pair.metric == "auroc"}
    assert list(by) == [EVERYTHING, "ehr", "ehr+cxr"], "the commonest pattern first"
    assert by["ehr"].gap.high < 0 < by["ehr+cxr"].gap.low
    assert by["ehr"].samples + by["ehr+cxr"].samples == by[EVERYTHING].samples == N
    values = []
    for run in choose_runs(runs, "mt")["run"]:
        frame = pd.read_parquet(out / "runs" / run / "predictions.parquet").query("present_cxr")
        values.append(auroc(frame["y"].str[0].to_numpy(), frame["p"].str[0].to_numpy()))
    assert by["ehr+cxr"].first.value == pytest.approx(np.mean(values), abs=1e-6)


def test_the_command_says_which_p_values_are_adjusted(out, capsys):
    compare_command("mt", "medfuse", out=out)
    assert "p of all samples: adjusted over the tasks (Holm); of patterns: not adjusted." in capsys.readouterr().out


def test_of_several_settings_those_are_compared_that_stand_in_the_table(out):
    for seed in (1, 2, 3):
        write_run(out, "mt", seed, {"ihm": {}}, tasks=["ihm"], variant="w", finished="2031-01-01T00:00:00+00:00")
        frame = pd.read_parquet(out / "runs" / f"mt-ihm-s{seed}-v-aaaa" / "predictions.parquet")
        frame.assign(p=frame["y"]).to_parquet(out / "runs" / f"mt-ihm-s{seed}-w-aaaa" / "predictions.parquet")
    asked = [path.name for variant in "wv" for path in out.glob(f"runs/*-{variant}-aaaa")]  # "w" ended last
    record = json.loads(next(out.glob("runs/*/run.json")).read_text())
    (out / "plans").mkdir()
    plan = {key: record[key] for key in CAPTION} | {"asked": "2032-01-01T00:00:00", "jobs": asked}
    (out / "plans" / "plan.json").write_text(json.dumps(plan))
    compare_command("mt", "medfuse", out=out, patterns=False)
    found = pd.read_csv(next(out.glob("tables/compare-*.csv"))).query("metric == 'auroc' and pattern == @EVERYTHING")
    (cell,) = (runs for place, runs in Stored.open(out, ("medfuse", "mt")).cells.items() if place[2] == "mt")
    assert all("-v-" in run for run in cell.values())
    assert found["first_score"].item() < 0.9


def test_a_run_can_be_named_and_unknown_or_unclear_names_are_refused(out):
    runs = collect(out)
    one = choose_runs(runs, "mt-ihm-s2")
    assert list(one["seed"]) == [2]
    assert len(compare(out, one, choose_runs(runs, "medfuse-ihm-s2"), resamples=20).pairs) == 9
    with pytest.raises(UserError, match="unknown model or run 'medfus e'; did you mean 'medfuse'"):
        choose_runs(runs, "medfus e")
    with pytest.raises(UserError, match="3 runs begin with 'mt-'"):
        choose_runs(runs, "mt-")


def test_different_test_samples_are_refused(out):
    file = out / "runs" / "mt-ihm-s1-v-aaaa" / "predictions.parquet"
    pd.read_parquet(file).iloc[1:].to_parquet(file)
    runs = collect(out)
    with pytest.raises(UserError, match="tested on different samples"):
        compare(out, choose_runs(runs, "mt"), choose_runs(runs, "medfuse"), resamples=20)


def copied(out, model: str, seed: int, task: str) -> None:
    """Runs on another task with the predictions of those that are there."""
    frame = pd.read_parquet(next(out.glob(f"runs/{model}-*/predictions.parquet")))
    write_run(out, model, seed, {task: {}}, tasks=[task])
    frame.assign(task=task).to_parquet(out / "runs" / f"{model}-{task}-s{seed}-v-aaaa" / "predictions.parquet")


def test_models_are_compared_on_common_seeds_alone_and_say_which(out, capsys):
    copied(out, "mt", 1, "rea")
    copied(out, "medfuse", 2, "rea")
    compare_command("mt", "medfuse", out=out)
    told = capsys.readouterr().out
    assert "Seeds: 1, 2, 3." in told and "rea: no seed in common ([1] and [2])" in told
    frame = pd.read_csv(next(out.glob("tables/compare-*.csv")))
    assert set(frame["task"]) == {"ihm"} and set(frame["seeds"]) == {"1 2 3"}
    for run in [*out.glob("runs/m*-ihm-*")]:
        shutil.rmtree(run)
    with pytest.raises(UserError, match=r"rea: no seed in common \(\[1\] and \[2\]\)"):
        compare_command("mt", "medfuse", out=out)
    compare_command("mt-rea-s1", "medfuse-rea-s2", out=out)
    told = capsys.readouterr().out
    assert "Seeds: 1 against 2." in told and "With one run a side patients alone are resampled" in told
    copied(out, "medfuse", 1, "rea")
    compare_command("mt", "medfuse", out=out)
    assert "Seeds: 1.\nWith one run a side" in capsys.readouterr().out
