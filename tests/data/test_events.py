"""Events out of raw tables: what is taken, and that neither buckets, batches, order of rows nor compression matter."""

from __future__ import annotations

import csv
import gzip
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pytest

from benchmark.data import events as module
from benchmark.data.channels import INDEX, TOTAL
from benchmark.data.events import Events, extract_events
from benchmark.data.raw import RawMimic
from benchmark.data.rules import Rules
from benchmark.errors import UserError

DEMO = Path(os.environ.get("MIMIC_IV_DEMO", Path(__file__).parents[3] / "shared" / "data" / "mimic-iv-demo"))
HR, SBP, SPO2 = (INDEX[name] for name in ("Heart Rate", "Systolic blood pressure", "Oxygen saturation"))

CHART = """subject_id,hadm_id,stay_id,caregiver_id,charttime,storetime,itemid,value,valuenum,valueuom,warning
1,2,10,,2150-01-01 12:30:00,,220045,80,80,bpm,0
1,2,10,,2150-01-01 12:00:00,2150-01-01 12:01:00,220045,70,70,bpm,0
1,2,10,,2150-01-01 14:18:00,,220045,90,90,bpm,0
1,2,10,,2150-01-01 11:59:59,,220045,99,99,bpm,0
1,2,10,,2150-01-01 15:30:01,,220045,99,99,bpm,0
1,2,10,,2150-01-01 13:00:00,,220739,None,1,,0
1,2,10,,2150-01-01 13:00:00,,223901,Obeys Commands,6,,0
1,2,10,,2150-01-01 13:00:00,,223900,Oriented,5,,0
1,2,10,,2150-01-01 13:00:00,,999999,"said ""220045,80"",
220045,80",,,0
1,2,10,,2150-01-01 13:00:00,,220050,120,120,mmHg,0
1,2,10,,2150-01-01 13:00:00,,220179,180,180,mmHg,0
1,2,10,,2150-01-01 13:00:00,,999999,1,1,,0
1,2,99,,2150-01-01 13:00:00,,220045,55,55,bpm,0
"""
LABS = """labevent_id,subject_id,hadm_id,specimen_id,itemid,charttime,storetime,value,valuenum,valueuom
1,1,,3,50931,2150-01-01 13:00:00,2150-01-01 14:00:00,___,150,mg/dL
2,1,,5,50817,2150-01-01 13:10:00,2150-01-01 14:00:00,97,97,%
3,1,,6,50817,2150-01-01 13:20:00,2150-01-01 14:00:00,70,70,%
4,1,,6,52033,2150-01-01 13:20:00,2150-01-01 14:00:00,VEN.,,
5,7,,9,50931,2151-01-01 12:30:00,2150-01-01 14:00:00,99,99,mg/dL
6,8,,9,50931,2151-01-01 12:30:00,2150-01-01 14:00:00,98,98,mg/dL
7,1,,5,52033,2150-01-01 13:10:00,2150-01-01 14:00:00,ART.,,
"""


def folder_of(root: Path, chart: str = CHART, labs: str = LABS) -> RawMimic:
    stays = "subject_id,hadm_id,stay_id,intime\n1,2,10,2150-01-01 12:00:00\n"
    for name, text in {"icu/chartevents": chart, "hosp/labevents": labs, "icu/icustays": stays}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / f"{name}.csv").write_text(text)
    return RawMimic(root)


@pytest.fixture
def raw(tmp_path) -> RawMimic:
    return folder_of(tmp_path / "mimic-iv")


@pytest.fixture
def stays() -> pd.DataFrame:
    begin = pd.to_datetime(["2150-01-01 12:00:00", "2151-01-01 12:00:00"])
    times = {"intime": begin, "outtime": begin + pd.to_timedelta([3.5, 2], unit="h")}
    return pd.DataFrame({"stay_id": [10, 20], "subject_id": [1, 7], "hadm_id": [2, 8], **times})


def everything(events: Events) -> pd.DataFrame:
    frames = list(events.buckets())
    return pd.concat(frames, ignore_index=True).sort_values(["stay_id", "hour", "channel"], ignore_index=True)


