"""Chest examinations: when they are made, what is on them, and what the report's labels say.

The first film of an ICU stay comes after a waiting time whose rate depends on the latents and the time alone, so that
the presence of a film tells nothing about the outcome beyond them; each film may be followed by another. Further
films are made on the wards and, outside any admission, in the emergency department.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from benchmark.simulation import tables
from benchmark.simulation.missing import MissingRates
from benchmark.simulation.people import DAY, HOUR, Admission, Patient, Stay, draw_factors
from benchmark.simulation.streams import dicom_identifier, identifier, stream

_ARRIVAL, _RATE, _DECAY, _SEVERITY, _FOLLOWED = 0.02, 0.034, 36.0, 0.85, 0.47
"""Intensity of the first film of a stay: on arrival and per hour, hours over which the rate falls, its log per unit
of severity; chance that another film follows one."""
_SHAPE, _SCALE, _LOWEST = 1.3, 0.86, 0.005
"""Over stays, a film is missing at intensity x in a share of about (1 + _SCALE x) ** -_SHAPE."""
_SEEN = (0.0, 0.18, 0.5, 0.9, 1.0)
_SERIES_FILMS = (1.5, 1.5, 1.36, 0.97, 0.6)
_EARLY_FILMS = (0.18, 0.18, 0.29, 0.65, 1.0)
"""Films per patient within the series of a cohort stay, and before its fifth hour, divided by the share of stays with
a film, against that share (measured)."""
_ADMISSIONS = 1.59  # per patient
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
    intensity = (max(missing.image, _LOWEST) ** (-1 / _SHAPE) - 1) / _SCALE
    seen = 1 - missing.image
    series, early = (seen * np.interp(seen, _SEEN, films) for films in (_SERIES_FILMS, _EARLY_FILMS))
    total = series / (1 - missing.film_series)
    outside = total * (1 - (1 - missing.film_note) / (1 - missing.note))
    ward = max(0.0, total - outside - series - early) / _ADMISSIONS
    for admission in patient.admissions:
        for stay in admission.stays:
            moments += [
                (time, _at(admission.latent, stay.course.severity((time - stay.intime) / HOUR)), True)
                for time in _unit_times(stay, intensity, random)
            ]
        moments += [(time, admission.latent, frontal) for time, frontal in _ward_times(admission, ward, random)]
    first = patient.admissions[0].admitted if patient.admissions else 300 * DAY
    for _ in range(random.poisson(outside / _FRONTAL_SHARE)):
        latent = patient.latent(draw_factors(patient, random, -0.2), patient.age(first), *random.normal(-0.2, 0.8, 2))
        moments.append((first - int(random.uniform(0.5, 400) * DAY), latent, bool(random.random() < _FRONTAL_SHARE)))
    moments.sort(key=lambda moment: moment[0])
    return [_study(patient, slot, *moment, random) for slot, moment in enumerate(moments)]


def _unit_times(stay: Stay, intensity: float, random: np.random.Generator) -> list[int]:
    """Draw the film times of a stay."""
    level = np.exp(_SEVERITY * np.clip((stay.course.early + stay.course.settled) / 2, -2, 2))
    length = (stay.outtime - stay.intime) / HOUR
    arrival = random.exponential() / (_ARRIVAL * intensity * level)
    clock = 1 - random.exponential() / (_RATE * _DECAY * intensity * level)
    waiting = -_DECAY * np.log(clock) if clock > 0 else np.inf
    times = [random.uniform(0.1, 3.0) if arrival < 1 else waiting]
    while random.random() < _FOLLOWED:
        times.append(times[-1] + random.uniform(8, 30))
    return [stay.intime + int(time * HOUR) for time in times if time < length]


def _ward_times(admission: Admission, mean: float, random: np.random.Generator) -> list[tuple[int, bool]]:
    """Draw film times of an admission outside its stays, and whether a frontal film is among the images."""
    count = random.poisson(mean / _FRONTAL_SHARE)
    times = random.integers(admission.admitted, admission.discharged, count)
    inside = np.any(
        [(times >= stay.intime) & (times <= stay.outtime) for stay in admission.stays] or [np.zeros(count, bool)],
        axis=0,
    )
    # One that would fall into a stay is taken while the patient was still waiting for a bed.
    early = random.integers(admission.admitted, admission.stays[0].intime, count) if admission.stays else times
    times = np.where(inside, early, times)
    return [(int(time), bool(random.random() < _FRONTAL_SHARE)) for time in times]


def _at(latent: np.ndarray, severity: float) -> np.ndarray:
    latent = latent.copy()
    latent[[tables.features().index(name) for name in tables.COURSE]] = severity
    return latent


def _study(
    patient: Patient, slot: int, time: int, latent: np.ndarray, frontal: bool, random: np.random.Generator
) -> Study:
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
    column = {
        name: tables.column("findings", name)
        for name in ("positive", "negative", "uncertain_present", "uncertain_absent")
    }
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
