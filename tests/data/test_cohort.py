"""Which stays are chosen, when a patient counts as dead in the unit, and what makes a readmission."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from raw_files import START, Hospital, hours

from benchmark.data.cohort import build_cohort
from benchmark.data.diagnoses import read_diagnoses
from benchmark.data.raw import RawMimic
from benchmark.data.rules import Rules
from benchmark.errors import UserError

PUBLISHED = Rules(death="by_timestamps", readmission="published")


def cohort_of(hospital: Hospital, tmp_path: Path, rules: Rules = Rules()):
    raw = RawMimic(hospital.write(tmp_path)["mimic_iv"])
    cohort = build_cohort(raw, rules)
    return cohort, cohort.stays.set_index("stay_id")


def test_selection_counts_stays_after_transfers_are_gone(tmp_path):
    hospital = Hospital()
    for subject in (1, 2, 3, 4, 5):
        hospital.patient(subject, age=17 if subject == 4 else 60)
        hospital.admission(subject, subject * 10)
    hospital.stay(1, 10, 101)
    hospital.stay(1, 10, 102, start=90, units=("MICU", "SICU"))  # a transfer does not count as a second stay
    hospital.stay(2, 20, 201)
    hospital.stay(2, 20, 202, start=90)
    hospital.stay(3, 30, 301, length=None)
    hospital.stay(4, 40, 401)
    hospital.stay(5, 99, 501)  # admission unknown
    hospital.stay(5, 50, 502)
    for subject, length in ((6, 0.0), (7, -3.0)):
        hospital.patient(subject)
        hospital.admission(subject, subject * 10)
        hospital.stay(subject, subject * 10, subject * 100, length=length)
    cohort, stays = cohort_of(hospital, tmp_path)
    assert list(stays.index) == [101, 502]
    assert [(step.kept, step.dropped) for step in cohort.steps] == [
        *[(10, 0), (10, 0), (9, 1), (8, 1), (6, 2), (5, 1), (4, 1), (2, 2)]
    ]


@pytest.mark.parametrize("profile", ["fix", "ref"])
def test_units_are_compared_without_blanks_around_and_blank_ones_have_a_reason_of_their_own(tmp_path, profile):
    hospital = Hospital()
    pairs = [("MICU", "MICU "), (" MICU", "MICU"), ("MICU", "SICU "), ("", "MICU"), ("MICU", " "), ("", "")]
    for subject, units in enumerate(pairs, start=1):
        hospital.patient(subject)
        hospital.admission(subject, subject * 10)
        hospital.stay(subject, subject * 10, subject * 100, units=units)
        hospital.diagnosis(subject, subject * 10, "4019", 9)
    hospital.add("hosp/d_icd_diagnoses", icd_code="4019", icd_version=9, long_title="")
    cohort = build_cohort(RawMimic(hospital.write(tmp_path)["mimic_iv"]), Rules.of_profile(profile))
    assert cohort.stays.stay_id.tolist() == [100, 200]
    assert {step.reason: step.dropped for step in cohort.steps if step.dropped} == {
        "blank first or last care unit": 3,
        "first and last care unit differ": 1,
    }


def test_age_is_counted_to_the_year_of_the_stay(tmp_path):
    hospital = Hospital()
    hospital.patient(1, age=16, year=START.year - 2)
    hospital.patient(2, age=20, year=START.year + 3)
    for subject in (1, 2):
        hospital.admission(subject, subject)
        hospital.stay(subject, subject, subject)
    _, stays = cohort_of(hospital, tmp_path)
    assert stays.age.to_dict() == {1: 18}


@pytest.mark.parametrize(
    ("death", "expired", "discharge", "in_hospital", "in_icu"),
    [
        (None, 0, 240, False, False),
        (60, 1, 60, True, True),
        (78.9, 1, 79, True, True),  # the unit is left at hour 73: within six hours of grace
        (79.1, 1, 80, True, False),
        (None, 1, 75, True, True),  # moment of death unknown: the discharge
        (None, 1, 100, True, False),
        (250, 0, 240, True, False),  # later than the discharge, flag not set: a death all the same
    ],
)
def test_death_flags(tmp_path, death, expired, discharge, in_hospital, in_icu):
    hospital = Hospital()
    hospital.patient(1, dod=START + hours(1))  # a date within the stay says nothing by itself
    hospital.admission(1, 10, end=discharge, death=death, expired=expired)
    hospital.stay(1, 10, 100, start=1, length=72)
    _, stays = cohort_of(hospital, tmp_path)
    assert (stays.died_in_hospital[100], stays.died_in_icu[100]) == (in_hospital, in_icu)
    moment = (death if death is not None else discharge) - 1 if in_hospital else None
    assert stays.death_hour[100] == pytest.approx(moment) if in_hospital else pd.isna(stays.death_hour[100])


def test_second_stay_rules_an_admission_out_even_if_it_changes_units(tmp_path):
    hospital = Hospital()
    hospital.patient(1)
    hospital.admission(1, 10)
    hospital.stay(1, 10, 101)
    hospital.stay(1, 10, 102, start=90, units=("MICU", "SICU"))
    raw = RawMimic(hospital.write(tmp_path)["mimic_iv"])
    assert build_cohort(raw).stays.stay_id.tolist() == [101]
    assert build_cohort(raw, Rules(count_stays="before_transfers")).stays.empty


def test_anchor_age_whatever_the_year(tmp_path):
    hospital = Hospital()
    for subject, age in ((1, 17), (2, 18), (3, -3)):
        hospital.patient(subject, age=age, year=START.year - 2)
        hospital.admission(subject, subject)
        hospital.stay(subject, subject, subject)
    _, stays = cohort_of(hospital, tmp_path, Rules(age="anchor"))
    assert stays.age.to_dict() == {2: 18, 3: 90}


@pytest.mark.parametrize(
    ("death", "expired", "dod_hour", "in_hospital", "in_icu", "hour"),
    [
        (None, 0, None, False, False, None),
        (60, 1, 60, True, True, 59),
        (73, 1, None, True, True, 72),  # at the moment of ICU discharge
        (73.5, 1, None, True, False, 72.5),  # half an hour later: no grace
        (240, 1, None, True, False, 239),  # at the moment of discharge
        (240.01, 1, None, False, False, 239.01),  # after it: a survivor, but no hour after that is asked for
        (None, 1, None, False, False, None),  # the flag alone is not looked at
        (None, 0, 72, False, True, None),  # a day of death within the stay
        (75, 1, 75, True, True, 74),  # dies on the ward after discharge to it: the day began in the unit
        (0.5, 1, 0.5, True, False, -0.5),  # before the unit
        (20, 1, -8, True, True, 19),  # on the day of ICU admission, whose midnight comes before it
    ],
)
def test_published_death_flags(tmp_path, death, expired, dod_hour, in_hospital, in_icu, hour):
    hospital = Hospital()
    hospital.patient(1, dod=None if dod_hour is None else START + hours(dod_hour))
    hospital.admission(1, 10, end=240, death=death, expired=expired)
    hospital.stay(1, 10, 100, start=1, length=72)
    _, stays = cohort_of(hospital, tmp_path, PUBLISHED)
    assert (stays.died_in_hospital[100], stays.died_in_icu[100]) == (in_hospital, in_icu)
    assert stays.death_hour[100] == pytest.approx(float("nan") if hour is None else hour, nan_ok=True)


DAY = 24.0


@pytest.mark.parametrize(
    ("first", "next_start", "dod_day", "expected"),
    [
        ({}, None, None, (False, False, False, False)),
        ({}, 40 * DAY - 0.01, None, (False, True, False, False)),
        ({}, 40 * DAY, None, (False, False, False, False)),  # 30 days to the second are too many
        ({}, 10 * DAY, None, (False, True, False, False)),  # no gap at all
        ({}, 8 * DAY, None, (False, True, False, False)),  # overlapping admissions
        ({}, None, 10, (False, False, True, False)),  # day of discharge: its midnight lies before the discharge
        ({}, None, 9, (False, False, True, False)),  # discharged alive a day after the recorded death
        ({}, None, 40, (False, False, True, False)),  # its midnight is less than 30 days away
        ({}, None, 41, (False, False, False, False)),
        ({}, None, 2, (False, False, False, False)),  # midnight within the stay, blank time: neither way
        ({"expired": 1}, None, None, (False, False, False, False)),  # blank time of death: a survivor
        ({"death": 200.0}, None, 8, (True, False, False, False)),
        ({"death": 240.5}, None, 10, (False, False, True, False)),  # after discharge: not in hospital
        ({"death": 70.0}, None, 2, (False, False, False, True)),
        ({"death": 74.0}, 20 * DAY, None, (True, True, False, False)),
        ({"death": 74.0}, 20 * DAY, 3, (False, True, False, True)),  # the day of a ward death began in the unit
    ],
)
def test_published_readmission_truth_table(tmp_path, first, next_start, dod_day, expected):
    hospital = Hospital()
    hospital.patient(1, dod=None if dod_day is None else START + hours(24 * dod_day))
    hospital.admission(1, 10, end=10 * DAY, **first)
    hospital.stay(1, 10, 100)
    if next_start is not None:
        hospital.admission(1, 20, start=next_start, end=next_start + 100)
        hospital.stay(1, 20, 200, start=next_start + 1)
    _, stays = cohort_of(hospital, tmp_path, PUBLISHED)
    assert tuple(stays.loc[100, ["ward_death", "readmitted", "late_death", "dropped"]]) == expected


@pytest.mark.parametrize(
    ("first", "next_start", "dod_day", "expected"),
    [
        ({}, None, None, (False, False, False, False)),
        ({}, 10 * DAY + 1, None, (False, True, False, False)),
        ({}, 40 * DAY, None, (False, True, False, False)),  # 30 days to the second
        ({}, 40 * DAY + 0.01, None, (False, False, False, False)),
        ({}, 10 * DAY, None, (False, False, False, False)),  # no gap at all
        ({}, 8 * DAY, None, (False, False, False, False)),  # overlapping admissions
        ({}, None, 10, (False, False, True, False)),  # dies on the day of discharge
        ({}, None, 40, (False, False, True, False)),
        ({}, None, 41, (False, False, False, False)),
        ({}, None, 9, (False, False, False, False)),  # discharged alive a day after the recorded death
        ({"death": 200.0}, None, 8, (True, False, False, False)),
        ({"expired": 1}, None, None, (True, False, False, False)),  # blank time of death
        ({"death": 70.0}, None, 2, (False, False, False, True)),
        ({"death": 70.0}, 20 * DAY, 2, (False, True, False, True)),  # contradictory rows: dropped all the same
    ],
)
def test_readmission_truth_table(tmp_path, first, next_start, dod_day, expected):
    hospital = Hospital()
    hospital.patient(1, dod=None if dod_day is None else START + hours(24 * dod_day))
    hospital.admission(1, 10, end=10 * DAY, **first)
    hospital.stay(1, 10, 100)
    if next_start is not None:
        hospital.admission(1, 20, start=next_start, end=next_start + 100)
        hospital.stay(1, 20, 200, start=next_start + 1)
    _, stays = cohort_of(hospital, tmp_path)
    assert tuple(stays.loc[100, ["ward_death", "readmitted", "late_death", "dropped"]]) == expected


def test_admissions_follow_each_other_by_time_not_by_number(tmp_path):
    hospital = Hospital()
    hospital.patient(1)
    hospital.admission(1, 90, end=100)
    hospital.stay(1, 90, 900, length=24.0)
    hospital.admission(1, 20, start=300, end=400)
    hospital.stay(1, 20, 200, start=301, length=24.0)
    _, stays = cohort_of(hospital, tmp_path)
    assert stays.readmitted.to_dict() == {200: False, 900: True}


def test_return_without_a_stay_of_the_cohort_is_none(tmp_path):
    hospital = Hospital()
    hospital.patient(1)
    hospital.admission(1, 10)
    hospital.stay(1, 10, 100)
    hospital.admission(1, 20, start=300, end=400)
    hospital.stay(1, 20, 200, start=301, units=("MICU", "SICU"))
    _, stays = cohort_of(hospital, tmp_path)
    assert not stays.readmitted.any()


@pytest.mark.parametrize(("start", "readmitted"), [(239.0, False), (240.0, False), (241.0, True), (961.0, False)])
def test_return_to_the_hospital_without_an_icu_stay(tmp_path, start, readmitted):
    hospital = Hospital()
    hospital.patient(1)
    hospital.admission(1, 10)
    hospital.stay(1, 10, 100)
    hospital.admission(1, 20, start=start, end=1000)
    hospital.admission(1, 5, start=-500, end=-400)
    hospital.admission(2, 30, start=300, end=400)
    _, stays = cohort_of(hospital, tmp_path, Rules(readmission="any_admission"))
    assert stays.readmitted.to_dict() == {100: readmitted}


def test_stays_without_a_diagnosis_of_the_dictionary(tmp_path):
    hospital = Hospital()
    for subject in (1, 2, 3):
        hospital.patient(subject)
        hospital.admission(subject, subject * 10)
        hospital.stay(subject, subject * 10, subject * 100)
    hospital.diagnosis(1, 10, "4019", 9)
    hospital.diagnosis(2, 20, "4019", 10)  # the version is not looked at
    hospital.diagnosis(3, 30, "I10", 10)
    hospital.add("hosp/d_icd_diagnoses", icd_code="4019", icd_version=9, long_title="")
    raw = RawMimic(hospital.write(tmp_path)["mimic_iv"])
    rules = Rules(diagnoses="joined_with_dictionary")
    cohort = build_cohort(raw, rules)
    assert cohort.stays.stay_id.tolist() == [100, 200]
    assert (cohort.steps[-1].name, cohort.steps[-1].dropped) == ("known diagnosis", 1)
    table, _ = read_diagnoses(raw, cohort.stays, cohort.admissions, rules)
    assert table.values.tolist() == [[10, "4019", 9], [20, "4019", 10]]
    assert len(build_cohort(raw).stays) == 3


def test_raw_errors_name_file_and_column(tmp_path):
    paths = Hospital().write(tmp_path)
    raw = RawMimic(paths["mimic_iv"])
    with pytest.raises(UserError, match=r"patients\.csv\.gz: no column nose"):
        raw.scan("hosp/patients", ["subject_id", "nose"])
    with pytest.raises(UserError, match="no such folder"):
        RawMimic(tmp_path / "nowhere")
    (paths["mimic_iv"] / "icu" / "icustays.csv.gz").unlink()
    with pytest.raises(UserError, match="icustays"):
        RawMimic(paths["mimic_iv"])


def test_bad_values_are_the_users_errors(tmp_path):
    hospital = Hospital()
    hospital.stay(1, 10, 100)
    hospital.rows["icu/icustays"][0]["intime"] = "yesterday"
    raw = RawMimic(hospital.write(tmp_path)["mimic_iv"])
    with pytest.raises(UserError, match="icu/icustays"):
        build_cohort(raw)
