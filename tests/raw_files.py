"""A hospital in a few lines: writes raw files in MIMIC's layout for tests."""

from __future__ import annotations

import csv
import gzip
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from PIL import Image

from benchmark.data.split import split_of
from benchmark.tasks.dia import FINDINGS

START = datetime(2150, 3, 1, 10, 0, 0)

COLUMNS = {
    "hosp/patients": ["subject_id", "gender", "anchor_age", "anchor_year", "anchor_year_group", "dod"],
    "hosp/admissions": [
        "subject_id", "hadm_id", "admittime", "dischtime", "deathtime", "admission_type", "race", "edregtime",
        "hospital_expire_flag",
    ],
    "hosp/diagnoses_icd": ["subject_id", "hadm_id", "seq_num", "icd_code", "icd_version"],
    "hosp/d_icd_diagnoses": ["icd_code", "icd_version", "long_title"],
    "hosp/drgcodes": ["subject_id", "hadm_id", "drg_type", "drg_code", "description"],
    "hosp/labevents": [
        "labevent_id", "subject_id", "hadm_id", "specimen_id", "itemid", "charttime", "storetime", "value", "valuenum",
        "valueuom",
    ],
    "icu/icustays": [
        "subject_id", "hadm_id", "stay_id", "first_careunit", "last_careunit", "intime", "outtime", "los",
    ],
    "icu/chartevents": [
        "subject_id", "hadm_id", "stay_id", "caregiver_id", "charttime", "storetime", "itemid", "value", "valuenum",
        "valueuom", "warning",
    ],
    "mimic-cxr-2.0.0-metadata": ["dicom_id", "subject_id", "study_id", "ViewPosition", "StudyDate", "StudyTime"],
    "mimic-cxr-2.0.0-chexpert": ["subject_id", "study_id", *FINDINGS],
    "note/discharge": ["note_id", "subject_id", "hadm_id", "note_type", "note_seq", "charttime", "storetime", "text"],
}  # fmt: skip

HEART_RATE = 220045


def subjects_in(split: str, count: int) -> list[int]:
    """The first patient numbers of a partition."""
    found = (subject for subject in range(10_000_001, 10_001_000) if split_of(subject) == split)
    return [next(found) for _ in range(count)]


def hours(value: float) -> timedelta:
    return timedelta(hours=value)


