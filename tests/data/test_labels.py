"""Windows of films and notes: who gets which, to the second."""

from __future__ import annotations

import pandas as pd
import pytest
from raw_files import START, Hospital, hours

from benchmark.data.cohort import build_cohort
from benchmark.data.film_list import read_films
from benchmark.data.labels import draft_dia, draft_drg, draft_stay_tasks
from benchmark.data.raw import RawMimic
from benchmark.data.rules import Rules
from benchmark.tasks.dia import FINDINGS

SECOND = 1 / 3600
INTIME, OUTTIME, DISCHARGE = 10.0, 100.0, 240.0


def stays() -> pd.DataFrame:
    row = {"subject_id": 1, "hadm_id": 10, "stay_id": 100, "intime": START + hours(INTIME)}
    row |= {"outtime": START + hours(OUTTIME), "los_hours": OUTTIME - INTIME, "first_event": 0.5, "first_charted": 0.5}
    row |= dict.fromkeys(("died_in_hospital", "ward_death", "readmitted", "late_death", "dropped"), False)
    return pd.DataFrame([row | {"death_hour": float("nan")}])


def admissions() -> pd.DataFrame:
    times = {"start": [START], "dischtime": [START + hours(DISCHARGE)]}
    return pd.DataFrame({"subject_id": [1], "hadm_id": [10], "row": [0], **times})


def film(at: float) -> pd.DataFrame:
    row = {"subject_id": 1, "study_id": 5, "dicom_id": "a", "time": START + hours(at), "row": 0, "whole": True}
    return pd.DataFrame([row])


@pytest.mark.parametrize(
    ("at", "seen"), [(INTIME - SECOND, False), (INTIME, True), (INTIME + 48, True), (INTIME + 48 + SECOND, False)]
)
def test_mortality_sees_films_from_the_admission_to_the_unit_to_hour_48(at: float, seen: bool):
    draft = draft_stay_tasks(stays(), None, film(at))["ihm"]
    assert draft.film.tolist() == [0 if seen else -1]


@pytest.mark.parametrize(
    ("at", "seen"), [(INTIME - SECOND, False), (INTIME, True), (OUTTIME, True), (OUTTIME + SECOND, False)]
)
def test_readmission_sees_films_of_the_stay(at: float, seen: bool):
    draft = draft_stay_tasks(stays(), None, film(at))["rea"]
    assert draft.film.tolist() == [0 if seen else -1]


@pytest.mark.parametrize(
    ("at", "inside"), [(-SECOND, False), (0, True), (DISCHARGE, True), (DISCHARGE + SECOND, False)]
)
def test_films_of_an_admission(at: float, inside: bool):
    findings = pd.DataFrame([dict.fromkeys(FINDINGS, 1.0) | {"subject_id": 1, "study_id": 5}])
    draft = draft_dia(film(at), findings, stays(), admissions())
    assert draft.note.tolist() == draft.hadm_id.tolist() == [10 if inside else -1]
    codes = pd.DataFrame({"hadm_id": [10], "code": ["871"]})
    assert draft_drg(codes, {10}, admissions(), stays(), film(at)).film.tolist() == [0 if inside else -1]


@pytest.mark.parametrize(
    ("at", "seen"), [(INTIME - 24 - SECOND, False), (INTIME - 24, True), (INTIME - 1, True), (INTIME, True)]
)
def test_look_back_of_a_day(at: float, seen: bool):
    drafts = draft_stay_tasks(stays(), None, film(at), Rules(film_window="day_before"))
    assert {film for draft in drafts.values() for film in draft.film} == {0 if seen else -1}


FIRST_IS_LAST = pd.DataFrame(
    {"subject_id": 1, "study_id": 5, "dicom_id": ["a", "b"], "time": START + hours(20), "row": [7, 3], "whole": True}
)


@pytest.mark.parametrize(("choice", "chosen"), [("smallest_id", 0), ("last_in_file", 0)])
def test_films_of_one_moment(choice: str, chosen: int):
    rules = Rules(film_choice=choice)
    swapped = FIRST_IS_LAST.assign(row=[3, 7])
    other = chosen if choice == "smallest_id" else 1
    findings = pd.DataFrame([dict.fromkeys(FINDINGS, 1.0) | {"subject_id": 1, "study_id": 5}])
    stay = stays().assign(admittime=START)
    for films, expected in ((FIRST_IS_LAST, chosen), (swapped, other)):
        assert draft_stay_tasks(stay, None, films, rules)["ihm"].film.tolist() == [expected]
        assert draft_dia(films, findings, stay, admissions(), rules).film.tolist() == [expected]
        broken = films.assign(whole=[expected == 1, expected == 0])
        assert draft_dia(broken, findings, stay, admissions(), rules).film.tolist() == [1 - expected]


