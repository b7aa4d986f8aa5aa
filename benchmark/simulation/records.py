"""Turns one simulated patient into the rows of every raw file."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from benchmark.simulation import diagnoses, films, layout, notes, tables, truth
from benchmark.simulation.labs import Laboratory
from benchmark.simulation.missing import MissingRates
from benchmark.simulation.people import DAY, HOUR, Admission, Patient, draw_patient
from benchmark.simulation.radiology import Study, draw_studies
from benchmark.simulation.signals import Signals
from benchmark.simulation.streams import EVENT_SLOTS, stream
from benchmark.simulation.vitals import Chart, chart_stay, outputs

_YEAR_GROUPS = (2008, 2011, 2014, 2017)
_RACES = ("WHITE", "BLACK/AFRICAN AMERICAN", "UNKNOWN", "HISPANIC/LATINO - PUERTO RICAN", "ASIAN", "OTHER")
_RACE_SHARES = (0.67, 0.11, 0.10, 0.04, 0.03, 0.05)
_MARRIED = ("MARRIED", "SINGLE", "WIDOWED", "DIVORCED")
_PLACES = ("HOME", "SKILLED NURSING FACILITY", "HOME HEALTH CARE", "REHAB")
_ARRIVALS = (("EW EMER.", "EMERGENCY ROOM"), ("URGENT", "TRANSFER FROM HOSPITAL"), ("ELECTIVE", "PHYSICIAN REFERRAL"))
_ARRIVAL_SHARES = (0.68, 0.2, 0.12)
_BLANK_DEATHTIME = 0.01
_PROJECTIONS = {"AP": "antero-posterior", "PA": "postero-anterior", "LATERAL": "lateral"}


@dataclass
class PatientFiles:
    """Everything of one patient.

    Attributes:
        rows: table -> rows by column name. events: event table -> columns. truth: rows of truth.parquet.
        films: relative path -> JPEG.
    """

    rows: dict[str, list[dict]] = field(default_factory=lambda: defaultdict(list))
    events: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)
    truth: pa.Table = field(default_factory=truth.SCHEMA.empty_table)
    films: dict[str, bytes] = field(default_factory=dict)

    def add(self, table: str, **values: Any) -> None:
        """Append a row; columns that are not named stay blank."""
        self.rows[table].append(values)


def build_patient(seed: int, number: int, missing: MissingRates) -> PatientFiles:
    """Draw patient ``number`` and all that is recorded about it."""
    patient, files = draw_patient(seed, number), PatientFiles()
    person, codes, text = (stream(seed, purpose, number) for purpose in ("registration", "diagnoses", "notes"))
    race = _registration(patient, files, person)
    problems = []
    for admission in patient.admissions:
        problem = diagnoses.draw_problem(admission.latent, codes)
        problems.append(problem)
        _admission(patient, admission, race, files, person)
        _stays(patient, admission, files)
        _coding(patient, admission, problem, files, codes)
        _summary(patient, admission, notes.draw_summary(patient, admission, problem, missing, text), files)
    _events(patient, files, stream(seed, "events", number))
    studies = draw_studies(patient, seed, missing)
    for study in studies:
        _study(patient, study, files, stream(seed, f"film {study.study_id}", number))
    files.truth = truth.patient_truth(patient, problems, studies)
    return files


def _registration(patient: Patient, files: PatientFiles, random: np.random.Generator) -> str:
    """The row of ``patients``; returns the race, which the real tables keep with the admissions."""
    begin = max(year for year in _YEAR_GROUPS if year <= patient.real_year)
    files.add(
        layout.PATIENTS,
        subject_id=patient.subject_id,
        gender="M" if patient.male else "F",
        anchor_age=patient.anchor_age,
        anchor_year=patient.anchor_year,
        anchor_year_group=f"{begin} - {begin + 2}",
        dod=None if patient.death is None else str(patient.moment(patient.death).astype("datetime64[D]")),
    )
    return str(random.choice(_RACES, p=_RACE_SHARES))


def _admission(
    patient: Patient, admission: Admission, race: str, files: PatientFiles, random: np.random.Generator
) -> None:
    kind, origin = _ARRIVALS[int(random.choice(len(_ARRIVALS), p=_ARRIVAL_SHARES))]
    arrived = admission.admitted - int(random.uniform(0.2, 6) * HOUR)
    place = str(random.choice(_PLACES))
    blank = random.random() < _BLANK_DEATHTIME
    emergency = kind == _ARRIVALS[0][0]
    files.add(
        layout.ADMISSIONS,
        subject_id=patient.subject_id,
        hadm_id=admission.hadm_id,
        admittime=_clock(patient, admission.admitted),
        dischtime=_clock(patient, admission.discharged),
        deathtime=_clock(patient, admission.discharged) if admission.died and not blank else None,
        admission_type=kind,
        admit_provider_id=f"P{random.integers(100, 1000)}SIM",
        admission_location=origin,
        discharge_location="DIED" if admission.died else place,
        insurance="Medicare" if admission.age >= 65 else "Other",
        language="ENGLISH" if random.random() < 0.9 else "?",
        marital_status=str(random.choice(_MARRIED)),
        race=race,
        edregtime=_clock(patient, arrived) if emergency else None,
        edouttime=_clock(patient, admission.admitted + HOUR // 2) if emergency else None,
        hospital_expire_flag=int(admission.died),
    )


def _stays(patient: Patient, admission: Admission, files: PatientFiles) -> None:
    for stay in admission.stays:
        files.add(
            layout.STAYS,
            subject_id=patient.subject_id,
            hadm_id=admission.hadm_id,
            stay_id=stay.stay_id,
            first_careunit=stay.units[0],
            last_careunit=stay.units[1],
            intime=_clock(patient, stay.intime),
            outtime=_clock(patient, stay.outtime) if stay.outtime_known else None,
            los=(stay.outtime - stay.intime) / DAY if stay.outtime_known else None,
        )


def _coding(
    patient: Patient, admission: Admission, problem: int, files: PatientFiles, random: np.random.Generator
) -> None:
    keys = {"subject_id": patient.subject_id, "hadm_id": admission.hadm_id}
    for number, (code, version) in enumerate(diagnoses.draw_codes(patient, admission, random), 1):
        files.add(layout.DIAGNOSES, **keys, seq_num=number, icd_code=code, icd_version=version)
    for group in diagnoses.draw_groups(admission, problem, random):
        files.add(layout.GROUPS, **keys, **group)


def _summary(patient: Patient, admission: Admission, text: str | None, files: PatientFiles) -> None:
    if text is None:
        return
    number = admission.slot + 2
    files.add(
        layout.SUMMARIES,
        note_id=f"{patient.subject_id}-DS-{number}",
        subject_id=patient.subject_id,
        hadm_id=admission.hadm_id,
        note_type="DS",
        note_seq=number,
        charttime=f"{_clock(patient, admission.discharged)[:10]} 00:00:00",
        storetime=_clock(patient, admission.discharged + DAY),
        text=text,
    )


def _events(patient: Patient, files: PatientFiles, random: np.random.Generator) -> None:
    """Event tables, sorted by stay (laboratory: patient) and time."""
    laboratory, charts, output = Laboratory(patient, random), [], []
    for admission in patient.admissions:
        for stay in admission.stays:
            signals = Signals.draw(admission.latent, stay.course, stay.hour + 1, random)
            chart = Chart(patient, admission.hadm_id, stay, random)
            chart_stay(chart, admission.latent, signals, patient)
            laboratory.stay(admission.hadm_id, admission.latent, stay, signals, chart)
            charts.append(_by_time(patient, chart.rows.arrays()))
            output.append(_by_time(patient, outputs(chart, signals).arrays()))
        laboratory.ward(admission)
    for table, parts in ((layout.CHART, charts), (layout.OUTPUT, output)):
        if parts:
            files.events[table] = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    drawn = laboratory.rows.arrays()
    if drawn:
        ordered = _by_time(patient, drawn)
        ordered["labevent_id"] = patient.number * EVENT_SLOTS + np.arange(len(ordered["time"])) + 1
        files.events[layout.LABORATORY] = ordered


def _by_time(patient: Patient, columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Sort rows by time, then item, and turn seconds of the patient into absolute ones."""
    order = np.lexsort((columns["itemid"], columns["time"]))
    origin = patient.moment(0).astype("datetime64[s]").astype(np.int64)
    result = {name: values[order] for name, values in columns.items()}
    return result | {name: result[name] + origin for name in ("time", "store")}


