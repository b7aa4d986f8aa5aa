"""Discharge summaries in the section order of the hospital.

The Past Medical History names the chronic items a patient has and, in other words, the organ systems that have long
given trouble. The Brief Hospital Course tells the main problem, how severe the illness was, and side problems.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from benchmark.simulation import tables
from benchmark.simulation.missing import MissingRates
from benchmark.simulation.people import Admission, Patient

_HISTORY_HEADINGS = (
    "Past Medical History:",
    "PAST MEDICAL HISTORY:",
    "PMH:",
    "Past Medical/Surgical History:",
    "PMHx:",
)
_HEADING_SHARES = np.cumsum([0.72, 0.12, 0.06, 0.06])
_FAINT = "Past Medical History:\n___"  # nothing left after redaction
_COURSE_MISSING, _ADMISSION_DRUGS = 0.03, 0.93
_MENTIONED, _DETAILED, _UNRELATED = 0.96, 0.2, 2.0
_ORGAN_LEVELS = (0.55, 1.45)
_SEVERITY_LEVELS, _SEVERITY_NOISE = (-0.45, 0.25), 0.12
_SIDE_LEVEL, _SIDE_NOISE = 0.8, 0.5

_FRONT = """\x20
Name:  ___                     Unit No:   ___
\x20
Admission Date:  ___              Discharge Date:   ___
\x20
Date of Birth:  ___             Sex:   {sex}
\x20
Service: {service}
\x20
Allergies:
No Known Allergies / Adverse Drug Reactions
\x20
Attending: ___.

Chief Complaint:
___

Major Surgical or Invasive Procedure:
None

History of Present Illness:
___ is a {age} year old {sex} who was brought to the hospital from ___."""

_BETWEEN = """Social History:
___

Family History:
Non-contributory.

Physical Exam:
ADMISSION PHYSICAL EXAM:
General: alert, in no acute distress
Lungs: ___

Pertinent Results:
ADMISSION LABS:
___ WBC-___ RBC-___ Hgb-___"""

_DRUGS = """Medications on Admission:
The Preadmission Medication list is accurate and complete.
1. Aspirin 81 mg PO DAILY
2. ___"""

_END = """Discharge Medications:
1. Acetaminophen 650 mg PO Q6H:PRN pain
2. Docusate Sodium 100 mg PO BID

Discharge Disposition:
{place}

Facility:
___

Discharge Diagnosis:
___

Discharge Condition:
{condition}

Discharge Instructions:
Dear ___,
It was a pleasure taking care of you.

Followup Instructions:
___
"""


def draw_summary(
    patient: Patient, admission: Admission, problem: int, missing: MissingRates, random: np.random.Generator
) -> str | None:
    """Draw the text of an admission's discharge summary, None if there is none.

    Half of the unusable histories come with a missing summary, a quarter each with a missing and an empty section.
    """
    fate = random.random() / max(missing.note, 1e-9)  # below 1: no usable history
    history, course = past_history(admission, random), hospital_course(admission, problem, random)
    heading = _HISTORY_HEADINGS[int(np.searchsorted(_HEADING_SHARES, random.random()))]
    chance = random.random(4)
    if fate < 0.5:
        return None
    sex, age = "M" if patient.male else "F", min(admission.age, 90)
    sections = [_FRONT.format(sex=sex, age=age, service="MEDICINE" if chance[0] < 0.7 else "SURGERY")]
    if fate >= 1:
        sections.append(f"{heading}\n{history}")
    elif fate >= 0.75:
        sections.append(_FAINT)
    sections.append(_BETWEEN)
    if chance[1] >= _COURSE_MISSING:
        sections.append(("Brief Hospital Course:" if chance[2] < 0.94 else "Hospital Course:") + f"\n{course}")
    if chance[3] < _ADMISSION_DRUGS:
        sections.append(_DRUGS)
    place, condition = ("Expired", "Deceased") if admission.died else ("Home", "Mental Status: Clear and coherent.")
    sections.append(_END.format(place=place, condition=condition))
    return "\n\n".join(sections)


def past_history(admission: Admission, random: np.random.Generator) -> str:
    """Draw the text of the Past Medical History."""
    latent, names = admission.latent, tables.features()
    first = names.index(tables.history_items()[0])
    items = zip(names[first:], latent[first:], strict=True)
    said = [name for name, value in items if value and random.random() < _MENTIONED]
    organs = latent[: len(tables.FACTORS)] + 0.25 * random.standard_normal(len(tables.FACTORS))
    for factor, value in zip(tables.FACTORS, organs, strict=True):
        said += [factor] * int(np.digitize(value, _ORGAN_LEVELS))
    said += ["unrelated"] * int(random.poisson(_UNRELATED))
    phrases: list[str] = []
    for position in random.permutation(len(said)):
        choices = [phrase for phrase in _phrases("history_phrases")[said[position]] if phrase not in phrases]
        if choices:
            phrases.append(_pick(choices, random))
    details = _phrases("history_phrases")["detail"]
    lines = [f"{phrase}, {_pick(details, random)}" if random.random() < _DETAILED else phrase for phrase in phrases]
    if not lines:
        return "None"
    style = random.random()
    if style < 0.45:
        return "\n".join(f"{number}. {line}" for number, line in enumerate(lines, 1))
    if style < 0.75:
        return "\n".join(f"- {line}" if style < 0.6 else line for line in lines)
    return "; ".join(lines)


def hospital_course(admission: Admission, problem: int, random: np.random.Generator) -> str:
    """Draw the text of the Brief Hospital Course."""
    latent, names, phrases = admission.latent, tables.features(), _phrases("course_phrases")
    sex = "M" if latent[names.index("male")] else "F"
    severity = (latent[names.index("early")] + latent[names.index("settled")]) / 2
    severity += _SEVERITY_NOISE * random.standard_normal()
    level = ("mild", "moderate", "severe")[int(np.digitize(severity, _SEVERITY_LEVELS))]
    side = latent[: len(tables.FACTORS)] + _SIDE_NOISE * random.standard_normal(len(tables.FACTORS))
    topics = [tables.rows("problems")[problem]["problem"], level]
    topics += [factor for factor, value in zip(tables.FACTORS, side, strict=True) if value > _SIDE_LEVEL]
    opening = f"{min(admission.age, 90)}{sex} with the history above who was admitted with the following issues.\n"
    return "\n".join([opening, *(_pick(phrases[topic], random) for topic in topics)])


def _pick(choices: list[str], random: np.random.Generator) -> str:
    return choices[int(random.integers(len(choices)))]


@cache
def _phrases(table: str) -> dict[str, list[str]]:
    result: dict[str, list[str]] = {}
    for row in tables.rows(table):
        topic, phrase = row.values()
        result.setdefault(topic, []).append(phrase)
    return result