@pytest.mark.parametrize(("choice", "hadm"), [("smallest_id", -1), ("last_in_file", 10)])
def test_admission_of_a_study_whose_other_film_was_taken_in_it(choice: str, hadm: int):
    films = FIRST_IS_LAST.assign(time=[START + hours(300), START + hours(20)], row=[9, 3])
    findings = pd.DataFrame([dict.fromkeys(FINDINGS, 1.0) | {"subject_id": 1, "study_id": 5}])
    draft = draft_dia(films, findings, stays().assign(admittime=START), admissions(), Rules(film_choice=choice))
    assert (draft.film.tolist(), draft.hadm_id.tolist()) == ([0], [hadm])


@pytest.mark.parametrize(
    ("at", "first", "charted", "cut", "has_series"),
    [
        (5.0, 5.0, 5.0, "before", False),
        (5.0, 5.0, 5.0, "at", True),
        (5.0, 4.9, 4.9, "before", True),
        (5.0, 6.0, -1.0, "at", True),  # an event before the ICU, and one that follows
        (5.0, 6.0, -1.0, "before", False),
        (4.0, 0.5, 0.5, "at", False),
        (5.0, float("nan"), -1.0, "at", False),
    ],
)
def test_series_of_a_study(at: float, first: float, charted: float, cut: str, has_series: bool):
    findings = pd.DataFrame([dict.fromkeys(FINDINGS, 1.0) | {"subject_id": 1, "study_id": 5}])
    stay = stays().assign(first_event=first, first_charted=charted)
    draft = draft_dia(film(INTIME + at), findings, stay, admissions(), Rules(film_cut=cut))
    assert draft.stay_id.tolist() == [100 if has_series else -1]
    assert draft.hour.tolist() == [pytest.approx(at if has_series else float("nan"), nan_ok=True)]


DRAWN = ("los", "dec")


def test_drafts_keep_what_redrawing_an_hour_needs():
    drafts = draft_stay_tasks(stays().assign(death_hour=30.5, died_in_hospital=True), None, None)
    rows = {
        task: drafts[task][["first_hour", "last_hour", "los_hours", "death_hour"]].values.tolist() for task in DRAWN
    }
    assert rows == {"los": [[5, 90, 90.0, 30.5]], "dec": [[5, 30, 90.0, 30.5]]}


@pytest.mark.parametrize(("rule", "hadm"), [("admittime", -1), ("edregtime", 10)])
def test_admission_may_begin_in_the_emergency_department(tmp_path, rule: str, hadm: int):
    hospital = Hospital()
    hospital.patient(1)
    hospital.admission(1, 10)
    hospital.rows["hosp/admissions"][0]["edregtime"] = START - hours(3)
    hospital.admission(1, 20, start=300, end=400)
    hospital.rows["hosp/admissions"][1]["edregtime"] = START + hours(301)  # after admission: not a begin
    hospital.stay(1, 10, 100)
    hospital.film(1, 5, "a", at=-2)
    hospital.film(1, 6, "b", at=300.5)
    paths = hospital.write(tmp_path)
    raw, rules = RawMimic(paths["mimic_iv"], paths["mimic_cxr"]), Rules(admission_start=rule)
    cohort = build_cohort(raw, rules)
    findings = pd.DataFrame([dict.fromkeys(FINDINGS, 1.0) | {"subject_id": 1, "study_id": study} for study in (5, 6)])
    frame = cohort.stays.assign(first_event=0.5, first_charted=0.5)
    draft = draft_dia(read_films(raw)[0], findings, frame, cohort.admissions, rules)
    assert draft.hadm_id.tolist() == [hadm, 20]


@pytest.mark.parametrize(("views", "found"), [("ap", ["a"]), ("ap_or_coded", ["a", "c"])])
def test_films_with_a_blank_view(tmp_path, views: str, found: list[str]):
    hospital = Hospital()
    for dicom, view in (("a", "AP"), ("b", "PA"), ("c", ""), ("d", "")):
        hospital.film(1, 5, dicom, at=1, view=view)
    paths = hospital.write(tmp_path)
    table = paths["mimic_cxr"] / "mimic-cxr-2.0.0-metadata.csv.gz"
    frame = pd.read_csv(table, keep_default_na=False)
    coded = ["postero-anterior", "antero-posterior", "antero-posterior", "lateral"]
    frame.assign(ViewCodeSequence_CodeMeaning=coded).to_csv(table, index=False)
    films, *_ = read_films(RawMimic(paths["mimic_iv"], paths["mimic_cxr"]), Rules(views=views))
    assert films.dicom_id.tolist() == found


def test_views_are_read_without_case_and_blanks_and_all_are_counted(tmp_path):
    hospital = Hospital()
    for number, view in enumerate(("AP", "ap", " AP ", "PA", "pa ", "LATERAL", "LL", "SWIMMERS", "", " ")):
        hospital.film(1, 5, f"film{number}", at=1, view=view)
    paths = hospital.write(tmp_path)
    for rules in (Rules(), Rules.of_profile("ref")):
        films, _, views = read_films(RawMimic(paths["mimic_iv"], paths["mimic_cxr"]), rules)
        assert films.dicom_id.tolist() == ["film0", "film1", "film2"]
        assert views == {"AP": 3, "PA": 2, "LATERAL": 1, "LL": 1, "other": 1, "blank": 2}
