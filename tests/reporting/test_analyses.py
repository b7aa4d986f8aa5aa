"""Tables of analyses from stored predictions: multitask accounting, calibration, subgroups, patterns, cost."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import brier_score_loss
from stored_runs import write_run

from benchmark import registry
from benchmark.errors import UserError
from benchmark.evaluation.metrics import auroc
from benchmark.reporting.calibration import calibration_sheets
from benchmark.reporting.cost import cost_sheet
from benchmark.reporting.parts import pattern_sheet, subgroup_sheet
from benchmark.reporting.resamples import Resamples
from benchmark.reporting.sheets import to_markdown, write_csv
from benchmark.reporting.stored import Stored
from benchmark.reporting.transfer import GAIN, LOSS, OPEN, transfer_sheet, twins

N = 300
SEEDS = (1, 2, 3)
ORDER = ("flexcare-st", "flexcare")
STRENGTH = {
    ("flexcare", ("ihm", "rea", "dec")): {"ihm": 0.0, "rea": 2.0, "dec": 2.0},
    ("flexcare", ("ihm", "rea")): {"ihm": 2.0, "rea": 2.0},
    ("flexcare-st", ("ihm",)): {"ihm": 2.0},
    ("flexcare-st", ("rea",)): {"rea": 0.0},
    ("flexcare-st", ("dec",)): {"dec": 2.0},
}
"""How much of the outcome the runs know, by what they were trained on: ihm loses by company, rea gains."""


def frame_of(task: str, strength: float, seed: int) -> pd.DataFrame:
    y = (np.arange(N) // 2 % 3 == 0).astype(np.float32)
    noise = np.random.default_rng([len(task), *task.encode()]).normal(size=N)
    noise = noise + 0.3 * np.random.default_rng(seed).normal(size=N)
    frame = pd.DataFrame({"task": task, "sample": [f"s{i:04}" for i in range(N)]})
    frame["patient"] = [f"p{i // 2:03}" for i in range(N)]
    frame["present_ehr"], frame["present_cxr"], frame["present_note"] = True, np.arange(N) % 3 == 0, False
    frame["y"], frame["p"] = [[v] for v in y], [[v] for v in (1 / (1 + np.exp(1 - strength * y - noise)))]
    return frame


@pytest.fixture(scope="module")
def stored(tmp_path_factory) -> Stored:
    out = tmp_path_factory.mktemp("out")
    for number, ((model, tasks), strengths) in enumerate(reversed(STRENGTH.items())):
        for seed in SEEDS:
            changes = {"tasks": list(tasks), "variant": f"v{number}", "finished": f"2030-01-0{number + 1}T00:00:00"}
            frames = {task: frame_of(task, strength, seed) for task, strength in strengths.items()}
            metrics = {
                task: {"auroc": auroc(f["y"].str[0].to_numpy(), f["p"].str[0].to_numpy())} for task, f in frames.items()
            }
            write_run(out, model, seed, metrics, **changes)
            folder = out / "runs" / f"{model}-{'-'.join(tasks)}-s{seed}-v{number}-aaaa"
            pd.concat(frames.values()).to_parquet(folder / "predictions.parquet")
            record = json.loads((folder / "run.json").read_text())
            record["seconds"] = 36.0 * seed
            record["info"] |= {"parameters": 100 * len(tasks), "training_samples_per_second": 10.0 * seed}
            if model == "flexcare":
                record["info"] |= {"peak_memory": 2**30, "flops": {"ehr+cxr": 4e6, "ehr": 1e6}}
            (folder / "run.json").write_text(json.dumps(record))
    return Stored.open(out, ORDER)


def test_twins_are_found_by_how_models_are_built():
    entries = registry.models()
    found = twins(entries)
    assert found == {"flexcare": "flexcare-st"}
    assert all(not entries[twin].multitask for twin in found.values())


def test_gains_and_losses_against_the_twin_and_against_fewer_tasks(stored):
    resamples = Resamples(stored.out, dict(zip(stored.runs["run"], stored.runs["tasks"], strict=True)), 200)
    resamples.compute()
    sheet = transfer_sheet(stored, registry.models(), resamples)
    lines = sheet.lines.query("metric == 'auroc'").set_index(["tasks", "fewer_model", "fewer_tasks", "task"])
    verdict = lines["verdict"].to_dict()
    assert verdict == {
        ("ihm dec rea", "flexcare-st", "ihm", "ihm"): LOSS,
        ("ihm dec rea", "flexcare-st", "dec", "dec"): OPEN,
        ("ihm dec rea", "flexcare-st", "rea", "rea"): GAIN,
        ("ihm dec rea", "flexcare", "ihm rea", "ihm"): LOSS,
        ("ihm dec rea", "flexcare", "ihm rea", "rea"): OPEN,
        ("ihm rea", "flexcare-st", "ihm", "ihm"): OPEN,
        ("ihm rea", "flexcare-st", "rea", "rea"): GAIN,
    }
    row = lines.loc[("ihm dec rea", "flexcare-st", "ihm", "ihm")]
    sides = [
        [auroc(*(frame_of("ihm", strength, seed)[name].str[0].to_numpy() for name in ("y", "p"))) for seed in SEEDS]
        for strength in (0.0, 2.0)
    ]
    assert row["difference"] == pytest.approx(np.mean(sides[0]) - np.mean(sides[1]), abs=1e-6)
    assert row["difference_low"] < row["difference"] < row["difference_high"] < 0 and row["seeds"] == 3
    text = to_markdown(sheet, stored.group)
    assert text.startswith("**SIMULATED DATA.") and "negative transfer" in text and "FlexCare, IHM, REA" in text


def test_calibration_is_that_of_the_predictions_averaged_over_seeds(stored):
    sheet, curves = calibration_sheets(stored, resamples=50)
    line = sheet.lines.query("task == 'ihm' and model == 'flexcare-st'").iloc[0]
    frames = [frame_of("ihm", 2.0, seed) for seed in SEEDS]
    brier = np.mean([brier_score_loss(f["y"].str[0].astype(int), f["p"].str[0]) for f in frames])
    assert line["brier"] == pytest.approx(brier, abs=1e-6)
    assert line["brier_low"] < brier < line["brier_high"] and line["forecasts"] == N and line["bins"] == 10
    points = curves.lines.query("task == 'ihm' and model == 'flexcare-st' and method == 'equal mass'")
    assert points["forecasts"].tolist() == [30.0] * 10
    path = write_csv(curves, stored.group, stored.out / "tables")
    written = pd.read_csv(path)
    assert written["simulated"].all() and len(written) == len(curves.lines)


def test_patterns_and_subgroups_cover_the_samples(stored):
    patterns = pattern_sheet(stored, resamples=50).lines.query("task == 'rea' and metric == 'auroc'")
    counts = patterns[patterns["model"] == "flexcare"].set_index("pattern")["samples"]
    assert counts.to_dict() == {"all samples": 300, "ehr": 200, "ehr+cxr": 100}
    people = pd.DataFrame(
        {"sex": np.where(np.arange(N) % 4 < 2, "female", "male")}, index=[f"s{i:04}" for i in range(N)]
    )
    people["race"] = np.where(np.arange(N) < 12, "Asian", "White")
    sheet = subgroup_sheet(stored, people, resamples=50)
    lines = sheet.lines.query("task == 'rea' and metric == 'auroc' and model == 'flexcare'").set_index("subgroup")
    assert lines["samples"].to_dict() == {"female": 150, "male": 150, "Asian": 12, "White": 288}
    assert lines["gap"]["female"] == pytest.approx(-lines["gap"]["male"])
    assert (
        np.isnan(lines["value"]["Asian"]) and np.isfinite(lines["value"]["White"]) and np.isnan(lines["gap"]["White"])
    )
    assert any("race Asian (12 samples, fewer than 50)" in note for note in sheet.notes)


def test_cost_sums_single_task_models_and_leaves_open_what_is_not_known(stored):
    lines = cost_sheet(stored).lines.set_index("model")
    assert lines["parameters"].to_dict() == {"flexcare-st": 300, "flexcare": 300}
    assert lines["trained"].to_dict() == {"flexcare-st": 3, "flexcare": 1}
    assert lines["hours"].to_dict() == pytest.approx({"flexcare-st": 0.06, "flexcare": 0.02})
    assert lines["peak_memory_mib"]["flexcare"] == 1024 and np.isnan(lines["peak_memory_mib"]["flexcare-st"])
    assert (lines["flops"]["flexcare"], lines["flops_primary_modality"]["flexcare"]) == (4e6, 1e6)
    shown = cost_sheet(stored).shown.set_index("model")
    assert shown["MFLOP"].tolist() == ["-", "4.0 / 1.0"] and shown["inference samples/s"].tolist() == ["-", "-"]


def test_models_without_runs_are_refused(stored):
    with pytest.raises(UserError, match="did you mean 'flexcare'"):
        Stored.open(stored.out, ORDER, models=["flexcar"])
    assert Stored.open(stored.out, ORDER, models=["flexcare"]).order == ("flexcare",)
