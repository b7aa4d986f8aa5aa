"""Patients: who they are, what they have, and how their admissions follow on each other.

All times are whole seconds after the patient's origin, the first minute of ``anchor_year``.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from benchmark.simulation import hazards, tables
from benchmark.simulation.hazards import Course
from benchmark.simulation.streams import identifier, stream

HOUR, DAY = 3600, 86_400
FOLLOW_UP = int(31.5 * DAY)
"""After a stay of the cohort without an unfavourable event nothing that could count as one happens for so long."""

EMERGENCY_ONLY, FIRST_IN_UNIT, ANOTHER = 0.06, 0.74, 0.40
TRANSFER, SECOND_STAY, NO_OUTTIME = 0.06, 0.05, 0.003
NEVER_ANOTHER_AFTER = 8  # admissions, except returns within 30 days

_TRAIT = 0.55
_SEVERITY_NOISE = 0.6


@dataclass
class Stay:
    """One row of ``icustays``.

    Attributes:
        stay_id: its id. intime, outtime: seconds. units: first and last care unit. course: latents of the stay.
        hour: floor of the length of stay in hours. died: in the unit. outtime_known: False blanks outtime and los.
    """

    stay_id: int
    intime: int
    outtime: int
    units: tuple[str, str]
    course: Course
    hour: int
    died: bool
    outtime_known: bool = True


@dataclass
class Admission:
    """One hospital admission and its latents.

    Attributes:
        slot: number within the patient. hadm_id: its id. latent: feature vector (see ``tables.features``).
        admitted, discharged: seconds. died: in hospital. stays: rows of ``icustays``.
        cohort_stay: the stay that the usual cohort rules keep, None if they keep none. outcome: what became of a
            patient of the cohort after the unit: "unit death", "ward death", "return", "decease" or "none".
        age: years at admission.
    """

    slot: int
    hadm_id: int
    latent: np.ndarray
    admitted: int
    discharged: int
    died: bool
    age: int
    stays: list[Stay] = field(default_factory=list)
    cohort_stay: Stay | None = None
    outcome: str = "none"


@dataclass
class Patient:
    """One patient.

    Attributes:
        number: k. subject_id: its id. male: sex. anchor_age, anchor_year, real_year: age and shifted and real year of
            the origin. history: chronic items, 0 or 1. trait: lasting part of the organ factors. admissions: in time
            order. death: seconds of the recorded death, None if alive.
    """

    number: int
    subject_id: int
    male: bool
    anchor_age: int
    anchor_year: int
    real_year: int
    history: np.ndarray
    trait: np.ndarray
    admissions: list[Admission]
    death: int | None = None

    def latent(self, factors: np.ndarray, age: float, early: float, settled: float) -> np.ndarray:
        """Return the feature vector of an admission or examination."""
        return np.concatenate([factors, [_standard_age(age), float(self.male), early, settled], self.history])

    def age(self, seconds: int) -> int:
        """Return the age in years at a moment."""
        return self.anchor_age + int(self.moment(seconds).astype("datetime64[Y]").astype(int) + 1970 - self.anchor_year)

    def moment(self, seconds: int | np.ndarray) -> np.ndarray:
        """Return seconds as datetime64[s]."""
        return np.datetime64(f"{self.anchor_year:04d}-01-01T00:00:00", "s") + np.asarray(seconds).astype(
            "timedelta64[s]"
        )


def draw_patient(seed: int, number: int) -> Patient:
    """Draw patient ``number``: person, history, admissions and outcomes."""
    random = stream(seed, "patient", number)
    age = int(np.clip(np.round(18 + 73 * random.beta(3.0, 1.75)), 18, 91))
    male = bool(random.random() < 0.56)
    trait = random.standard_normal(len(tables.FACTORS))
    patient = Patient(
        number=number,
        subject_id=identifier("subject", number),
        male=male,
        anchor_age=age,
        anchor_year=int(random.integers(2110, 2190)),
        real_year=int(random.integers(2008, 2020)),
        history=np.zeros(len(tables.history_items())),
        trait=trait,
        admissions=[],
    )
    chance = _sigmoid(tables.linear("history")(patient.latent(trait, age, 0.0, 0.0)))
    patient.history = (random.random(len(chance)) < chance).astype(float)
    if random.random() >= EMERGENCY_ONLY:
        _Timeline(patient, random).run()
    return patient


def draw_factors(patient: Patient, random: np.random.Generator, shift: float = 0.0) -> np.ndarray:
    """Draw the organ factors of one illness."""
    fresh = random.standard_normal(len(tables.FACTORS))
    return _TRAIT * patient.trait + np.sqrt(1 - _TRAIT**2) * fresh + shift


class _Timeline:
    """Draws the admissions of one patient one after the other."""

    def __init__(self, patient: Patient, random: np.random.Generator) -> None:
        self.patient, self.random = patient, random
        self.quiet_until = 0
        self.stays = 0

    def run(self) -> None:
        """Fill the patient's admissions and the date of death."""
        random, patient = self.random, self.patient
        start = int(random.uniform(20, 340) * DAY)
        in_unit, returned = bool(random.random() < FIRST_IN_UNIT), False
        while True:
            admission = self._unit_admission(start, returned) if in_unit else self._ward_admission(start)
            patient.admissions.append(admission)
            if admission.died:
                patient.death = admission.discharged
                return
            returned = admission.outcome == "return"
            if returned:
                start, in_unit = admission.discharged + int(random.uniform(0.5, 28) * DAY), True
                continue
            if admission.outcome == "decease":
                patient.death = admission.discharged + int(random.uniform(1.1, 28) * DAY)
                return
            if random.random() >= ANOTHER or len(patient.admissions) >= NEVER_ANOTHER_AFTER:
                break
            gap = int((2 + random.exponential(150)) * DAY)
            start = admission.discharged + gap
            in_unit = bool(random.random() < 0.6) and start >= self.quiet_until
        if random.random() < 0.12:
            start = max(admission.discharged, self.quiet_until)
            patient.death = start + int((5 + random.exponential(200)) * DAY)

    def _latent(self, start: int, shift: float) -> tuple[np.ndarray, Course, int]:
        patient, random = self.patient, self.random
        age = patient.age(start)
        factors = draw_factors(patient, random, shift)
        forms = tables.linear("outcomes")
        base = forms(patient.latent(factors, age, 0.0, 0.0))
        early = float(base[forms.index("early")] + _SEVERITY_NOISE * random.standard_normal())
        settled = float(base[forms.index("settled")] + _SEVERITY_NOISE * random.standard_normal())
        tau = float(np.exp(np.log(60) + 0.9 * random.standard_normal()))
        latent = patient.latent(factors, age, early, settled)
        return latent, Course(early, settled, tau, _standard_age(age), float(base[forms.index("pace")])), age

    def _ward_admission(self, start: int) -> Admission:
        random = self.random
        latent, _, age = self._latent(start, shift=-0.3)
        length = int((0.6 + random.gamma(1.6, 2.6)) * DAY)
        died = bool(random.random() < 0.015) and start >= self.quiet_until
        slot = len(self.patient.admissions)
        identity = identifier("admission", self.patient.number, slot)
        return Admission(slot, identity, latent, start, start + length, died, age)

    def _unit_admission(self, start: int, returned: bool) -> Admission:
        """Draw an admission with an ICU stay; one that follows a return always has exactly one stay, in one unit."""
        random, patient = self.random, self.patient
        latent, course, age = self._latent(start, shift=0.0)
        slot = len(patient.admissions)
        admission = Admission(slot, identifier("admission", patient.number, slot), latent, start, start, False, age)
        messy = random.random()
        transferred = not returned and messy < TRANSFER
        second = not returned and TRANSFER <= messy < TRANSFER + SECOND_STAY
        unit = _care_unit(latent, random)
        intime = start + int(random.exponential(8) * HOUR) + int(random.integers(60, 3600))
        if second:
            # A short first stay. Half of them change the unit: the usual rules drop that stay and keep the second.
            other = _care_unit(latent, random)
            changed = bool(random.random() < 0.5)
            hours = int(random.integers(6, 20))
            before = Stay(
                self._stay_id(),
                intime,
                intime + hours * HOUR + 1234,
                (unit, other if changed else unit),
                course,
                hours,
                False,
            )
            second = not (changed and other != unit)
            admission.stays.append(before)
            intime = before.outtime + int(random.uniform(10, 60) * HOUR)
        hour, died = course.draw(random)
        outtime = intime + hour * HOUR + int(random.integers(60, 3540))
        last = _care_unit(latent, random) if transferred else unit
        known = returned or random.random() >= NO_OUTTIME
        stay = Stay(self._stay_id(), intime, outtime, (unit, last), course, hour, died, known)
        admission.stays.append(stay)
        if last == unit and not second:
            admission.cohort_stay = stay
        self._after_unit(admission, stay)
        return admission

    def _after_unit(self, admission: Admission, stay: Stay) -> None:
        """Draw ward death, return and death after discharge, and set the times that follow from them."""
        random = self.random
        chance = after_discharge(admission.latent)
        ward_death = random.random() < stay.course.ward_death[stay.hour]
        later = random.random()
        if stay.died:
            # Death and the end of the stay share the hour; the stay is often closed a little before or after.
            begin = stay.intime + stay.hour * HOUR
            admission.outcome, admission.died = "unit death", True
            admission.discharged = begin + int(random.integers(30, 3570))
        elif ward_death:
            admission.outcome, admission.died = "ward death", True
            admission.discharged = stay.outtime + hazards.draw_ward_delay(random) * HOUR
        else:
            admission.discharged = stay.outtime + int((0.3 + random.gamma(1.3, 3.2)) * DAY)
            if admission.cohort_stay is None:
                return
            if later < chance[0]:
                admission.outcome = "return"
            elif later < chance[0] + chance[1]:
                admission.outcome = "decease"
            else:
                self.quiet_until = admission.discharged + FOLLOW_UP

    def _stay_id(self) -> int:
        self.stays += 1
        return identifier("stay", self.patient.number, self.stays - 1)


