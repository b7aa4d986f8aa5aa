"""The public MIMIC-IV demo, end to end, where it is at hand."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pandas as pd
import pytest

from benchmark.data.dataset import PreparedData
from benchmark.data.prepare import prepare

ROOT = Path(__file__).resolve().parents[2]
DEMO = Path(os.environ.get("MIMIC_IV_DEMO", ROOT.parent / "shared" / "data" / "mimic-iv-demo"))

pytestmark = pytest.mark.skipif(not DEMO.is_dir(), reason=f"no MIMIC-IV demo in {DEMO}; set MIMIC_IV_DEMO")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("demo") / "data"
    prepare(DEMO, out)
    return out


def test_counts_are_those_of_the_rules(folder):
    report = json.loads((folder / "cohort.json").read_text())
    assert [(step["kept"], step["dropped"]) for step in report["selection"]] == [
        (140, 0),
        (129, 11),
        (129, 0),
        (112, 17),
        (112, 0),
        (112, 0),
        (112, 0),
    ]
    counts = {task: entry["samples"] for task, entry in report["tasks"].items()}
    assert counts == {"ihm": 54, "los": 111, "dec": 111, "phe": 112, "rea": 105}
    assert counts["phe"] - counts["rea"] == report["stays"]["died_in_icu"] == 7
    assert set(report["impossible"]) == {"dia", "drg"}
    assert report["observed_hours"]["Heart Rate"] > 0.85


def test_data_set_opens_and_every_series_is_long_enough(folder):
    data = PreparedData.open(folder)
    for task in data.manifest["tasks"]:
        for samples in data.task(task).partitions.values():
            assert (samples.hours >= 1).all() and (samples.hours <= data.series.lengths[samples.series]).all()
    assert data.series.width == 76
    assert abs(pd.DataFrame(data.series.values[:, 50].astype(float)).mean().item()) < 0.3