def test_events_are_cleaned_sorted_and_counted(raw, stays, tmp_path):
    events = extract_events(raw, stays, tmp_path / "events")
    (frame,) = events.buckets()
    types = {"stay_id": "int64", "hour": "float64", "channel": "int16", "value": "float64"}
    assert frame.dtypes.astype(str).to_dict() == types
    pd.testing.assert_frame_equal(frame, everything(events))
    heart = frame[frame.channel == HR]
    assert heart.hour.tolist() == [0.0, 0.5, 2.3] and heart.value.tolist() == [70, 80, 90]
    assert frame.loc[frame.channel == SBP, "value"].tolist() == [120]
    glucose = frame[frame.channel == INDEX["Glucose"]]
    assert glucose.stay_id.tolist() == [10, 20] and glucose.value.tolist() == [150, 99]
    # The kind of a specimen may stand long after its values.
    assert frame.loc[frame.channel == SPO2, "value"].tolist() == [97]
    report = events.report
    assert report["rows"]["Heart Rate"] == {"kept": 3, "outside the stay": 2}
    assert report["rows"]["Oxygen saturation"] == {"kept": 1, "not an arterial specimen": 1}
    assert report["rows"]["Systolic blood pressure"]["kept"] == 1 and report["events"] == len(frame)
    assert report["derived_coma_totals"] == 1 and INDEX[TOTAL] in set(frame.channel)
    assert report["read"] == {"icu/chartevents": 13, "hosp/labevents": 7}
    assert events.first_hours().to_dict() == {10: 0.0, 20: 0.5} and events.early_hours() == {}
    assert sorted(path.name for path in (tmp_path / "events").iterdir()) == [
        "early_hours.parquet",
        "events-00000.parquet",
        "events.json",
        "first_hours.parquet",
    ]


def made(rng: np.random.Generator, subjects: int, rows: int) -> tuple[str, str, pd.DataFrame]:
    """Tables of many patients with two stays each, rows in no order, times and items that often meet."""
    begin = pd.Timestamp("2150-01-01") + pd.to_timedelta(rng.integers(0, 20, 2 * subjects), unit="h")
    subject = np.repeat(np.arange(subjects), 2)
    stay = 100 + rng.permutation(2 * subjects)
    times = {"intime": begin, "outtime": begin + pd.to_timedelta(rng.integers(1, 30, 2 * subjects), unit="h")}
    stays = pd.DataFrame({"subject_id": subject, "hadm_id": stay + 1000, "stay_id": stay, **times})

    def table(items: list[int], columns: dict[str, np.ndarray]) -> str:
        minute = pd.to_timedelta(rng.integers(0, 48 * 4, rows) * 15, unit="min")
        number = rng.integers(1, 120, rows)
        stored = np.where(rng.random(rows) < 0.2, "", "2150-02-01 00:00:00")
        values = {"charttime": pd.Timestamp("2150-01-01") + minute, "storetime": stored}
        values |= {"itemid": rng.choice(items, rows), "value": number, "valuenum": number, "valueuom": ""}
        frame = pd.DataFrame(columns | values)
        frame["value"] = frame["value"].astype(str).mask(frame.itemid == 52033, np.where(number % 2, "ART.", "VEN."))
        return frame.to_csv(index=False)

    at = rng.integers(0, 2 * subjects, rows)
    chart = table(
        [220045, 220050, 220179, 223835, 1],
        {"subject_id": subject[at], "hadm_id": stay[at] + 1000, "stay_id": stay[at]},
    )
    owner = rng.integers(0, subjects, rows)
    specimen = owner // 4 * 5 + rng.integers(0, 5, rows)  # a number may name specimens of several patients
    hadm = np.where(rng.random(rows) < 0.2, "", (stay[2 * owner] + 1000).astype(str))
    labs = table([50931, 50817, 52033, 2], {"subject_id": owner, "hadm_id": hadm, "specimen_id": specimen})
    return chart, labs, stays