@dataclass
class Hospital:
    """Collects rows; `write` makes the folders. Times are hours after `START` unless they are datetimes."""

    rows: dict[str, list[dict[str, Any]]] = field(default_factory=lambda: defaultdict(list))

    def add(self, table: str, **row: Any) -> None:
        self.rows[table].append(row)

    def patient(self, subject: int, age: int = 60, year: int = START.year, dod: datetime | None = None) -> None:
        day = dod and dod.strftime("%Y-%m-%d")
        self.add("hosp/patients", subject_id=subject, gender="F", anchor_age=age, anchor_year=year, dod=day)

    def admission(
        self,
        subject: int,
        hadm: int,
        start: float = 0.0,
        end: float = 240.0,
        death: float | None = None,
        expired: int | None = None,
    ) -> None:
        self.add(
            "hosp/admissions", subject_id=subject, hadm_id=hadm, admittime=START + hours(start),
            dischtime=START + hours(end), deathtime=None if death is None else START + hours(death),
            hospital_expire_flag=int(death is not None) if expired is None else expired,
        )  # fmt: skip

    def stay(
        self,
        subject: int,
        hadm: int,
        stay: int,
        start: float = 1.0,
        length: float | None = 72.0,
        units: tuple[str, str] = ("MICU", "MICU"),
        beats: tuple[float, ...] = (0.5,),
    ) -> None:
        """An ICU stay with heart rates at the given hours."""
        begin = START + hours(start)
        self.add(
            "icu/icustays", subject_id=subject, hadm_id=hadm, stay_id=stay, first_careunit=units[0],
            last_careunit=units[1], intime=begin, outtime=None if length is None else begin + hours(length),
            los=None if length is None else repr(length / 24),
        )  # fmt: skip
        for index, hour in enumerate(beats):
            self.add(
                "icu/chartevents", subject_id=subject, hadm_id=hadm, stay_id=stay, charttime=begin + hours(hour),
                itemid=HEART_RATE, value=80 + index, valuenum=80 + index, valueuom="bpm",
            )  # fmt: skip

    def diagnosis(self, subject: int, hadm: int, code: str, version: int) -> None:
        self.add("hosp/diagnoses_icd", subject_id=subject, hadm_id=hadm, seq_num=1, icd_code=code, icd_version=version)

    def lab(self, subject: int, hadm: int, item: int, at: float, value: str) -> None:
        number, moment = len(self.rows["hosp/labevents"]), START + hours(at)
        self.add(
            "hosp/labevents", labevent_id=number, subject_id=subject, hadm_id=hadm, specimen_id=number, itemid=item,
            charttime=moment, storetime=moment, value=value, valuenum=value,
        )  # fmt: skip

    def film(self, subject: int, study: int, dicom: str, at: float, view: str = "AP") -> None:
        moment = START + hours(at)
        self.add(
            "mimic-cxr-2.0.0-metadata", dicom_id=dicom, subject_id=subject, study_id=study, ViewPosition=view,
            StudyDate=moment.strftime("%Y%m%d"), StudyTime=repr(float(moment.strftime("%H%M%S.%f"))),
        )  # fmt: skip

    def findings(self, subject: int, study: int, **values: float) -> None:
        named = {name.replace("_", " "): value for name, value in values.items()}
        self.add("mimic-cxr-2.0.0-chexpert", subject_id=subject, study_id=study, **named)

    def note(self, subject: int, hadm: int, text: str, seq: int = 1, kind: str = "DS") -> None:
        self.add(
            "note/discharge", note_id=f"{subject}-{kind}-{seq}", subject_id=subject, hadm_id=hadm, note_type=kind,
            note_seq=seq, charttime=START + hours(240 + seq), text=text,
        )  # fmt: skip

    def write(self, root: Path, compress: bool = True) -> dict[str, Path]:
        """Write every table with all its columns; arguments of `prepare` by name."""
        folders = {"hosp": "mimic-iv", "icu": "mimic-iv", "note": "mimic-note"}
        for table, columns in COLUMNS.items():
            folder = root / folders.get(table.split("/")[0], "mimic-cxr")
            path = folder / f"{table}.csv{'.gz' if compress else ''}"
            path.parent.mkdir(parents=True, exist_ok=True)
            with (gzip.open if compress else open)(path, "wt", newline="") as stream:
                writer = csv.DictWriter(stream, columns, restval="")
                writer.writeheader()
                writer.writerows(self.rows[table])
        for row in self.rows["mimic-cxr-2.0.0-metadata"]:
            subject, study = str(row["subject_id"]), row["study_id"]
            path = root / "mimic-cxr" / "files" / f"p{subject[:2]}" / f"p{subject}" / f"s{study}"
            path.mkdir(parents=True, exist_ok=True)
            Image.new("L", (320, 300), sum(map(ord, row["dicom_id"])) % 256).save(path / f"{row['dicom_id']}.jpg")
        return {name: root / name.replace("_", "-") for name in ("mimic_iv", "mimic_cxr", "mimic_note")}


def small_hospital(trained: int = 4) -> Hospital:
    """Patients of all partitions, all modalities."""
    raw = Hospital()
    for index, subject in enumerate([*subjects_in("train", trained), *subjects_in("val", 1), *subjects_in("test", 1)]):
        hadm, stay = 20_000_000 + index, 30_000_000 + index
        raw.patient(subject)
        raw.admission(subject, hadm)
        raw.stay(subject, hadm, stay, beats=tuple(range(1, 60, 5)))
        raw.diagnosis(subject, hadm, "I10", 10)
        raw.film(subject, 50_000_000 + index, f"film{index}", 20.0)
        raw.findings(subject, 50_000_000 + index, Edema=1.0)
        raw.note(subject, hadm, f"Past Medical History:\nhistory {index}\nSocial History:\n___\n")
        raw.add("hosp/drgcodes", subject_id=subject, hadm_id=hadm, drg_type="HCFA", drg_code="64")
        raw.lab(subject, hadm, 50931, 30.0, "90")
    return raw
