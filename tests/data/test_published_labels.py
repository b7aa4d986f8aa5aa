"""Labels of the profile `ref` against a second, independent working-out of the published rules."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import published_labels as published
import pytest
from raw_files import START, Hospital, hours

from benchmark.data.cohort import build_cohort
from benchmark.data.diagnoses import read_diagnoses
from benchmark.data.events import extract_events
from benchmark.data.film_list import read_films, read_findings
from benchmark.data.labels import draft_dia, draft_stay_tasks
from benchmark.data.raw import RawMimic
from benchmark.data.rules import Rules
from benchmark.data.sources import with_first_events
from benchmark.data.split import read_split
from benchmark.tasks.dia import FINDINGS

ROOT = Path(__file__).resolve().parents[2]
DEMO = Path(os.environ.get("MIMIC_IV_DEMO", ROOT.parent / "shared" / "data" / "mimic-iv-demo"))

REF = Rules.of_profile("ref")

CODES = [("4019", 9), ("I10", 10), ("0389", 9), ("J9600", 10), ("N179", 10), ("I4891", 10), ("E1122", 10),
         ("R6521", 10), ("K7689", 10), ("V707", 9), ("I21A9", 10), ("41071", 9), ("J80", 10)]  # fmt: skip


def patient(hospital: Hospital, subject: int, rng: np.random.Generator) -> None:
    """A patient with one to three admissions that may overlap, and deaths recorded in every wrong way."""
    begin = 0.0
    day = None
    for number in range(rng.integers(1, 4)):
        hadm, stay = subject * 10 + number, subject * 10 + 5 + number
        length = float(rng.choice([4.0, 30.0, 48.0, 60.5, 75.25, 200.0, 400.0]))
        into = float(rng.choice([0.5, 3.0, 10.25]))
        end = begin + into + length + float(rng.choice([2.0, 30.0, 300.0]))
        death, expired = None, 0
        kind = rng.choice(["alive", "unit", "evening", "late", "flag", "before", "day", "follow-up"])
        out = begin + into + length
        if kind in ("unit", "evening", "late", "before"):
            hour = {"unit": out - 1, "evening": out + 1.5, "late": end + 3, "before": begin + into - 0.25}[kind]
            death, expired = round(hour * 3600) / 3600, 1
            day = START + hours(hour)
        elif kind == "flag":
            expired = 1
        elif kind in ("day", "follow-up"):
            day = START + hours(out - 12 if kind == "day" else end + float(rng.choice([-40, 100, 719, 800])))
        hospital.admission(subject, hadm, begin, end, death, expired)
        beats = [(), (0.0, 7.5), (-2.0, 6.0), (5.0,), (length + 1,), (0.7, length)][rng.integers(0, 6)]
        units = ("MICU", "SICU") if rng.random() < 0.1 else ("MICU", "MICU")
        hospital.stay(subject, hadm, stay, begin + into, length, units, beats)
        if rng.random() < 0.1:
            hospital.stay(subject, hadm, stay + 3, begin + into + length + 1, 10.0)
        for code in rng.choice(len(CODES), rng.integers(0, 4), replace=False):
            hospital.diagnosis(subject, hadm, *CODES[code])
        if rng.random() < 0.5:
            films(hospital, subject, hadm, begin + into, rng)
        if rng.random() < 0.3:
            laboratory(hospital, subject, hadm, begin + into + float(rng.choice([-5.0, 0.25, 500.0])), rng)
        begin = end + float(rng.choice([-5.0, 100.0, 719.9, 720.0, 800.0]))
    hospital.patient(subject, dod=day, age=17 if rng.random() < 0.05 else 60)


def films(hospital: Hospital, subject: int, study: int, begin: float, rng: np.random.Generator) -> None:
    values = {name.replace(" ", "_"): float(v) for name in FINDINGS if (v := rng.integers(-2, 2)) > -2}
    hospital.findings(subject, study, **({} if rng.random() < 0.2 else values))
    for number in range(rng.integers(1, 4)):
        at = begin + float(rng.choice([-10.0, 2.0, 4.0, 5.0, 6.5, 6.5, 47.75]))
        dicom = f"{rng.integers(0, 10**6):06}-{study}-{number}"
        hospital.film(subject, study, dicom, at, "AP" if rng.random() < 0.8 else "PA")


def laboratory(hospital: Hospital, subject: int, hadm: int, at: float, rng: np.random.Generator) -> None:
    text = "___" if rng.random() < 0.3 else "7.35"
    hospital.add(
        "hosp/labevents", labevent_id=hadm, subject_id=subject, hadm_id=hadm, itemid=50820, value=text, valuenum=7.35,
        charttime=START + hours(at), storetime=START + hours(at + 1), valueuom="units",
    )  # fmt: skip


@dataclass(frozen=True)
class Planted:
    """Raw files with a second working-out of their stays and of the drafts under the published rules."""

    paths: dict[str, Path]
    raw: RawMimic
    stays: list[published.Stay]
    drafts: dict[str, pd.DataFrame]


@pytest.fixture(scope="module", params=[1, 2])
def planted(request, tmp_path_factory) -> Planted:
    rng = np.random.default_rng(request.param)
    hospital = Hospital()
    for subject in rng.permutation(np.r_[9_999_970:10_000_030]):  # numbers of seven and of eight digits
        patient(hospital, int(subject), rng)
    for code, version in CODES[:-2]:
        hospital.add("hosp/d_icd_diagnoses", icd_code=code, icd_version=version, long_title="")
    rng.shuffle(hospital.rows["mimic-cxr-2.0.0-metadata"])
    paths = hospital.write(tmp_path_factory.mktemp("planted"))
    raw, stays = RawMimic(paths["mimic_iv"], paths["mimic_cxr"]), published.cohort(paths["mimic_iv"])
    return Planted(paths, raw, stays, drafts_of(raw, stays))


def drafts_of(raw: RawMimic, stays: list[published.Stay], rules: Rules = REF) -> dict[str, pd.DataFrame]:
    """The drafts of the stays' tasks, with the first events that the second working-out found."""
    cohort = build_cohort(raw, rules)
    first = {s.stay: min(hour for hour in s.events if hour >= 0) for s in stays if any(h >= 0 for h in s.events)}
    earliest = {s.stay: s.events[0] for s in stays if s.events and s.events[0] < 0}
    frame = with_first_events(cohort.stays, first, earliest)
    films = read_films(raw, rules)[0] if raw.has("cxr/metadata") else None
    diagnoses, _ = read_diagnoses(raw, frame, cohort.admissions, rules)
    drafts = draft_stay_tasks(frame, diagnoses, films, rules)
    if films is not None:
        drafts["dia"] = draft_dia(films, read_findings(raw), frame, cohort.admissions, rules)
        for draft in drafts.values():
            draft["dicom"] = [films.dicom_id[film] if film >= 0 else "" for film in draft.film]
    return drafts


