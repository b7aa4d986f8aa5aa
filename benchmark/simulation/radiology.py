"""Chest examinations: when they are made, what is on them, and what the report's labels say.

Films inside an ICU stay come from a Poisson process whose rate depends on the latents and the time alone, so that the presence of a
film tells nothing about the outcome beyond them; each film may be followed by another. Further films are made on the wards and,
outside any admission, in the emergency department.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from benchmark.simulation import tables
from benchmark.simulation.missing import MissingRates
from benchmark.simulation.people import DAY, HOUR, Admission, Patient, draw_factors
from benchmark.simulation.streams import SLOTS, dicom_identifier, identifier, stream

_FIRST_HOURS, _RATE, _SEVERITY, _FOLLOWED = 0.35, 0.0105, 0.35, 0.45
_SERIES_FILMS, _EARLY_FILMS, _ADMISSIONS = 1.35, 0.22, 1.53
"""Films per patient, in units of -log(missing image rate): after hour 4 of a stay and before; admissions per patient."""
_STUDY_NOISE, _SHARPNESS, _FRONTAL_SHARE = 0.6, 3.5, 0.8
_POSITIVE, _NEGATIVE, _UNCERTAIN, _SILENT = 1.0, 0.0, -1.0, np.nan


@dataclass(frozen=True)
class Image:
    """One film: id and projection ("AP", "PA", "LATERAL" or "" where it was not recorded)."""

    dicom_id: str
    view: str


@dataclass(frozen=True)
class Study:
    """One examination.

    Attributes:
        study_id: its id. time: seconds. strength: (14,) how marked each finding is; 0 is the point of even odds.
        labels: (14,) 1, 0, -1 or NaN. images: its films.
    """

    study_id: int
    time: int
    strength: np.ndarray
    labels: np.ndarray
    images: tuple[Image, ...]


def finding_chance(strength: np.ndarray) -> np.ndarray:
    """Return P(label is 1 | label is 0 or 1) of each finding."""
    present = 1 / (1 + np.exp(-_SHARPNESS * strength))
    positive = present * tables.column("findings", "positive")
    negative = (1 - present) * tables.column("findings", "negative")
    return positive / (positive + negative)


def draw_studies(patient: Patient, seed: int, missing: MissingRates) -> list[Study]:
    """Draw all examinations of a patient in time order."""
    random = stream(seed, "radiology", patient.number)
    moments: list[tuple[int, np.ndarray, bool]] = []
    expected = -np.log(max(missing.image, 0.005))
    total = _SERIES_FILMS * expected / (1 - missing.film_series)
    outside = total * (1 - (1 - missing.film_note) / (1 - missing.note))
    ward = max(0.0, total - outside - (_SERIES_FILMS + _EARLY_FILMS) * expected) / _ADMISSIONS
    for admission in patient.admissions:
        for stay in admission.stays:
            moments += [(time, _at(admission.latent, stay.course.severity((time - stay.intime) / HOUR)), True) for time in _unit_times(admission, stay, expected, random)]
        moments += [(time, admission.latent, frontal) for time, frontal in _ward_times(admission, ward, random)]
    first = patient.admissions[0].admitted if patient.admissions else 300 * DAY
    for _ in range(random.poisson(outside / _FRONTAL_SHARE)):
        latent = patient.latent(draw_factors(patient, random, -0.2), patient.age(first), *random.normal(-0.2, 0.8, 2))
        moments.append((first - int(random.uniform(0.5, 400) * DAY), latent, bool(random.random() < _FRONTAL_SHARE)))
    moments.sort(key=lambda moment: moment[0])
    return [_study(patient, slot, *moment, random) for slot, moment in enumerate(moments[:SLOTS])]


def _unit_times(admission: Admission, stay, expected: float, random: np.random.Generator) -> list[int]:
    """Draw the film times of a stay."""
    level = np.exp(_SEVERITY * np.clip((stay.course.early + stay.course.settled) / 2, -2, 2))
    length = (stay.outtime - stay.intime) / HOUR
    times = list(random.uniform(0.1, 3.0, random.poisson(_FIRST_HOURS * expected * level)))
    times += list(random.uniform(0, length, random.poisson(_RATE * expected * level * length)))
    for time in list(times):
        while random.random() < _FOLLOWED:
            time += random.uniform(8, 30)
            times.append(time)
    return [stay.intime + int(time * HOUR) for time in times if time < length]


def _ward_times(admission: Admission, mean: float, random: np.random.Generator) -> list[tuple[int, bool]]:
    """Draw film times of an admission outside its stays, and whether a frontal film is among the images."""
    count = random.poisson(mean / _FRONTAL_SHARE)
    times = random.integers(admission.admitted, admission.discharged, count)
    inside = np.any([(times >= stay.intime) & (times <= stay.outtime) for stay in admission.stays] or [np.zeros(count, bool)], axis=0)
    # One that would fall into a stay is taken while the patient was still waiting for a bed.
    early = random.integers(admission.admitted, admission.stays[0].intime, count) if admission.stays else times
    times = np.where(inside, early, times)
    return [(int(time), bool(random.random() < _FRONTAL_SHARE)) for time in times]


def _at(latent: np.ndarray, severity: float) -> np.ndarray:
    latent = latent.copy()
    latent[[tables.features().index(name) for name in tables.COURSE]] = severity
    return latent


def _study(patient: Patient, slot: int, time: int, latent: np.ndarray, frontal: bool, random: np.random.Generator) -> Study:
    forms = tables.linear("findings")
    threshold = tables.column("findings", "threshold")
    strength = forms(latent) + _STUDY_NOISE * random.standard_normal(len(threshold)) - threshold
    study_id = identifier("study", patient.number, slot)
    views = _views(frontal, random)
    images = tuple(Image(dicom_identifier(study_id, number), view) for number, view in enumerate(views))
    return Study(study_id, time, strength, _labels(strength, random), images)


def _views(frontal: bool, random: np.random.Generator) -> list[str]:
    chance = random.random()
    if not frontal:
        return ["PA", "LATERAL"] if chance < 0.8 else [""]
    if chance < 0.86:
        return ["AP"]
    return ["AP", "AP"] if chance < 0.93 else ["AP", "LATERAL"]


def _labels(strength: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Draw presence and what the report says about it. "No Finding" is 1 or not mentioned, never 0."""
    present = random.random(len(strength)) < 1 / (1 + np.exp(-_SHARPNESS * strength))
    said = random.random(len(strength))
    column = {name: tables.column("findings", name) for name in ("positive", "negative", "uncertain_present", "uncertain_absent")}
    labels = np.full(len(strength), _SILENT)
    sure = np.where(present, column["positive"], column["negative"])
    unsure = sure + np.where(present, column["uncertain_present"], column["uncertain_absent"])
    labels[said < unsure] = _UNCERTAIN
    labels[said < sure] = np.where(present, _POSITIVE, _NEGATIVE)[said < sure]
    names = tables.linear("findings").names
    none, devices = names.index("No Finding"), names.index("Support Devices")
    others = np.delete(labels, [none, devices])
    labels[none] = _SILENT if np.any(np.abs(others) == 1) else _POSITIVE
    return labels