def _study(patient: Patient, study: Study, files: PatientFiles, random: np.random.Generator) -> None:
    """Metadata, labels and films of an examination."""
    keys = {"subject_id": patient.subject_id, "study_id": study.study_id}
    said = zip(tables.linear("findings").names, study.labels.tolist(), strict=True)
    labels = {name: None if np.isnan(label) else label for name, label in said}
    files.add(layout.LABELS, **keys, **labels)
    moment = _clock(patient, study.time)
    # The time of day is a number such as 63022.531 for 06:30:22.531, as in the real file.
    time = int(moment[11:].replace(":", "")) + int(random.integers(1000)) / 1000
    folder = f"{layout.MIMIC_CXR}/files/p{str(patient.subject_id)[:2]}/p{patient.subject_id}/s{study.study_id}"
    procedure = "CHEST (PORTABLE AP)" if study.images[0].view == "AP" else "CHEST (PA AND LAT)"
    for image in study.images:
        files.add(
            layout.FILMS,
            dicom_id=image.dicom_id,
            **keys,
            PerformedProcedureStepDescription=procedure,
            ViewPosition=image.view or None,
            Rows=films.HEIGHT,
            Columns=films.WIDTH,
            StudyDate=int(moment[:10].replace("-", "")),
            StudyTime=time,
            ProcedureCodeSequence_CodeMeaning=procedure,
            ViewCodeSequence_CodeMeaning=_PROJECTIONS.get(image.view),
            PatientOrientationCodeSequence_CodeMeaning="Erect",
        )
        files.add(layout.SPLIT, dicom_id=image.dicom_id, **keys, split="train")
        files.films[f"{folder}/{image.dicom_id}.jpg"] = films.draw_film(image.view, study.strength, random)


def _clock(patient: Patient, seconds: int) -> str:
    return str(patient.moment(seconds)).replace("T", " ")


def dictionary_rows() -> dict[str, list[dict]]:
    """Return the rows of the three dictionaries."""
    codes = [
        {"icd_code": row["code"], "icd_version": int(row["version"]), "long_title": row["title"]}
        for row in tables.rows("codes")
    ]
    return {
        layout.DIAGNOSIS_NAMES: sorted(codes, key=lambda row: (row["icd_code"], row["icd_version"])),
        layout.LABORATORY_NAMES: list(tables.rows("laboratory_items")),
        layout.CHART_NAMES: [{name: value or None for name, value in row.items()} for row in tables.rows("items")],
    }