def compare(drafts: dict[str, pd.DataFrame], stays: list[published.Stay]) -> None:
    def labels(task: str) -> dict[int, int]:
        return dict(zip(drafts[task].stay_id, drafts[task].y0.astype(int), strict=True))

    assert labels("ihm") == published.mortality(stays)
    assert labels("rea") == published.readmission(stays)
    for task, expected in (("los", published.length_of_stay(stays)), ("dec", published.decompensation(stays))):
        hour = dict(zip(drafts[task].stay_id, drafts[task].hour, strict=True))
        assert {stay: (hour[stay], label) for stay, label in labels(task).items()} == expected
    columns = [f"y{index}" for index in range(25)]
    groups = {
        stay: tuple(np.flatnonzero(row))
        for stay, row in zip(drafts["phe"].stay_id, drafts["phe"][columns].to_numpy(), strict=True)
    }
    assert groups == published.phenotypes(stays, published.groups())


def check_first_events(folder: Path, stays: list[published.Stay], out: Path) -> None:
    """First events as the pipeline finds them, but for stays that overlap one that is left out."""
    cohort = build_cohort(RawMimic(folder), REF)
    events = extract_events(RawMimic(folder), cohort.stays, out, REF)
    rare = {}
    for found, expected in (
        (events.first_hours(), {s.stay: [hour for hour in s.events if hour >= 0] for s in stays}),
        (events.early_hours(), {s.stay: [hour for hour in s.events if hour < 0] for s in stays}),
    ):
        known = {stay: min(own) for stay, own in expected.items() if own}
        rare |= {stay: known[stay] for stay in known.keys() - dict(found).keys()}
        assert dict(found) == pytest.approx({stay: known[stay] for stay in dict(found)})
    lone = {s.subject for s in stays} - published.with_overlaps(folder)
    assert not [s for s in stays if s.stay in rare and s.subject in lone]


