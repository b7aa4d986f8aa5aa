"""Reading summaries: which one of an admission, both searches, what is counted."""

from __future__ import annotations

import pandas as pd
import pytest
from raw_files import Hospital

import benchmark.data.summaries as summaries_module
from benchmark.data.raw import RawMimic
from benchmark.data.rules import Rules
from benchmark.data.summaries import Summaries, list_summaries, number_texts, one_per_admission, read_summaries

HISTORY = "Past Medical History:\n{}\n\nSocial History:\n___\n"
COURSE = "Brief Hospital Course:\n{}\n\nMedications on Admission:\nnone\n"


@pytest.fixture
def raw(tmp_path) -> RawMimic:
    hospital = Hospital()
    hospital.stay(1, 10, 100)
    hospital.note(1, 10, HISTORY.format("1. HTN\n2. DM2") + COURSE.format("first"), seq=2)
    hospital.note(1, 10, HISTORY.format("gout"), seq=1)
    hospital.note(1, 11, "no headings at all, “quoted”,\n\n\nand é", seq=3)
    hospital.note(2, 12, "PMHx:\n___\nFamily History:\n" + COURSE.format("second"), seq=1)
    hospital.note(2, None, HISTORY.format("of nobody"), seq=2)
    hospital.note(2, 13, "", seq=3)
    hospital.note(1, 12, HISTORY.format("of another") + COURSE.format("of another"), seq=4)
    hospital.note(2, 14, HISTORY.format("of an unknown admission"), seq=5)
    return RawMimic(hospital.write(tmp_path)["mimic_iv"], None, tmp_path / "mimic-note")


WANTED = {"pmh": {10, 11, 12, 13, 99}, "bhc": {10, 12}}
ADMISSIONS = pd.DataFrame({"subject_id": [1, 1, 2, 2], "hadm_id": [10, 11, 12, 13]})


def read(raw: RawMimic, **options) -> Summaries:
    return read_summaries(raw, list_summaries(raw, ADMISSIONS)[0], WANTED, **options)


def found(raw: RawMimic, rules: Rules = Rules()) -> dict[tuple[str, int], tuple[str, str | None]]:
    rows = read(raw, rules=rules).sections.iter_rows(named=True)
    return {(row["section"], row["hadm_id"]): (row["status"], row["text"]) for row in rows}


def test_sections_by_headings_of_the_latest_summary(raw: RawMimic) -> None:
    assert found(raw) == {
        ("pmh", 10): ("found", "1. HTN 2. DM2"),
        ("pmh", 11): ("missing", None),
        ("pmh", 12): ("empty", None),
        ("pmh", 13): ("missing", None),
        ("bhc", 10): ("found", "first"),
        ("bhc", 12): ("found", "second"),
    }


def test_published_search_of_the_last_row(raw: RawMimic) -> None:
    """A course is taken from the last summary that has one."""
    rules = Rules(sections="published", several_notes="last_in_file")
    published = found(raw, rules)
    assert published[("pmh", 10)] == ("found", "gout")
    assert published[("bhc", 10)] == ("found", "first")
    assert published[("pmh", 12)] == ("missing", None)
    assert found(raw, Rules(sections="published"))[("pmh", 10)] == ("found", "1 htn2 dm2")


def test_counts_cover_every_sample(raw: RawMimic) -> None:
    summaries = read(raw)
    assert summaries.counts("pmh", pd.Series([10, 10, 11, 12, 99, -1])) == {
        "no admission": 1, "no summary": 1, "found": 2, "missing": 1, "empty": 1, "truncated": 0,
    }  # fmt: skip
    assert summaries.report()["pmh"]["headings"] == {"past medical history": 1, "pmhx": 1}
    assert summaries.readable("pmh") == {10} and summaries.readable("bhc") == {10, 12}
    assert summaries.times["pmh", 11] == pd.Timestamp("2150-03-11 13:00:00")


def test_a_summary_of_another_patient_than_its_admission_is_left_out_and_counted(raw: RawMimic) -> None:
    """It would be the latest of its admission, and stand last in the file."""
    listed, odd = list_summaries(raw, ADMISSIONS)
    assert listed.note_id.tolist() == ["1-DS-2", "1-DS-1", "1-DS-3", "2-DS-1", "2-DS-3"]
    assert odd == {
        "summaries without an admission": 1,
        "summaries of an unknown admission": 1,
        "summaries of another patient than their admission's": 1,
    }
    for rules in (Rules(), Rules(several_notes="last_in_file")):
        assert found(raw, rules)["bhc", 12] == ("found", "second")
    assert sorted(read(raw).patients().rows()) == [("bhc", 10, 1), ("bhc", 12, 2), ("pmh", 10, 1)]


def test_small_batches_change_nothing(raw: RawMimic, monkeypatch) -> None:
    calls, whole = [], found(raw)
    monkeypatch.setattr(summaries_module, "BATCH", 1)
    assert found(raw) == whole
    read(raw, progress=lambda *call: calls.append(call))
    assert calls[-1] == ("notes", 4, 4)


def test_texts_are_numbered_by_section_and_admission(raw: RawMimic) -> None:
    table, rows = number_texts(read(raw), {"bhc": {12, 10}, "pmh": {10, 11, -1}})
    assert rows == {("bhc", 10): 0, ("bhc", 12): 1, ("pmh", 10): 2}
    assert table["text"].to_list() == ["first", "second", "1. HTN 2. DM2"]
    assert table["note"].to_list() == [0, 1, 2] and table["digest"].n_unique() == 3


def test_one_note_per_admission() -> None:
    rows = [
        (1, "DS", "2150-01-02", 3, "early"),
        (1, "DS ", "2150-01-03", 1, "late"),
        (1, "DS", "2150-01-03", 2, "late, higher number"),
        (1, "AD", "2150-01-09", 9, "addendum"),
        (1, "DS", None, 9, "no time"),
        (2, "AD", "2150-01-09", 1, "only addendum"),
        (3, "DS", "2150-01-09", 1, "first of equals"),
        (3, "DS", "2150-01-09", 1, "second of equals"),
    ]
    notes = pd.DataFrame(rows, columns=["hadm_id", "note_type", "charttime", "note_seq", "text"])
    notes = notes.assign(row=range(len(notes))).sample(frac=1, random_state=0)
    expected = ["late, higher number", "only addendum", "second of equals"]
    assert one_per_admission(notes)["text"].tolist() == expected
    last = one_per_admission(notes, Rules(several_notes="last_in_file"))
    assert last["text"].tolist() == ["no time", "only addendum", "second of equals"]
