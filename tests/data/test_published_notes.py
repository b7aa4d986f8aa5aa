"""The published search for sections: fixed phrases in lower-cased text."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmark.data.notes import Section
from benchmark.data.published_notes import find_published_section


def test_the_known_example_grows_together() -> None:
    note = "PAST Medical History:\n1. HTN\n2. DM2 (A1c 7.2%)\nCAD\ns/p CABG\n\nSocial History:\n___"
    section = find_published_section(note, "pmh")
    assert section == Section("1 htn2 dm2 a1c 72cadsp cabg", "found")
    assert section.heading == "past medical history"


def test_all_ascii_punctuation_goes_and_nothing_else() -> None:
    assert len(string.punctuation) == 32
    body = f"a{string.punctuation}b\u2013 \u00e9\tc\r\nd"
    assert find_published_section(f"Past Medical History:{body}Social History", "pmh").text == "ab\u2013 \u00e9\tcd"


@pytest.mark.parametrize(
    ("note", "name", "expected"),
    [
        # from the first phrase to the first later one, wherever they stand
        (
            "a past medical history: x past medical history: y Social history z social history",
            "pmh",
            "x past medical history y",
        ),
        ("Social History: no\nPast Medical History: HTN\nSOCIAL HISTORY", "pmh", "htn"),
        ("Brief Hospital Course:\ndone\nMedications on Admission:", "bhc", "done"),
        # the phrases have to be there
        ("Past Medical History\nHTN\nSocial History:", "pmh", None),
        ("Past Medical History: HTN\nFamily History:", "pmh", None),
        ("PMH: HTN\nSocial History:", "pmh", None),
        ("Brief Hospital Course: done\nDischarge Medications: none", "bhc", None),
        ("Hospital Course: done\nMedications on Admission: none", "bhc", None),
    ],
)
def test_fixed_phrases(note: str, name: str, expected: str | None) -> None:
    section = find_published_section(note, name)
    assert section.text == expected
    assert section.status == ("missing" if expected is None else "found")


@pytest.mark.parametrize("body", ["\n___\n", "", " - ___ -\n.", "\r\n"])
def test_a_section_without_words_counts_as_missing(body: str) -> None:
    assert find_published_section(f"Past Medical History:{body}Social History:", "pmh") == Section(None, "empty")


@pytest.mark.parametrize(
    ("body", "text"), [("NULL.", None), ("nan", None), ("None", "none"), ("N/A", "na"), ("nulls", "nulls")]
)
def test_a_section_of_one_word_that_a_csv_file_reads_as_blank_is_missing(body: str, text: str | None) -> None:
    assert find_published_section(f"Brief Hospital Course: {body}\nMedications on Admission:", "bhc").text == text


PIECES = ["Past Medical History:", "past medical history", "Social History", "Brief Hospital Course:", "x1", ".", "\n"]
PIECES += ["Medications on Admission", "Discharge Medications", "___", " "]


@given(st.lists(st.sampled_from(PIECES), max_size=14))
def test_against_a_search_word_by_word(pieces: list[str]) -> None:
    note = "".join(pieces)
    for name, first, last in [
        ("pmh", "past medical history:", "social history"),
        ("bhc", "brief hospital course:", "medications on admission"),
    ]:
        _, start, rest = note.lower().partition(first)
        body, end, _ = rest.partition(last)
        expected = "".join(letter for letter in body.strip() if letter not in string.punctuation + "\n")
        assert find_published_section(note, name).text == (expected if start and end and expected.strip() else None)
