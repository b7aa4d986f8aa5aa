"""Marks and intervals in tables, from predictions as runs store them."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pandas as pd
import pytest
from stored_runs import ORDER, layout, write_run

from benchmark.evaluation.metrics import compute
from benchmark.reporting.formats import to_csv, to_latex, to_markdown
from benchmark.reporting.resamples import read_predictions, resamples_of
from benchmark.reporting.tables import build_table
from benchmark.runs.collect import collect
from benchmark.runs.groups import choose, groups
from benchmark.tasks import TASKS

STRENGTH = {"medfuse": 0.2, "mt": 2.0, "flexcare": 2.0}
N = 240


def predictions(strength: float, seed: int) -> pd.DataFrame:
    rng = np.random.default_rng(100 + seed)
    patient = np.arange(N) // 2
    y = (patient % 3 == 0).astype(np.float32)
    p = 1 / (1 + np.exp(-strength * y - rng.normal(size=N) - np.random.default_rng(1).normal(size=N)))
    frame = pd.DataFrame({"task": "ihm", "sample": [f"s{i:04}" for i in range(N)]})
    frame["patient"] = [f"p{i:03}" for i in patient]
    frame[["present_ehr", "present_cxr", "present_note"]] = True
    frame["y"], frame["p"] = [[v] for v in y], [[v] for v in p.astype(np.float32)]
    return frame.sample(frac=1, random_state=seed)  # the order of stored rows does not matter


@pytest.fixture
def out(tmp_path):
    for model, strength in STRENGTH.items():
        for seed in (1, 2, 3):
            frame = predictions(strength, seed + (10 if model == "mt" else 0))
            y, p = (np.stack(frame[name].to_list()).astype(float) for name in ("y", "p"))
            metrics = compute(TASKS["ihm"].metrics, "binary", ("x",), y, np.ones(y.shape, bool), p)
            write_run(tmp_path, model, seed, {"ihm": metrics}, tasks=["ihm"])
            frame.to_parquet(tmp_path / "runs" / f"{model}-ihm-s{seed}-v-aaaa" / "predictions.parquet")
    return tmp_path


def table_of(out):
    runs = collect(out)
    group = choose(groups(out, runs), None)
    resamples = resamples_of(out, runs, group, 300)
    resamples.compute()
    return build_table(runs, group, ORDER, layout("table3", out), resamples=resamples), resamples


def test_a_model_as_good_as_the_best_is_marked_and_a_worse_one_is_not(out):
    table, _ = table_of(out)
    row = table.rows[0]
    best = max(row.cells, key=lambda name: row.cells[name].mean)
    equal = ({"mt", "flexcare"} - {best}).pop()
    assert best != "medfuse" and row.cells[best].p is None
    assert row.cells[equal].close and row.cells["medfuse"].p < 0.001 and not row.cells["medfuse"].close
    for cell in row.cells.values():
        assert cell.low < cell.mean < cell.high
    assert to_markdown(table).count("° (.") == 2, "AUROC and AUPRC of one model"
    assert r"$^{\circ}$ (." in to_latex(table)
    frame = pd.read_csv(pd.io.common.StringIO(to_csv(table)))
    assert {"low", "high", "p_best"} <= set(frame.columns)


def test_the_data_as_they_are_give_the_stored_metrics(out):
    _, resamples = table_of(out)
    for run in resamples.runs:
        stored = json.loads((out / "runs" / run / "run.json").read_text())["metrics"]["ihm"]
        for metric, value in stored.items():
            assert resamples.scores([run], "ihm", metric)[0, 0] == pytest.approx(value, abs=1e-6)


def test_kept_scores_are_made_again_if_damaged_or_for_other_patients(out):
    _, resamples = table_of(out)
    file = next((out / "resampled").glob("*.npz"))
    before = resamples.scores([file.stem], "ihm", "auroc")
    file.write_bytes(file.read_bytes()[:100])
    _, again = table_of(out)
    np.testing.assert_array_equal(again.scores([file.stem], "ihm", "auroc"), before)
    run = next(iter(resamples.runs))
    path = out / "runs" / run / "predictions.parquet"
    frame = pd.read_parquet(path)
    pd.concat([frame, frame.tail(1).assign(sample="new", patient="new")]).to_parquet(path)
    kept = out / "resampled" / f"{run}.npz"
    before = kept.stat().st_mtime_ns
    resamples_of(out, collect(out), choose(groups(out, collect(out)), None), 300).compute(processes=1)
    assert kept.stat().st_mtime_ns > before


def test_predictions_are_aligned_by_sample(out):
    first, second = (read_predictions(out, f"{model}-ihm-s1-v-aaaa", "ihm") for model in ("mt", "medfuse"))
    np.testing.assert_array_equal(first.sample, second.sample)
    np.testing.assert_array_equal(first.y, second.y)


def test_kept_scores_are_made_again_if_the_run_was_repeated_with_other_predictions(out):
    _, before = table_of(out)
    run = "medfuse-ihm-s1-v-aaaa"
    stored, path = before.scores([run], "ihm", "auroc"), out / "runs" / run / "predictions.parquet"
    frame = pd.read_parquet(path)
    frame["p"] = [[1 - p[0]] for p in frame["p"]]
    frame.to_parquet(path)
    _, after = table_of(out)
    assert after.scores([run], "ihm", "auroc")[0, 0] == pytest.approx(1 - stored[0, 0], abs=1e-6)


def test_fewer_seeds_in_a_comparison_than_in_a_mean_are_told(out):
    for seed in (2, 3):
        shutil.rmtree(out / "runs" / f"medfuse-ihm-s{seed}-v-aaaa")
    table, _ = table_of(out)
    told = "Compared with the best on the seeds that both have, fewer than the means rest on: MedFuse on IHM (seed 1)."
    assert told in table.notes
    for folder in [*out.glob("runs/*-s2-*"), *out.glob("runs/*-s3-*")]:
        shutil.rmtree(folder)
    table, _ = table_of(out)
    assert "paired bootstrap over patients alone" in table.caption and not any("Compared" in one for one in table.notes)


def test_a_model_alone_has_its_intervals_in_the_csv_too(out):
    for folder in [*out.glob("runs/mt*"), *out.glob("runs/flexcare*")]:
        shutil.rmtree(folder)
    table, _ = table_of(out)
    frame = pd.read_csv(pd.io.common.StringIO(to_csv(table)))
    assert (frame["low"] < frame["mean"]).all() and (frame["mean"] < frame["high"]).all()
