"""Raw files as other programs and other releases write them: the same data."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from benchmark.data.prepare import prepare
from benchmark.data.raw import RawMimic, batches, collect
from benchmark.data.release import release

CHART = "mimic-iv/icu/chartevents"
STAYS = "mimic-iv/icu/icustays"
PATIENTS = "mimic-iv/hosp/patients"
DIAGNOSES = "mimic-iv/hosp/diagnoses_icd"
LABS = "mimic-iv/hosp/labevents"
NOTES = "mimic-note/note/discharge"
METADATA = "mimic-cxr/mimic-cxr-2.0.0-metadata"


def paths(root: Path) -> dict[str, Path]:
    return {name: root / name.replace("_", "-") for name in ("mimic_iv", "mimic_cxr", "mimic_note")}


HARMLESS: dict[str, Callable[[bytes], bytes]] = {
    "byte order mark": lambda data: b"\xef\xbb\xbf" + data,
    "CRLF": lambda data: data.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n"),
    "capitals": lambda data: data.split(b"\n", 1)[0].upper() + b"\n" + data.split(b"\n", 1)[1],
    "no line end": lambda data: data.rstrip(b"\r\n"),
    "quoted names": lambda data: (
        b",".join(b'"%s"' % name for name in data.split(b"\n", 1)[0].strip().split(b","))
        + b"\n"
        + data.split(b"\n", 1)[1]
    ),
}


@pytest.mark.parametrize("table", [CHART, STAYS, METADATA])
@pytest.mark.parametrize("habit", HARMLESS)
def test_habits_of_other_programs_change_nothing(sound, root, habit, table):
    file = root / f"{table}.csv"
    file.write_bytes(HARMLESS[habit](file.read_bytes()))
    name = {CHART: "icu/chartevents", STAYS: "icu/icustays", METADATA: "cxr/metadata"}[table]
    columns = {CHART: ["stay_id", "itemid", "charttime", "valuenum", "warning"],
               STAYS: ["stay_id", "intime", "last_careunit", "los"],
               METADATA: ["dicom_id", "ViewPosition", "StudyTime"]}[table]  # fmt: skip
    read = [collect(RawMimic(**paths(place)).scan(name, columns), name) for place in (sound, root)]
    assert read[0].equals(read[1]) and read[0].height


def test_rows_are_counted_while_they_stream(root):
    raw = RawMimic(**paths(root))
    frame = raw.scan("icu/chartevents", ["stay_id", "valuenum"]).filter(pl.col("stay_id") == 30_000_001)
    assert sum(batch.height for batch in batches(frame, "icu/chartevents", 5)) == 12
    assert raw.rows["icu/chartevents"] == 72


LATER = {
    "hosp/admissions": "admit_provider_id",
    "hosp/labevents": "order_provider_id",
    "icu/chartevents": "caregiver_id",
}


@pytest.mark.parametrize(
    ("later", "years", "expected"),
    [
        (False, "2008 - 2010", "2.0 or 2.1, not complete"),
        (True, "2017 - 2019", "2.2 or later, not complete"),
        (True, "2020 - 2022", "3.0 or later, not complete"),
    ],
)
def test_releases_differ_by_columns_and_give_the_same_data(sound, root, tmp_path, later, years, expected):
    for table, name in LATER.items():
        file = root / "mimic-iv" / f"{table}.csv"
        frame = pl.read_csv(file, infer_schema=False).drop(name, strict=False)
        if later:
            place = frame.columns.index("charttime" if "charttime" in frame.columns else "deathtime")
            frame = frame.insert_column(place, pl.lit("P1").alias(name))
        frame.write_csv(file)
    file = root / f"{PATIENTS}.csv"
    pl.read_csv(file, infer_schema=False).with_columns(anchor_year_group=pl.lit(years)).write_csv(file)
    manifest = prepare(**paths(root), out=tmp_path / "out", name="same")
    assert manifest["source"]["release"] == expected
    assert manifest["fingerprint"] == prepare(**paths(sound), out=tmp_path / "sound", name="same")["fingerprint"]
    assert manifest["source"]["files"]["icu/chartevents"]["rows"] == 72


def test_known_releases_by_their_rows(root):
    raw = RawMimic(**paths(root))
    for counts, name in (((315_460, 454_324, 76_943), "2.0"), ((299_777, 431_088, 73_141), "2.1")):
        raw.rows = dict(zip(("hosp/patients", "hosp/admissions", "icu/icustays"), counts, strict=True))
        assert release(raw) == name


def test_plain_file_is_taken_where_both_are_there(root, tmp_path):
    (root / f"{STAYS}.csv.gz").write_bytes(b"not read")
    source = prepare(**paths(root), out=tmp_path / "out")["source"]
    assert "the plain file was read: icu/icustays." in (tmp_path / "out" / "cohort.md").read_text()
    assert source["plain_and_gzipped"] == ["icu/icustays"] and source["files"]["icu/icustays"]["file"] == "icustays.csv"


def test_optional_tables_without_rows_count_as_absent(root, tmp_path):
    for table in (LABS, DIAGNOSES, NOTES, METADATA):
        file = root / f"{table}.csv"
        file.write_text(file.read_text().splitlines()[0] + "\n")
    manifest = prepare(**paths(root), out=tmp_path / "out")
    assert manifest["impossible"] == {
        "phe": "hosp/diagnoses_icd has a header but no rows",
        "dia": "cxr/metadata has a header but no rows",
        "drg": "note/discharge has a header but no rows",
    }
    assert manifest["modalities"] == {"ehr": True, "cxr": False, "note": False}
    assert "Taken for absent: hosp/diagnoses_icd has a header" in (tmp_path / "out" / "cohort.md").read_text()
    assert manifest["source"]["lacking"]["hosp/labevents"] == "hosp/labevents has a header but no rows"
