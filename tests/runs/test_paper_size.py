"""The plan of the paper's work, without its data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmark.config import resolve
from benchmark.data.dataset import PreparedData
from benchmark.errors import UserError
from benchmark.runs.calibrate import Extent
from benchmark.runs.paper_size import ENCODER, paper_plan, write_samples
from benchmark.throughput.mixes import extension_mix

SMALL = """
base: paper
name: small
dimensions: {width: 8, layers: 1, hours: 24, note_tokens: 16, film: 32, patch: 16}
training: {batch_size: 4}
seeds: [1, 2]
"""


def configured(tmp_path: Path, **options):
    protocol = tmp_path / "small.yaml"
    protocol.write_text(SMALL)
    given = {"paper_size": True, "dry_run": True, "protocol": str(protocol), "out": str(tmp_path / "out")}
    return resolve({**given, "device": "cpu", **options})


def test_the_plan_has_the_runs_behind_tables_3_to_5_once_each(tmp_path: Path) -> None:
    plan = paper_plan(configured(tmp_path))
    several: dict[str, int] = {}
    for job in plan.jobs:
        several[job.model] = several.get(job.model, 0) + 1
    # Two seeds: six single-task models on six tasks, five of them on DRG with two shares of its labels.
    singles = dict.fromkeys(["mt", "mmf", "medfuse", "m3care", "multimodn"], 2 * (6 + 2))
    ablations = dict.fromkeys([f"flexcare-{letter}" for letter in "abcd"], 2)
    both = {"flexcare": 2 * (1 + 2), "flexcare-st": 2 * 6, "flexcare-pretrained": 2 * 2}
    assert several == singles | ablations | both
    assert {job.label_fraction for job in plan.jobs if job.tasks == ("drg",)} == {0.01, 1.0}
    assert plan.data.samples["ihm"] == {"train": 18423, "val": 2632, "test": 5264}, "of 26,318"
    part = paper_plan(configured(tmp_path, models="mt,flexcare", tasks="ihm,drg", seeds="5"))
    assert {(job.model, job.tasks) for job in part.jobs} == {
        (model, (task,)) for model in ("mt", "flexcare") for task in ("ihm", "drg")
    }
    with pytest.raises(UserError, match=r"boosted-trees on .* is not in the paper's Tables 3, 4 and 5"):
        paper_plan(configured(tmp_path, models="boosted-trees"))


def test_made_up_samples_own_what_table_2_says(tmp_path: Path) -> None:
    jobs = paper_plan(configured(tmp_path, models="mt", tasks="dia,drg", seeds="1")).jobs
    write_samples(tmp_path / "data", jobs, Extent(steps=100, samples=50))
    data = PreparedData.open(tmp_path / "data")
    dia, drg = data.task("dia"), data.task("drg")
    training = dia.partitions["train"]
    assert len(training) == 400 and len(drg.partitions["test"]) == 50
    assert (training.film >= 0).all()
    assert (training.series < 0).mean() == pytest.approx(0.7634, abs=0.1)
    assert (training.note < 0).mean() == pytest.approx(0.3256, abs=0.1)
    owned = training.series >= 0
    assert np.array_equal(data.series.lengths[training.series[owned]], training.hours[owned])
    assert (drg.partitions["train"].note >= 0).all() and len(drg.classes) == len(extension_mix().task.classes)
    texts = np.concatenate([part.note[part.note >= 0] for one in (dia, drg) for part in one.partitions.values()])
    assert sorted(texts) == list(range(len(data.notes(ENCODER)))), "no two samples share a text"


def test_options_of_a_dry_run_go_with_it_alone(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"(?s)devices: goes with dry_run.*paper_size: goes with dry_run"):
        configured(tmp_path, dry_run=False, devices="1,4")
    with pytest.raises(UserError, match="devices"):
        configured(tmp_path, devices="0,4")
    with pytest.raises(UserError, match="paper_size: stands in place of a data set"):
        configured(tmp_path, data="somewhere")
