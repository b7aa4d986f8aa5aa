"""Turns one simulated patient into the rows of every raw file."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from benchmark.simulation import diagnoses, films, notes, tables, truth
from benchmark.simulation.labs import Laboratory
from benchmark.simulation.layout import MIMIC_CXR, MIMIC_IV, MIMIC_NOTE
from benchmark.simulation.missing import MissingRates
from benchmark.simulation.people import DAY, HOUR, Admission, Patient, draw_patient
from benchmark.simulation.radiology import Image, Study, draw_studies
from benchmark.simulation.signals import Signals
from benchmark.simulation.streams import EVENT_SLOTS, stream
from benchmark.simulation.vitals import Chart, chart_stay, outputs

_YEAR_GROUPS = (2008, 2011, 2014, 2017, 2020)
_RACES = ("WHITE", "BLACK/AFRICAN AMERICAN", "UNKNOWN", "HISPANIC/LATINO - PUERTO RICAN", "ASIAN", "OTHER")
_RACE_SHARES = np.cumsum([0.67, 0.11, 0.1, 0.04, 0.03])
_BLANK_DEATHTIME = 0.01


@dataclass
class PatientFiles:
    """Everything of one patient.

    Attributes:
        rows: table -> row tuples, in the column order of ``layout``. events: table -> columns of an event table.
        truth: rows of truth.parquet. films: relative path -> JPEG.
    """

    rows: dict[str, list[tuple]] = field(default_factory=lambda: defaultdict(list))
    events: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)
    truth: pa.Table | None = None
    films: dict[str, bytes] = field(default_factory=dict)


def build_patient(seed: int, number: int, missing: MissingRates) -> PatientFiles:
    """Draw patient ``number`` and all that is recorded about it."""
    patient, files = draw_patient(seed, number), PatientFiles()
    person, codes, text = (stream(seed, purpose, number) for purpose in ("registration", "diagnoses", "notes"))
    _registration(patient, files, person)
    problems = []
    for admission in patient.admissions:
        problem = diagnoses.draw_problem(admission.latent, codes)
        problems.append(problem)
        _admission(patient, admission, files, person)
        _coding(patient, admission, problem, files, codes)
        _note(patient, admission, problem, missing, files, text)
    _events(patient, files, stream(seed, "events", number))
    studies = draw_studies(patient, seed, missing)
    for study in studies:
        _study(patient, study, files, stream(seed, f"film {study.study_id}", number))
    files.truth = truth.patient_truth(patient, problems, studies)
    return files


def _registration(patient: Patient, files: PatientFiles, random: np.random.Generator) -> None:
    begin = max(year for year in _YEAR_GROUPS if year <= patient.real_year)
    dod = None if patient.death is None else str(patient.moment(patient.death).astype("datetime64[D]"))
    row = (patient.subject_id, "M" if patient.male else "F", patient.anchor_age, patient.anchor_year, f"{begin} - {begin + 2}", dod)
    files.rows[f"{MIMIC_IV}/hosp/patients"].append(row)


def _admission(patient: Patient, admission: Admission, files: PatientFiles, random: np.random.Generator) -> None:
    """Rows of ``admissions`` and ``icustays``."""
    chance = random.random(6)
    emergency = chance[0] < 0.7
    race = _RACES[int(np.searchsorted(_RACE_SHARES, stream(0, "race", patient.number).random()))]
    place = "DIED" if admission.died else ("HOME", "SKILLED NURSING FACILITY", "HOME HEALTH CARE", "REHAB")[int(4 * chance[1])]
    death = None if not admission.died or chance[2] < _BLANK_DEATHTIME else _text(patient, admission.discharged)
    arrived = admission.admitted - int(chance[3] * 6 * HOUR) - 600
    files.rows[f"{MIMIC_IV}/hosp/admissions"].append(
        (
            patient.subject_id, admission.hadm_id, _text(patient, admission.admitted), _text(patient, admission.discharged), death,
            "EW EMER." if emergency else ("URGENT" if chance[4] < 0.6 else "ELECTIVE"), f"P{int(chance[4] * 1000):03d}AB",
            "EMERGENCY ROOM" if emergency else "TRANSFER FROM HOSPITAL", place, "Medicare" if admission.age >= 65 else "Other",
            "ENGLISH" if chance[5] < 0.9 else "?", ("MARRIED", "SINGLE", "WIDOWED", "DIVORCED")[int(4 * chance[3])], race,
            _text(patient, arrived) if emergency else None, _text(patient, admission.admitted + 1800) if emergency else None, int(admission.died),
        )
    )  # fmt: skip
    for stay in admission.stays:
        known = stay.outtime_known
        files.rows[f"{MIMIC_IV}/icu/icustays"].append(
            (
                patient.subject_id, admission.hadm_id, stay.stay_id, *stay.units, _text(patient, stay.intime),
                _text(patient, stay.outtime) if known else None, (stay.outtime - stay.intime) / DAY if known else None,
            )
        )  # fmt: skip


def _coding(patient: Patient, admission: Admission, problem: int, files: PatientFiles, random: np.random.Generator) -> None:
    keys = (patient.subject_id, admission.hadm_id)
    codes = diagnoses.draw_codes(patient, admission, random)
    files.rows[f"{MIMIC_IV}/hosp/diagnoses_icd"] += [(*keys, number, *code) for number, code in enumerate(codes, 1)]
    files.rows[f"{MIMIC_IV}/hosp/drgcodes"] += [(*keys, *group) for group in diagnoses.draw_groups(admission, problem, random)]


def _note(
    patient: Patient, admission: Admission, problem: int, missing: MissingRates, files: PatientFiles, random: np.random.Generator
) -> None:
    text = notes.draw_summary(patient, admission, problem, missing, random)
    if text is None:
        return
    sequence = admission.slot + 2
    day = _text(patient, admission.discharged)[:10]
    store = _text(patient, admission.discharged + DAY)
    row = (f"{patient.subject_id}-DS-{sequence}", patient.subject_id, admission.hadm_id, "DS", sequence, f"{day} 00:00:00", store, text)
    files.rows[f"{MIMIC_NOTE}/note/discharge"].append(row)


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
    for table, parts in ((f"{MIMIC_IV}/icu/chartevents", charts), (f"{MIMIC_IV}/icu/outputevents", output)):
        if parts:
            files.events[table] = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    drawn = laboratory.rows.arrays()
    if drawn:
        ordered = _by_time(patient, drawn)
        ordered["labevent_id"] = patient.number * EVENT_SLOTS + np.arange(len(ordered["time"])) + 1
        files.events[f"{MIMIC_IV}/hosp/labevents"] = ordered


def _by_time(patient: Patient, columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Sort rows by time, then item, and turn seconds of the patient into absolute ones."""
    order = np.lexsort((columns["itemid"], columns["time"]))
    origin = patient.moment(0).astype("datetime64[s]").astype(np.int64)
    result = {name: values[order] for name, values in columns.items()}
    return result | {name: result[name] + origin for name in ("time", "store")}


