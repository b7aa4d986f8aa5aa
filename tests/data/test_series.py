"""From raw files to stores, on files of a few rows, and on the public demo of MIMIC-IV where it is present."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmark.data.channels import EYE, FIRST_COLUMN, INDEX, TOTAL, VALUES
from benchmark.data.raw import RawMimic
from benchmark.data.series import check_dictionaries, read_events, write_series
from benchmark.data.stores import RaggedStore

HR, SBP = INDEX["Heart Rate"], INDEX["Systolic blood pressure"]
NO_CUTS = pd.DataFrame({"stay_id": [], "hour": []})
DEMO = Path(os.environ.get("MIMIC_IV_DEMO", Path(__file__).parents[3] / "shared" / "data" / "mimic-iv-demo"))

CHART = """subject_id,hadm_id,stay_id,caregiver_id,charttime,storetime,itemid,value,valuenum,valueuom,warning
1,2,10,,2150-01-01 12:30:00,,220045,80,80,bpm,0
1,2,10,,2150-01-01 12:00:00,2150-01-01 12:01:00,220045,70,70,bpm,0
1,2,10,,2150-01-01 14:18:00,,220045,90,90,bpm,0
1,2,10,,2150-01-01 11:59:59,,220045,99,99,bpm,0
1,2,10,,2150-01-01 15:30:01,,220045,99,99,bpm,0
1,2,10,,2150-01-01 13:00:00,,220739,None,1,,0
1,2,10,,2150-01-01 13:00:00,,223901,Obeys Commands,6,,0
1,2,10,,2150-01-01 13:00:00,,223900,Oriented,5,,0
1,2,10,,2150-01-01 13:00:00,,220050,120,120,mmHg,0
1,2,10,,2150-01-01 13:00:00,,220179,180,180,mmHg,0
1,2,10,,2150-01-01 13:00:00,,999999,1,1,,0
1,2,99,,2150-01-01 13:00:00,,220045,55,55,bpm,0
"""
LABS = """labevent_id,subject_id,hadm_id,specimen_id,itemid,charttime,storetime,value,valuenum,valueuom
1,1,,3,50931,2150-01-01 13:00:00,2150-01-01 14:00:00,___,150,mg/dL
"""


@pytest.fixture
def raw(tmp_path) -> RawMimic:
    root = tmp_path / "mimic-iv"
    for name, text in {
        "icu/chartevents": CHART,
        "hosp/labevents": LABS,
        "icu/icustays": "subject_id\n",
        "icu/d_items": "itemid,label\n220045,Heart Rate\n220050,Something else\n",
        "hosp/d_labitems": 'itemid,label,fluid\n52027,"Glucose, Whole Blood",Blood\n51478,Glucose,Urine\n',
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / f"{name}.csv").write_text(text)
    return RawMimic(root)


@pytest.fixture
def stays() -> pd.DataFrame:
    times = pd.to_datetime(["2150-01-01 12:00:00", "2151-01-01 12:00:00"])
    lengths = pd.to_timedelta([3.5, 2], unit="h")
    columns = {
        "stay_id": [10, 20],
        "subject_id": [1, 7],
        "hadm_id": [2, 8],
        "intime": times,
        "outtime": times + lengths,
    }
    return pd.DataFrame(columns | {"los_hours": [3.5, 2.0]})


def test_events_are_cleaned_sorted_and_counted(raw, stays):
    events = read_events(raw, stays)
    assert events.dtypes.astype(str).to_dict() == {
        "stay_id": "int64",
        "hour": "float64",
        "channel": "int16",
        "value": "float64",
    }
    assert set(events["stay_id"]) == {10}
    order = events.sort_values(["stay_id", "hour", "channel"], kind="stable").index
    assert (order == events.index).all()
    heart = events[events["channel"] == HR]
    assert heart["hour"].tolist() == [0.0, 0.5, 2.3] and heart["value"].tolist() == [70, 80, 90]
    assert events.loc[events["channel"] == SBP, "value"].tolist() == [120]
    assert events.loc[events["channel"] == INDEX["Glucose"], "value"].tolist() == [150]
    report = events.attrs["report"]
    assert report["rows"]["Heart Rate"] == {"kept": 3, "outside the stay": 2}
    assert report["rows"]["Systolic blood pressure"] == {
        "kept": 1,
        "superseded by another value of the same minute": 1,
    }
    assert report["derived_coma_totals"] == 1 and INDEX[TOTAL] in set(events["channel"])
    json.dumps(report)


def test_dictionaries_are_compared(raw):
    found = check_dictionaries(raw)
    assert found["renamed"] == ["220050 Arterial Blood Pressure systolic: Something else"]
    assert found["unlisted"] == ["52027 Glucose, Whole Blood"] and len(found["missing"]) == 42


def test_stores(raw, stays, tmp_path):
    events = read_events(raw, stays)
    cuts = pd.DataFrame({"stay_id": [10, 10, 20, 10], "hour": [2.3, 2.3001, 1.5, 2.0]})
    index = write_series(events, stays, {10}, cuts, tmp_path / "out")
    store = RaggedStore.open(tmp_path / "out" / "series")
    assert index.stay_row == {10: 0, 20: 1} and index.rows == {10: 4, 20: 2} and store.lengths.tolist() == [4, 2]
    assert store.values.dtype == np.float16 and store.width == 76
    scale = index.standardiser
    heart = (np.array([80, 80, 90, 90]) - 85) / 5  # 80 and 90 are the observed hours
    np.testing.assert_allclose(store[0][:, FIRST_COLUMN[HR]], heart, atol=1e-3)
    assert store[0][:, VALUES + HR].tolist() == [1, 0, 1, 0]
    assert store[0][:, FIRST_COLUMN[INDEX[EYE]] + 4].tolist() == [1, 1, 1, 1]  # "None" from 13:00 on
    assert scale.count[[0, 3]].tolist() == [0, 2]
    assert (store[1][:, VALUES:] == 0).all()

    tails = np.load(tmp_path / "out" / "series" / "tails.npy")
    assert tails[:, VALUES + HR].tolist() == [0, 1, 0, 0]  # strictly before the cut
    assert tails[:, FIRST_COLUMN[HR]].tolist() == pytest.approx([-1, 1, 0.2, -1], abs=1e-3)
    np.testing.assert_array_equal(tails[3], store[0][1])
    assert index.observed["Heart Rate"] == pytest.approx(2 / 6)


def test_training_stays_alone_decide_the_scale(raw, stays, tmp_path):
    events = read_events(raw, stays)
    write_series(events, stays, {20}, NO_CUTS, tmp_path / "a")
    heart = json.loads((tmp_path / "a" / "standardiser.json").read_text())["channels"][3]
    assert (heart["channel"], heart["mean"], heart["std"], heart["fitted"]) == ("Heart Rate", 86.0, 20.0, False)


def test_second_run_is_identical(raw, stays, tmp_path):
    for name in ("a", "b"):
        write_series(read_events(raw, stays), stays, {10}, NO_CUTS, tmp_path / name)
    for file in ("series/values.npy", "series/offsets.npy", "series/tails.npy", "standardiser.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_cut_of_an_unknown_stay_is_refused(raw, stays, tmp_path):
    cuts = pd.DataFrame({"stay_id": [77], "hour": [1.0]})
    with pytest.raises(ValueError, match="stay 77"):
        write_series(read_events(raw, stays), stays, {10}, cuts, tmp_path / "out")
    assert not (tmp_path / "out" / "series").exists()


@pytest.mark.skipif(not DEMO.is_dir(), reason="the public MIMIC-IV demo is not here")
def test_demo_of_mimic_iv(tmp_path):
    raw = RawMimic(DEMO)
    stays = raw.scan("icu/icustays", ["stay_id", "subject_id", "intime", "outtime", "los"]).collect().to_pandas()
    stays["los_hours"] = stays["los"] * 24
    events = read_events(raw, stays)
    report = events.attrs["report"]
    assert report["dictionary"]["missing"] == report["dictionary"]["renamed"] == []
    assert not any("unknown text" in counts for counts in report["rows"].values())
    index = write_series(events, stays, set(stays["stay_id"]), NO_CUTS, tmp_path)
    # Published shares of observed hours of the older MIMIC-III are 0.9, 0.9, 0.9, 0.3, 0.1, 0.06 and 0.3.
    low = {"Heart Rate": 0.9, "Respiratory rate": 0.9, "Systolic blood pressure": 0.85, "Temperature": 0.2, "pH": 0.03}
    for name, share in (low | {"Fraction inspired oxygen": 0.05, EYE: 0.2, TOTAL: 0.2}).items():
        assert share < index.observed[name] < share + 0.15, name
    temperature = index.standardiser
    assert 36.5 < temperature.mean[9] < 37.5 and 0.3 < temperature.std[9] < 1.2
