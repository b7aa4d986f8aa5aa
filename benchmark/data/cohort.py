"""Which ICU stays are studied, and the facts about each that the label rules need."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import polars as pl

from benchmark.data.diagnoses import read_diagnoses
from benchmark.data.discretiser import TOLERANCE
from benchmark.data.raw import RawMimic, collect
from benchmark.data.rules import Rules
from benchmark.tasks import rea

GRACE = pd.Timedelta(hours=6)
"""A death up to this long after ICU discharge happened in the unit: discharge is often stamped before the death."""

ADULT = 18

UNITS = ["first_careunit", "last_careunit"]
"""Columns of the units of a stay."""


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
            los_hours, age, gender, race, died_in_hospital, died_in_icu, death_hour (hours from ICU admission to the
            moment of death, NaN where none is known), ward_death, readmitted, late_death, dropped (see
            `benchmark.tasks.rea`).
        admissions: all admissions, cohort or not: subject_id, hadm_id, admittime, dischtime, start (from when on a film
            or note belongs to it), row (in the file).
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


def build_cohort(raw: RawMimic, rules: Rules = Rules()) -> Cohort:
    """Select stays: care units known and the same, one stay an admission, adults, length of stay known and above zero.

    Deaths and returns are worked out before the age filter, on the stays that remain by then: a return is the patient's
    next admission with such a stay.
    """
    stays, admissions, patients = _tables(raw)
    counted = stays
    selection = _Selection(stays)
    stays = selection.apply(stays.dropna(subset=UNITS), "care units known", "blank first or last care unit")
    same_unit = stays[stays.first_careunit == stays.last_careunit]
    stays = selection.apply(same_unit, "no change of unit", "first and last care unit differ")
    joined = stays.merge(admissions, on=["subject_id", "hadm_id"]).merge(patients, on="subject_id")
    stays = selection.apply(joined, "known admission and patient", "no row in admissions or patients")
    counted = stays if rules.count_stays == "after_transfers" else counted
    repeated = counted.hadm_id[counted.duplicated("hadm_id")]
    reason = "admission has several remaining stays" if counted is stays else "admission has several stays"
    stays = selection.apply(stays[~stays.hadm_id.isin(repeated)], "one stay an admission", reason)
    stays = _outcomes(stays.reset_index(drop=True), admissions, rules)
    stays["age"] = _age(stays, rules)
    stays = selection.apply(stays[stays.age >= ADULT], "adults", f"younger than {ADULT}")
    stays = selection.apply(stays[stays.los_hours.notna()], "length of stay known", "blank los")
    positive = stays[(stays.los_hours > TOLERANCE) & (stays.outtime > stays.intime)]
    reason = "los is zero or negative, or outtime is blank or not after intime"
    stays = selection.apply(positive, "length of stay above zero", reason)
    if rules.diagnoses == "joined_with_dictionary":
        coded = stays[stays.hadm_id.isin(read_diagnoses(raw, stays, admissions, rules)[0].hadm_id)]
        stays = selection.apply(coded, "known diagnosis", "no diagnosis whose code is in d_icd_diagnoses")
    stays = stays.sort_values("stay_id", ignore_index=True)
    admissions["start"] = admissions.admittime
    if rules.admission_start == "edregtime":
        admissions["start"] = admissions[["edregtime", "admittime"]].min(axis=1)
    columns = ["subject_id", "hadm_id", "admittime", "dischtime", "start", "row"]
    return Cohort(stays, admissions[columns].sort_values("hadm_id", ignore_index=True), tuple(selection.steps))


def _tables(raw: RawMimic) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    frame = raw.scan("icu/icustays", ["subject_id", "hadm_id", "stay_id", *UNITS, "intime", "outtime", "los"])
    named = pl.col(UNITS).str.strip_chars()
    frame = frame.with_columns(pl.when(named != "").then(named).name.keep())
    stays = collect(frame, "icu/icustays").to_pandas()
    stays["los_hours"] = stays.pop("los") * 24.0
    columns = ["subject_id", "hadm_id", "admittime", "dischtime", "deathtime", "hospital_expire_flag"]
    frame = raw.scan("hosp/admissions", columns, optional=["race", "edregtime"]).with_row_index("row")
    admissions = collect(frame, "hosp/admissions").to_pandas()
    columns = ["subject_id", "gender", "anchor_age", "anchor_year", "dod"]
    patients = collect(raw.scan("hosp/patients", columns), "hosp/patients").to_pandas()
    return stays, admissions, patients


def _age(stays: pd.DataFrame, rules: Rules) -> pd.Series:
    if rules.age == "at_admission":
        return stays.anchor_age + stays.intime.dt.year - stays.anchor_year
    # The published pipeline keeps a rule for negative ages from data in which the oldest had such.
    return stays.anchor_age.mask(stays.anchor_age < 0, 90)


def _outcomes(stays: pd.DataFrame, admissions: pd.DataFrame, rules: Rules) -> pd.DataFrame:
    """Adds the death flags, the hour of death and the components of the readmission label."""
    # Of two admissions that begin at the same moment the published order is that of the file.
    ties = [] if rules.readmission == "published" else ["stay_id"]
    stays = stays.sort_values(["subject_id", "admittime", *ties], ignore_index=True)
    stays = stays.join(_recorded_deaths(stays) if rules.death == "recorded" else _timed_deaths(stays))
    if rules.readmission == "any_admission":
        stays["next_admittime"] = _next_admission(stays, admissions)
    else:
        stays["next_admittime"] = stays.groupby("subject_id").admittime.shift(-1)
    return stays.join(rea.components(stays, rules))


def _recorded_deaths(stays: pd.DataFrame) -> pd.DataFrame:
    """Death flags by the record. The date of death is known by day only; it is never compared with hours."""
    deaths = stays[[]].copy()
    deaths["died_in_hospital"] = (stays.hospital_expire_flag == 1) | stays.deathtime.notna()
    moment = stays.deathtime.fillna(stays.dischtime).where(deaths.died_in_hospital)
    deaths["died_in_icu"] = deaths.died_in_hospital & (moment <= stays.outtime + GRACE)
    return deaths.assign(death_hour=_hours(moment - stays.intime))


def _timed_deaths(stays: pd.DataFrame) -> pd.DataFrame:
    """Death flags of the published pipeline: the day of death counts as its first moment."""
    deaths = stays[[]].copy()
    deaths["died_in_hospital"] = stays.deathtime.between(stays.admittime, stays.dischtime)
    in_stay = [moment.between(stays.intime, stays.outtime) for moment in (stays.dod, stays.deathtime)]
    deaths["died_in_icu"] = in_stay[0] | in_stay[1]
    return deaths.assign(death_hour=_hours(stays.deathtime - stays.intime))


def _hours(duration: pd.Series) -> pd.Series:
    return duration.dt.total_seconds() / 3600


def _next_admission(stays: pd.DataFrame, admissions: pd.DataFrame) -> np.ndarray:
    """Begin of the patient's first admission of any kind after the discharge of each stay's admission."""
    left = stays[["subject_id", "dischtime"]].assign(place=np.arange(len(stays)))
    left = left[left.dischtime.notna()].sort_values("dischtime")
    right = admissions[["subject_id", "admittime"]].dropna().sort_values("admittime")
    found = pd.merge_asof(
        left,
        right,
        left_on="dischtime",
        right_on="admittime",
        by="subject_id",
        direction="forward",
        allow_exact_matches=False,
    )
    return found.set_index("place").admittime.reindex(np.arange(len(stays))).to_numpy()
