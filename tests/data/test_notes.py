"""Sections of discharge summaries."""

from __future__ import annotations

import pytest

from benchmark.data.notes import Section, find_section, statistics


def past_medical_history(text: str) -> str | None:
    return find_section(text, "pmh").text


NOTE = """ \nName:  ___                     Unit No:   ___
 \nHistory of Present Illness:
A man with a past medical history: see below, and PMH of gout.
Past medical history is long; social history of smoking.

Past Medical History:
1. HTN
2. DM2 (A1c 7.2%), followed by Dr. ___
Social history of note is none.
Past Surgical History: CABG

Social History:
___
Family History: father had CAD

Brief Hospital Course:
# Sepsis: treated.
The discharge instructions were given.

Medications on Admission:
1. Aspirin
Discharge Disposition:
Home
"""


def test_sections_end_at_the_next_heading_and_running_text_is_no_heading():
    assert past_medical_history(NOTE) == (
        "1. HTN 2. DM2 (A1c 7.2%), followed by Dr. Social history of note is none. Past Surgical History: CABG"
    )
    assert find_section(NOTE, "bhc").text == "# Sepsis: treated. The discharge instructions were given."


@pytest.mark.parametrize("newline", ["\r\n", "\r"])
def test_line_ends_do_not_matter(newline: str):
    assert past_medical_history(NOTE.replace("\n", newline)) == past_medical_history(NOTE)


@pytest.mark.parametrize(
    "heading",
    [
        "PAST MEDICAL HISTORY:",
        "Past Medical/Surgical History",
        "  past medical & surgical history :",
        "PMHx:",
        "PMH/PSH:",
    ],
)
def test_heading_variants(heading: str):
    assert past_medical_history(f"{heading}\nCOPD\n\nPhysical Examination:\nwell") == "COPD"
    assert past_medical_history("PMH: COPD,\tgout\nFAMILY HISTORY\nnone") == "COPD, gout"


@pytest.mark.parametrize(
    ("text", "name", "status"),
    [
        ("Chief Complaint:\npain", "pmh", "missing"),
        ("Past Medical History:\n___\n\nSocial History:\n___", "pmh", "empty"),
        ("Past Medical History:\n___\n ___.\nSocial History:\n___", "pmh", "empty"),
        ("Past Medical History:\nHTN\nHe was admitted and died.", "pmh", "truncated"),
        ("Past Medical History:\nHTN\nHospital Course:\nhe died", "pmh", "truncated"),
        ("Hospital Course:\nhe improved", "bhc", "truncated"),
        ("Hospital Course: he improved\nFacility:\n___", "bhc", "found"),
    ],
)
def test_statuses(text: str, name: str, status: str):
    section = find_section(text, name)
    assert section.status == status
    assert (section.text is None) == (status in ("missing", "empty") or (name, status) == ("pmh", "truncated"))
    assert "died" not in (section.text or "")


def test_a_section_without_words_gives_way_to_a_later_one():
    assert past_medical_history("PMH: ___\nSocial History:\n___\nPast Medical History:\nHTN\nLabs:\n") == "HTN"


@pytest.mark.parametrize(
    "note",
    [
        "HPI:\nPMH: of note CHF.\nHe fell, DIED and came back.\nPast Medical History:\nHTN\nSocial History:\n",
        "PMH:\nDIED\nPMHx: DIED too\nPast Medical History: HTN\nFamily History:\nnone",
    ],
)
def test_a_later_history_heading_starts_the_section_anew(note: str):
    assert past_medical_history(note) == "HTN"


@pytest.mark.parametrize(
    "heading",
    [
        "Pertinent Results on admission",
        "PERTINENT RESULTS (LABS, MICRO):",
        "Admission Labs:",
        "ADMISSION LABS",
        "Social Hx: lives alone",
        "Social History (per wife): lives alone",
        "Physical Exam on admission: T 98.2",
    ],
)
def test_end_headings_may_go_on(heading: str):
    note = f"Past Medical History:\nHTN\n{heading}\nWBC 9\nBrief Hospital Course:\nDIED\n"
    assert past_medical_history(note) == "HTN"


@pytest.mark.parametrize(
    "heading",
    [
        "Brief Hospital Course by system: CV",
        "(Brief) Hospital Course",
        "Hospital course by system",
        "HOSPITAL COURSE (MICU)",
        "Hospital course was long",
        "Discharge Physical Exam: well",
        "Discharge Medications (new):",
        "Transitional issues:",
    ],
)
def test_a_history_that_only_the_course_or_later_ends_is_not_used(heading: str):
    note = f"Past Medical History:\nHTN\nexam DIED\n{heading}\nDIED\nSocial History:\n___\n"
    assert find_section(note, "pmh") == Section(None, "truncated")


def test_no_history_begins_inside_the_course():
    note = "Brief Hospital Course by problem:\nPMH: CHF, DIED\nLabs: none\nFacility:\n___"
    assert find_section(note, "pmh") == Section(None, "missing")
    assert find_section(note, "bhc") == Section("PMH: CHF, DIED Labs: none", "found")
    redacted = "PMH:\n___\nSocial History:\n___\n" + note
    assert find_section(redacted, "pmh") == Section(None, "empty")


def test_running_text_ends_nothing():
    text = "HTN\nSocial history of note is none.\nLabs were normal\nFacility dependent for years"
    assert past_medical_history(f"PMH: {text}\nSocial History: ___") == " ".join(text.split())


def test_counts_name_every_status():
    assert statistics(["found", "empty", "found"]) == {"found": 2, "missing": 0, "empty": 1, "truncated": 0}