def after_discharge(latent: np.ndarray) -> np.ndarray:
    """Return P(return to the unit within 30 days) and P(death within 30 days without return), given alive discharge
    from hospital."""
    forms = tables.linear("outcomes")
    odds = np.exp(forms(latent)[[forms.index("return"), forms.index("decease")]])
    return odds / (1 + odds.sum())


def _care_unit(latent: np.ndarray, random: np.random.Generator) -> str:
    """Draw a care unit that suits the leading organ factor."""
    weights = np.array(
        [
            0.6 * latent[0],
            0.4 * latent[0] + 0.3 * latent[7],
            0.4 * latent[1],
            0.4 * latent[4],
            0.4 * latent[7],
            0.2,
            0.6 * latent[5],
        ]
    )
    chance = np.exp(weights)
    return CARE_UNITS[int(np.searchsorted(np.cumsum(chance), random.random() * chance.sum()))]


CARE_UNITS = (
    "Coronary Care Unit (CCU)",
    "Cardiac Vascular Intensive Care Unit (CVICU)",
    "Medical Intensive Care Unit (MICU)",
    "Medical/Surgical Intensive Care Unit (MICU/SICU)",
    "Surgical Intensive Care Unit (SICU)",
    "Trauma SICU (TSICU)",
    "Neuro Surgical Intensive Care Unit (Neuro SICU)",
)


def _standard_age(age: float) -> float:
    return (age - 64.0) / 17.0


def _sigmoid(value: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-value))