@pytest.mark.parametrize("rules", [Rules(), Rules.of_profile("ref")], ids=["fix", "ref"])
def test_buckets_and_batches_change_nothing(tmp_path, monkeypatch, rules):
    chart, labs, stays = made(np.random.default_rng(3), subjects=20, rows=4000)
    raw = folder_of(tmp_path / "mimic-iv", chart, labs)
    whole = extract_events(raw, stays, tmp_path / "whole", rules)
    assert len(whole.files) == 1 and len(everything(whole)) > 1000
    for name, number in {"STAYS_A_BUCKET": 6, "BATCH_ROWS": 50, "HELD_ROWS": 300, "ROWS_A_PART": 500}.items():
        monkeypatch.setattr(module, name, number)
    parts = extract_events(raw, stays, tmp_path / "parts", rules)
    assert 7 < len(parts.files) < 20, "seven buckets of three patients, who have some 300 rows each"
    pd.testing.assert_frame_equal(everything(parts), everything(whole))
    assert parts.report == whole.report and parts.early_hours() == whole.early_hours()
    pd.testing.assert_series_equal(parts.first_hours().sort_index(), whole.first_hours())
    patient = stays.set_index("stay_id").subject_id
    homes = [set(frame.stay_id.map(patient)) for frame in parts.buckets()]
    assert sum(map(len, homes)) == len(set.union(*homes)), "a patient in two buckets"


FIRST_BATCHES = """
import sys
from pathlib import Path
import pandas as pd
from benchmark.data import events
from benchmark.data.raw import RawMimic
from benchmark.data.rules import Rules

def put(spill, batch):
    if spill.name not in seen:
        seen[spill.name] = raw.rows[{"chart": events.CHART, "labs": events.LABS}[spill.name]]

events._Spill.__call__, events.BATCH_ROWS = put, 1000
stays = pd.read_parquet(sys.argv[2])
raw, seen = RawMimic(Path(sys.argv[1])), {}
events.extract_events(raw, stays, Path(sys.argv[3]), Rules.of_profile("ref"))
print(seen["chart"], seen["labs"], *raw.rows.values())
"""