def _study(patient: Patient, study: Study, files: PatientFiles, random: np.random.Generator) -> None:
    """Metadata, labels and films of an examination."""
    moment = _text(patient, study.time)
    day, clock = int(moment[:10].replace("-", "")), int(moment[11:].replace(":", "")) + int(random.integers(1000)) / 1000
    labels = tuple(None if np.isnan(label) else float(label) for label in study.labels)
    files.rows[f"{MIMIC_CXR}/mimic-cxr-2.0.0-chexpert"].append((patient.subject_id, study.study_id, *labels))
    for image in study.images:
        files.rows[f"{MIMIC_CXR}/mimic-cxr-2.0.0-metadata"].append(
            (
                image.dicom_id, patient.subject_id, study.study_id, "CHEST (PORTABLE AP)" if image.view == "AP" else "CHEST (PA AND LAT)",
                image.view or None, films.HEIGHT, films.WIDTH, day, clock,
                "CHEST (PORTABLE AP)" if image.view == "AP" else "CHEST (PA AND LAT)", _projection(image), "Erect",
            )
        )  # fmt: skip
        files.rows[f"{MIMIC_CXR}/mimic-cxr-2.0.0-split"].append((image.dicom_id, study.study_id, patient.subject_id, "train"))
        name = f"{MIMIC_CXR}/files/p{str(patient.subject_id)[:2]}/p{patient.subject_id}/s{study.study_id}/{image.dicom_id}.jpg"
        files.films[name] = films.draw_film(image.view, study.strength, random)


def _projection(image: Image) -> str | None:
    return {"AP": "antero-posterior", "PA": "postero-anterior", "LATERAL": "lateral"}.get(image.view)


def _text(patient: Patient, seconds: int) -> str:
    return str(patient.moment(seconds)).replace("T", " ")


def dictionary_rows() -> dict[str, list[tuple]]:
    """Return the rows of the three dictionaries."""
    names = ("itemid", "label", "abbreviation", "linksto", "category", "unitname", "param_type")
    return {
        f"{MIMIC_IV}/hosp/d_icd_diagnoses": sorted((row["code"], int(row["version"]), row["title"]) for row in tables.rows("codes")),
        f"{MIMIC_IV}/hosp/d_labitems": [(int(row["itemid"]), row["label"], row["fluid"], row["category"]) for row in tables.rows("laboratory_items")],
        f"{MIMIC_IV}/icu/d_items": sorted((int(row["itemid"]), *(row[name] or None for name in names[1:]), None, None) for row in tables.rows("items")),
    }
