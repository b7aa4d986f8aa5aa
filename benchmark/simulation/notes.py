"""Discharge summaries in the section order of the hospital.

The Past Medical History names the chronic items a patient has and, in other words, the organ systems that have long given trouble.
The Brief Hospital Course tells the main problem, how severe the illness was, and side problems.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from benchmark.simulation import tables
from benchmark.simulation.missing import MissingRates
from benchmark.simulation.people import Admission, Patient

_HEADINGS = ("Past Medical History:", "PAST MEDICAL HISTORY:", "PMH:", "Past Medical/Surgical History:", "PMHx:")
_HEADING_SHARES = np.cumsum([0.72, 0.12, 0.06, 0.06])
_ITEM_MENTIONED, _COURSE_MISSING, _ORGAN_THRESHOLD = 0.96, 0.03, 0.55


def draw_summary(patient: Patient, admission: Admission, problem: int, missing: MissingRates, random: np.random.Generator) -> str | None:
    """Draw the text of an admission's discharge summary, None if there is none.

    Half of the missing histories come with a missing summary, the others with a missing or an empty section.
    """
    fate = random.random() / max(missing.note, 1e-9)  # below 1: no usable history
    history, course = past_history(admission, random), hospital_course(admission, problem, random)
    shape = random.random(6)
    if fate < 0.5:
        return None
    sections = [_front(patient, admission)]
    if fate >= 1:
        sections.append(f"{_HEADINGS[int(np.searchsorted(_HEADING_SHARES, shape[0]))]}\n{history}")
    elif fate >= 0.75:
        sections.append("Past Medical History:\n___")
    sections += ["Social History:\n___", "Family History:\nNon-contributory.", _examination(admission)]
    if shape[2] >= _COURSE_MISSING:
        heading = "Brief Hospital Course:" if shape[3] < 0.94 else "Hospital Course:"
        sections.append(f"{heading}\n{course}")
    if shape[4] < 0.93:
        sections.append("Medications on Admission:\nThe Preadmission Medication list is accurate and complete.\n1. Aspirin 81 mg PO DAILY\n2. ___")
    sections.append("Discharge Medications:\n1. Acetaminophen 650 mg PO Q6H:PRN pain\n2. Docusate Sodium 100 mg PO BID")
    place = "Expired" if admission.died else ("Home" if shape[5] < 0.5 else "Extended Care")
    sections.append(f"Discharge Disposition:\n{place}\n\nFacility:\n___")
    sections.append("Discharge Diagnosis:\n___")
    sections.append("Discharge Condition:\n" + ("Deceased" if admission.died else "Mental Status: Clear and coherent."))
    sections.append("Discharge Instructions:\nDear ___,\nIt was a pleasure taking care of you.\n\nFollowup Instructions:\n___")
    return "\n\n".join(sections) + "\n"


def past_history(admission: Admission, random: np.random.Generator) -> str:
    """Draw the text of the Past Medical History."""
    latent, names = admission.latent, tables.features()
    first = names.index(tables.history_items()[0])
    said = [name for name, value in zip(names[first:], latent[first:], strict=True) if value and random.random() < _ITEM_MENTIONED]
    strength = latent[: len(tables.FACTORS)] + 0.25 * random.standard_normal(len(tables.FACTORS))
    for factor, value in zip(tables.FACTORS, strength, strict=True):
        said += [factor] * int(np.digitize(value, [_ORGAN_THRESHOLD, _ORGAN_THRESHOLD + 0.9]))
    order = random.permutation(len(said))
    phrases: list[str] = []
    for position in order:
        choices = [phrase for phrase in _phrases("history_phrases")[said[position]] if phrase not in phrases]
        if choices:
            phrases.append(choices[int(random.integers(len(choices)))])
    if not phrases:
        return "None"
    style = random.random()
    if style < 0.45:
        return "\n".join(f"{number}. {phrase}" for number, phrase in enumerate(phrases, 1))
    if style < 0.75:
        return "\n".join(f"- {phrase}" if style < 0.6 else phrase for phrase in phrases)
    return ", ".join(phrases)


def hospital_course(admission: Admission, problem: int, random: np.random.Generator) -> str:
    """Draw the text of the Brief Hospital Course."""
    latent, names = admission.latent, tables.features()
    phrases, age = _phrases("course_phrases"), min(admission.age, 90)
    sex = "M" if latent[names.index("male")] else "F"
    severity = (latent[names.index("early")] + latent[names.index("settled")]) / 2 + 0.12 * random.standard_normal()

    def one(topic: str) -> str:
        return phrases[topic][int(random.integers(len(phrases[topic])))]

    level = ("mild", "moderate", "severe")[int(np.digitize(severity, [-0.45, 0.25]))]
    parts = [f"{age}{sex} with the history above who was admitted with the following issues.", "", one(tables.rows("problems")[problem]["problem"]), one(level)]
    side = latent[: len(tables.FACTORS)] + 0.5 * random.standard_normal(len(tables.FACTORS))
    parts += [one(factor) for factor, value in zip(tables.FACTORS, side, strict=True) if value > 0.8]
    return "\n".join(parts)


def _front(patient: Patient, admission: Admission) -> str:
    sex = "M" if patient.male else "F"
    return (
        " \nName:  ___                     Unit No:   ___\n \nAdmission Date:  ___              Discharge Date:   ___\n \n"
        f"Date of Birth:  ___             Sex:   {sex}\n \nService: MEDICINE\n \nAllergies:\nNo Known Allergies / Adverse Drug Reactions\n \n"
        "Attending: ___.\n\nChief Complaint:\n___\n\nMajor Surgical or Invasive Procedure:\nNone\n\n"
        f"History of Present Illness:\n___ is a {min(admission.age, 90)} year old {sex} who presented to the emergency department."
    )


def _examination(admission: Admission) -> str:
    return "Physical Exam:\nADMISSION PHYSICAL EXAM:\nGeneral: as documented\nLungs: ___\n\nPertinent Results:\nADMISSION LABS\n___ WBC-___ RBC-___"


@cache
def _phrases(table: str) -> dict[str, list[str]]:
    result: dict[str, list[str]] = {}
    for row in tables.rows(table):
        topic, phrase = row.values()
        result.setdefault(topic, []).append(phrase)
    return result