def test_rows_are_put_aside_while_the_table_is_still_read(tmp_path):
    """If a step of the query held rows until all are read, memory would grow with the table."""
    total, patients = 1_000_000, 2000
    row = pl.int_range(total, eager=True)
    times = {"charttime": "2150-01-01 13:00:00", "storetime": "2150-01-01 13:30:00"}
    texts = {"value": "150", "valuenum": "150", "valueuom": "mg/dL"}
    ids = {"subject_id": row % patients, "hadm_id": row % patients, "specimen_id": row, "stay_id": row % patients}
    raw = folder_of(tmp_path / "mimic-iv")
    for table, item in (("icu/chartevents", 220045), ("hosp/labevents", 50931)):
        pl.DataFrame(ids | {"itemid": item} | times | texts).write_csv(raw.path(table))
    begin, number = pd.Timestamp("2150-01-01 12:00:00"), np.arange(patients // 2)
    stays = {"subject_id": number, "hadm_id": number, "stay_id": number}
    pd.DataFrame(stays | {"intime": begin, "outtime": begin}).to_parquet(tmp_path / "stays.parquet")
    places = [tmp_path / name for name in ("mimic-iv", "stays.parquet", "events")]
    command = [sys.executable, "-c", FIRST_BATCHES, *map(str, places)]
    # Each thread reads ahead; two of them at most half of this table.
    run = subprocess.run(command, env=os.environ | {"POLARS_MAX_THREADS": "2"}, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    chart, labs, *rows = map(int, run.stdout.split())
    assert rows == [total, total] and max(chart, labs) < 0.9 * total


def test_order_of_rows_and_compression_change_nothing(raw, stays, tmp_path):
    expected = everything(extract_events(raw, stays, tmp_path / "expected"))
    header, *labs = LABS.splitlines(keepends=True)
    turned = folder_of(tmp_path / "turned", labs=header + "".join(reversed(labs)))
    pd.testing.assert_frame_equal(everything(extract_events(turned, stays, tmp_path / "a")), expected)
    packed = folder_of(tmp_path / "packed")
    file = tmp_path / "packed" / "icu" / "chartevents.csv"
    half = CHART.index("1,2,10,,2150-01-01 11")
    members = gzip.compress(CHART[:half].encode()) + gzip.compress(CHART[half:].encode())
    file.with_name("chartevents.csv.gz").write_bytes(members)
    file.unlink()
    pd.testing.assert_frame_equal(everything(extract_events(packed, stays, tmp_path / "b")), expected)


def test_complete_events_are_taken_up_and_others_are_not(raw, stays, tmp_path, monkeypatch):
    folder, calls, real = tmp_path / "events", [], module._spill_chart
    monkeypatch.setattr(module, "_spill_chart", lambda *arguments: (calls.append(1), real(*arguments)))
    expected = everything(extract_events(raw, stays, folder))
    pd.testing.assert_frame_equal(everything(extract_events(raw, stays, folder)), expected)
    assert len(calls) == 1
    strict = Rules(outliers="strict")
    for own, rules in ((stays[:1], Rules()), (stays, strict), (stays.assign(outtime=stays.intime), strict)):
        before = len(calls)
        extract_events(raw, own, folder, rules)
        assert len(calls) == before + 1


def test_a_killed_call_leaves_nothing_that_counts(raw, stays, tmp_path, monkeypatch):
    folder = tmp_path / "events"
    expected = everything(extract_events(raw, stays, folder))
    with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
        patch.setattr(module, "_events_of", lambda *_: 1 / 0)
        extract_events(raw, stays, folder, Rules(outliers="strict"))
    with pytest.raises(UserError, match="no complete events"):
        Events.open(folder)
    (folder / "spill" / "00000-chart-00007.arrow").write_bytes(b"half")
    (folder / "not ours").write_text("")
    pd.testing.assert_frame_equal(everything(extract_events(raw, stays, folder)), expected)
    assert (folder / "not ours").exists()


def test_broken_tables_leave_nothing_that_counts(raw, stays, tmp_path):
    file = tmp_path / "mimic-iv" / "icu" / "chartevents.csv"
    file.with_name("chartevents.csv.gz").write_bytes(gzip.compress(CHART.encode())[:-20])
    file.unlink()
    with pytest.raises(UserError, match="chartevents"):
        extract_events(raw, stays, tmp_path / "events")
    assert not (tmp_path / "events" / "events.json").exists()


def test_without_laboratory_and_without_any_row(raw, stays, tmp_path):
    (tmp_path / "mimic-iv" / "hosp" / "labevents.csv").unlink()
    first = CHART.index("\n") + 1
    (tmp_path / "mimic-iv" / "icu" / "chartevents.csv").write_text(
        CHART[:first] + CHART[first:].replace("10,,", "11,,")
    )
    events = extract_events(RawMimic(tmp_path / "mimic-iv"), stays, tmp_path / "events")
    assert everything(events).empty and events.first_hours().empty and events.report["events"] == 0


@pytest.mark.skipif(not DEMO.is_dir(), reason="the public MIMIC-IV demo is not here")
def test_heart_rates_of_the_demo_by_another_route(tmp_path):
    """Counted with the csv module from the files themselves."""
    raw = RawMimic(DEMO)
    stays = raw.scan("icu/icustays", ["subject_id", "hadm_id", "stay_id", "intime", "outtime"]).collect().to_pandas()
    events = everything(extract_events(raw, stays, tmp_path / "events"))
    span = {str(row.stay_id): (row.intime, row.outtime) for row in stays.itertuples()}
    seen, total = set(), 0
    with gzip.open(DEMO / "icu" / "chartevents.csv.gz", "rt", newline="") as stream:
        for row in csv.DictReader(stream):
            total += 1
            if row["itemid"] == "220045" and row["valuenum"] and 0 <= float(row["valuenum"]) <= 390:
                begin, end = span[row["stay_id"]]
                if begin <= (time := pd.Timestamp(row["charttime"])) <= end:
                    seen.add((int(row["stay_id"]), round((time - begin).total_seconds())))
    heart = events[events.channel == HR]
    found = set(zip(heart.stay_id, (heart.hour * 3600).round().astype(int), strict=True))
    assert found == seen and len(heart) == len(seen) > 10_000
    assert Events.open(tmp_path / "events").report["read"]["icu/chartevents"] == total
