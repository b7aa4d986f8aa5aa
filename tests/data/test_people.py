"""Demographics of samples: whose, from which admission, and that nothing but the private folder holds them."""

from __future__ import annotations

import pandas as pd
import pytest
from raw_files import START, Hospital, subjects_in

from benchmark.data.people import UNKNOWN, people, race_group
from benchmark.data.prepare import prepare

PATIENTS = pd.DataFrame(
    {"subject_id": [1, 2], "gender": ["F", None], "anchor_age": [40, 70], "anchor_year": [2150] * 2}
)
ADMISSIONS = pd.DataFrame(
    {
        "subject_id": [1, 1, 2],
        "hadm_id": [10, 11, 20],
        "admittime": pd.to_datetime(["2150-05-01", "2153-05-01", "2151-01-01"]),
        "insurance": ["Medicaid", "Medicare", None],
        "race": ["HISPANIC/LATINO - CUBAN", "HISPANIC OR LATINO", "UNABLE TO OBTAIN"],
    }
)


def test_each_sample_takes_its_own_admission_and_a_film_outside_the_latest_before_it():
    links = pd.DataFrame(
        {
            "sample": [7, 5, 6, 8, 9],
            "subject_id": [1, 1, 1, 2, 1],
            "hadm_id": [11, -1, -1, 20, -1],
            "end": pd.to_datetime(["2153-05-03", "2152-07-01", "2149-12-31", "2151-01-02", None]),
        }
    )
    found = people(PATIENTS, ADMISSIONS, links).set_index("sample")
    assert found["age"].round().tolist()[:4] == [43, 42, 39, 71]
    assert found["age"].isna().tolist() == [False] * 4 + [True], "neither an admission nor a time"
    assert found["insurance"].tolist() == ["Medicare", "Medicaid", UNKNOWN, UNKNOWN, UNKNOWN]
    assert found["race"].tolist()[:2] == ["HISPANIC OR LATINO", "HISPANIC/LATINO - CUBAN"]
    assert found["race_group"].tolist() == ["Hispanic", "Hispanic", UNKNOWN, UNKNOWN, UNKNOWN]
    assert found["sex"].tolist() == ["F", "F", "F", UNKNOWN, "F"]


GROUPS = {
    "WHITE - BRAZILIAN": "White",
    "ASIAN - CHINESE": "Asian",
    "AMERICAN INDIAN/ALASKA NATIVE": "Other",
    "black/african american": "Black",
    "PATIENT DECLINED TO ANSWER": UNKNOWN,
    "?": UNKNOWN,
    " ": UNKNOWN,
}


@pytest.mark.parametrize(("race", "group"), GROUPS.items())
def test_coarse_groups(race, group):
    assert race_group(race) == group


def test_prepared_data_hold_people_in_the_private_folder_only(tmp_path):
    raw = Hospital()
    for index, subject in enumerate([*subjects_in("train", 3), *subjects_in("val", 1), *subjects_in("test", 1)]):
        raw.patient(subject, age=50 + index, year=START.year - 2)
        raw.admission(subject, 20_000_000 + index)
        raw.rows["hosp/admissions"][-1]["race"] = "ASIAN - PLANTED"
        raw.stay(subject, 20_000_000 + index, 30_000_000 + index)
    prepare(**raw.write(tmp_path / "raw"), out=tmp_path / "data")
    table = pd.read_parquet(tmp_path / "data" / "private" / "people.parquet")
    samples = pd.concat([pd.read_parquet(file) for file in (tmp_path / "data" / "samples").iterdir()])
    assert sorted(table["sample"]) == sorted(samples["sample"])
    assert set(table["age"]) == {52, 53, 54, 55, 56} and set(table["race_group"]) == {"Asian"}
    assert (table["insurance"] == UNKNOWN).all(), "the file has no such column"
    for file in (tmp_path / "data").rglob("*"):
        if file.is_file() and "private" not in file.parts:
            assert b"PLANTED" not in file.read_bytes(), file