def check_partitions(folder: Path) -> None:
    split, names = read_split(RawMimic(folder), REF), ("train", "val", "test")
    for subject, part in published.partitions(folder).items():
        assert split.of(int(subject)) == names[part]


def test_planted_cases_have_the_published_labels(planted):
    compare(planted.drafts, planted.stays)
    for task in ("ihm", "dec", "rea"):
        assert set(planted.drafts[task].y0) == {0.0, 1.0}
    assert {stay.readmission for stay in planted.stays} == {0, 1, 2}
    check_partitions(planted.paths["mimic_iv"])


def test_planted_cases_have_the_published_first_events(planted, tmp_path):
    check_first_events(planted.paths["mimic_iv"], planted.stays, tmp_path)


def test_planted_cases_have_the_published_films(planted):
    stays = {stay.stay: stay for stay in planted.stays}
    taken = published.films(planted.paths["mimic_cxr"])
    for task, draft in planted.drafts.items():
        if task == "dia":
            continue
        for row in draft.itertuples():
            stay = stays[row.stay_id]
            end = stay.end if task in ("phe", "rea") else stay.begin + timedelta(hours=row.hour)
            assert row.dicom == published.last_film(stay.subject, stay.begin, end, taken)
        assert (draft.dicom != "").sum() > 3


def test_planted_cases_have_the_published_findings(planted):
    draft, cxr = planted.drafts["dia"], planted.paths["mimic_cxr"]
    expected = published.findings(planted.stays, published.films(cxr), planted.paths["mimic_iv"], cxr)
    assert sorted(map(str, draft.study_id)) == sorted(expected)
    for row in draft.itertuples():
        sample = expected[str(row.study_id)]
        series = (row.stay_id, round(row.hour, 6)) if row.stay_id >= 0 else (None, None)
        assert (row.dicom, *series) == (sample.dicom, sample.stay, sample.hour)
        assert row.hadm_id == int(sample.hadm or -1)
        values = [getattr(row, f"y{index}") for index in range(14)]
        assert [-1 if np.isnan(value) else value for value in values] == [max(label, -1) for label in sample.labels]
    assert (draft.stay_id >= 0).sum() > 3


@pytest.mark.parametrize("switch", ["death", "readmission", "icd10", "hours"])
def test_comparison_notices_a_rule_of_the_other_profile(planted, switch):
    drafts = drafts_of(planted.raw, planted.stays, replace(REF, **{switch: getattr(Rules(), switch)}))
    with pytest.raises(AssertionError):
        compare(drafts, planted.stays)


@pytest.mark.skipif(not DEMO.is_dir(), reason=f"no MIMIC-IV demo in {DEMO}; set MIMIC_IV_DEMO")
def test_demo_has_the_published_labels(tmp_path):
    stays = published.cohort(DEMO)
    drafts = drafts_of(RawMimic(DEMO), stays)
    compare(drafts, stays)
    assert len(drafts["phe"]) > 100
    check_partitions(DEMO)
    check_first_events(DEMO, stays, tmp_path)
