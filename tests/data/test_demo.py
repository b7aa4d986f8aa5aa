"""The public MIMIC-IV demo, end to end, where it is at hand."""

from __future__ import annotations

import hashlib
import json
import math
import os
from pathlib import Path

import numpy as np
import pandas as pd
import plain_counts
import pytest
from plain_counts import Counts

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


@pytest.fixture(scope="module")
def plain() -> Counts:
    """The same files, worked out without the project's code."""
    return plain_counts.count(DEMO)


@pytest.fixture(scope="module")
def report(folder) -> dict:
    return json.loads((folder / "cohort.json").read_text())


def samples(folder: Path, task: str) -> pd.DataFrame:
    links = pd.read_parquet(folder / "private" / "links.parquet")[["sample", "stay_id", "hour"]]
    return pd.read_parquet(folder / "samples" / f"{task}.parquet").merge(links, on="sample").set_index("stay_id")


def test_cohort_and_deaths_agree_with_a_plain_count(plain, report):
    assert [step["kept"] for step in report["selection"]] == plain.steps
    stays = plain.stays.values()
    assert report["stays"]["cohort"] == len(plain.stays)
    assert report["stays"]["patients"] == len({stay.subject for stay in stays})
    assert report["stays"]["died_in_hospital"] == sum(stay.died for stay in stays)
    assert report["stays"]["died_in_icu"] == sum(stay.died_in_unit for stay in stays)
    assert report["stays"]["readmitted"] == sum(stay.back for stay in stays)
    assert report["stays"]["without_event"] == sum(stay.first is None for stay in stays)


def test_labels_agree_with_a_plain_count(folder, plain):
    stays = {number: stay for number, stay in plain.stays.items() if stay.first is not None}
    ihm = {n: float(s.died) for n, s in stays.items() if s.hours >= 48 - 1e-6 and s.first <= 48}
    assert samples(folder, "ihm").y0.to_dict() == ihm
    assert samples(folder, "rea").y0.to_dict() == {n: s.readmission for n, s in stays.items() if not s.died_in_unit}

    phe = samples(folder, "phe")
    assert set(phe.index) == {n for n, s in stays.items() if s.hadm in plain.phenotypes}
    for number in phe.index:
        found = {index for index in range(25) if phe.at[number, f"y{index}"] == 1}
        assert found == plain.phenotypes[stays[number].hadm], number


def test_drawn_hours_and_their_labels_agree_with_a_plain_count(folder, plain):
    """Which hour is drawn is taken from the data set; that it may be drawn and what follows from it is not."""
    stays = {number: stay for number, stay in plain.stays.items() if stay.first is not None}
    los, dec = samples(folder, "los"), samples(folder, "dec")
    dead = {n: math.inf if s.death is None else s.since(s.death) for n, s in stays.items()}
    assert set(los.index) == {n for n, s in stays.items() if s.has_hour(s.hours)}
    assert set(dec.index) == {n for n, s in stays.items() if s.has_hour(min(s.hours, dead[n]))}
    for number, hour in los.hour.items():
        stay, days = stays[number], max(stays[number].hours - hour, 0) / 24
        assert max(5, stay.first) <= hour <= stay.hours + 1e-6 and hour == int(hour)
        assert los.y0[number] == (math.floor(days) if days < 8 else 8 if days < 14 else 9)
    for number, hour in dec.hour.items():
        assert max(5, stays[number].first) <= hour <= min(stays[number].hours, dead[number]) + 1e-6
        assert dec.y0[number] == (dead[number] - hour < 24)


def test_values_and_observed_hours_agree_with_a_plain_count(folder, plain, report):
    kept = {channel: counts.get("kept", 0) for channel, counts in report["signals"]["rows"].items()}
    assert {channel: number for channel, number in kept.items() if number} == {**plain.kept}
    names = list(kept)
    store, numbers = PreparedData.open(folder).series, pd.read_parquet(folder / "private" / "stays.parquet").stay_id
    hours, seen = 0, np.zeros(17)
    for row, number in enumerate(numbers):
        stay = plain.stays[number]
        expected = np.zeros((stay.rows, 17))
        for channel, values in stay.events.items():
            expected[[stay.row_of(time) for time in values], names.index(channel)] = 1
        np.testing.assert_array_equal(store[row][:, 59:], expected, err_msg=str(number))
        hours, seen = hours + stay.rows, seen + expected.sum(0)
    shares = np.array([report["observed_hours"][name] for name in names])
    np.testing.assert_allclose(shares, seen / hours, atol=6e-5)


def test_heart_rates_agree_with_a_plain_count(folder, plain):
    """The last heart rate of every hour, scaled with mean and spread of those of the training stays."""
    data = PreparedData.open(folder)
    last, training = {}, []
    for stay in plain.stays.values():
        own = {stay.row_of(time): value for time, value in sorted(stay.events["Heart Rate"].items())}
        last[stay.number] = own
        if int.from_bytes(hashlib.sha256(f"42:{stay.subject}".encode()).digest(), "big") % 10 < 7:
            training += own.values()
    mean, spread = np.mean(training), np.std(training)
    numbers = pd.read_parquet(folder / "private" / "stays.parquet").stay_id
    for row, number in enumerate(numbers):
        values = data.series[row][:, 50]
        expected = {hour: (rate - mean) / spread for hour, rate in last[number].items()}
        np.testing.assert_allclose(values[list(expected)], list(expected.values()), rtol=2e-3, atol=2e-3)
