"""Which ICU stays are studied, and the facts about each that the label rules need."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd
import polars as pl

from benchmark.data.discretiser import TOLERANCE
from benchmark.data.raw import RawMimic, collect
from benchmark.tasks import rea

GRACE = pd.Timedelta(hours=6)
"""A death up to this long after ICU discharge happened in the unit: discharge is often stamped before the death."""

ADULT = 18


@dataclass(frozen=True)
class Step:
    """One step of the selection: how many stays it kept and dropped, and why it drops any."""

    name: str
    reason: str
    kept: int
    dropped: int


@dataclass(frozen=True)
class Cohort:
    """The chosen stays.

    Attributes:
        stays: one row a stay, sorted by stay_id: subject_id, hadm_id, stay_id, intime, outtime, admittime, dischtime,
            los_hours, age, gender, race, died_in_hospital, died_in_icu, death_hour (hours from ICU admission, NaN for
            survivors), ward_death, readmitted, late_death, dropped (see `benchmark.tasks.rea`).
        admissions: all admissions, cohort or not: subject_id, hadm_id, admittime, dischtime.
        steps: the selection, in order.
    """

    stays: pd.DataFrame
    admissions: pd.DataFrame
    steps: tuple[Step, ...]


class _Selection:
    """Applies filters one after the other and keeps the count of each."""

    def __init__(self, stays: pd.DataFrame) -> None:
        self.stays = stays
        self.steps = [Step("ICU stays", "", len(stays), 0)]

    def apply(self, kept: pd.DataFrame, name: str, reason: str) -> pd.DataFrame:
        self.steps.append(Step(name, reason, len(kept), len(self.stays) - len(kept)))
        self.stays = kept
        return kept


def build_cohort(raw: RawMimic) -> Cohort:
    """Select stays: no change of unit, one stay an admission, adults, length of stay known and above zero.

    Deaths and returns are worked out before the age filter, on the stays that remain by then: a return is the patient's
    next admission with such a stay.
    """
    stays, admissions, patients = _tables(raw)
    selection = _Selection(stays)
    same_unit = stays[stays.first_careunit == stays.last_careunit]
    stays = selection.apply(same_unit, "no change of unit", "first and last care unit differ")
    joined = stays.merge(admissions, on=["subject_id", "hadm_id"]).merge(patients, on="subject_id")
    stays = selection.apply(joined, "known admission and patient", "no row in admissions or patients")
    single = stays[~stays.duplicated("hadm_id", keep=False)]
    stays = selection.apply(single, "one stay an admission", "admission has several remaining stays")
    stays = _outcomes(stays.reset_index(drop=True))
    stays["age"] = stays.anchor_age + stays.intime.dt.year - stays.anchor_year
    stays = selection.apply(stays[stays.age >= ADULT], "adults", f"younger than {ADULT}")
    stays = selection.apply(stays[stays.los_hours.notna()], "length of stay known", "blank los")
    positive = stays[stays.los_hours > TOLERANCE]
    stays = selection.apply(positive, "length of stay above zero", "los is zero or negative")
    stays = stays.sort_values("stay_id", ignore_index=True)
    columns = ["subject_id", "hadm_id", "admittime", "dischtime"]
    return Cohort(stays, admissions[columns].sort_values("hadm_id", ignore_index=True), tuple(selection.steps))


def _tables(raw: RawMimic) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    columns = ["subject_id", "hadm_id", "stay_id", "first_careunit", "last_careunit", "intime", "outtime", "los"]
    stays = collect(raw.scan("icu/icustays", columns), "icu/icustays").to_pandas()
    stays["los_hours"] = stays.pop("los") * 24.0
    columns = ["subject_id", "hadm_id", "admittime", "dischtime", "deathtime", "hospital_expire_flag"]
    frame = raw.scan("hosp/admissions", columns, optional=["race"])
    admissions = collect(frame, "hosp/admissions").to_pandas()
    columns = ["subject_id", "gender", "anchor_age", "anchor_year", "dod"]
    patients = collect(raw.scan("hosp/patients", columns), "hosp/patients").to_pandas()
    return stays, admissions, patients


def _outcomes(stays: pd.DataFrame) -> pd.DataFrame:
    """Adds the death flags and the components of the readmission label.

    The date of death is known by day only; it is never compared with hours.
    """
    stays = stays.sort_values(["subject_id", "admittime", "stay_id"], ignore_index=True)
    stays["died_in_hospital"] = (stays.hospital_expire_flag == 1) | stays.deathtime.notna()
    death = stays.deathtime.fillna(stays.dischtime).where(stays.died_in_hospital)
    stays["died_in_icu"] = stays.died_in_hospital & (death <= stays.outtime + GRACE)
    stays["death_hour"] = (death - stays.intime).dt.total_seconds() / 3600
    stays["next_admittime"] = stays.groupby("subject_id").admittime.shift(-1)
    return stays.join(rea.components(stays))


def read_diagnoses(raw: RawMimic, hadm_ids: pd.Series) -> pd.DataFrame:
    """Coded diagnoses of some admissions: hadm_id, icd_code (stripped), icd_version; duplicates removed."""
    frame = raw.scan("hosp/diagnoses_icd", ["hadm_id", "icd_code", "icd_version"])
    wanted = pl.Series(sorted(set(hadm_ids)), dtype=pl.Int64)
    frame = frame.filter(pl.col("hadm_id").is_in(wanted.implode()) & pl.col("icd_code").is_not_null())
    frame = frame.with_columns(pl.col("icd_code").str.strip_chars()).unique()
    return collect(frame.sort("hadm_id", "icd_version", "icd_code"), "hosp/diagnoses_icd").to_pandas()
