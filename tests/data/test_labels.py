"""Windows of films and notes: who gets which, to the second."""

from __future__ import annotations

import pandas as pd
import pytest
from raw_files import START, hours

from benchmark.data.labels import draft_dia, draft_drg, draft_stay_tasks
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
