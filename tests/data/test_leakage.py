"""What happens after the moment of prediction does not change an input by a single bit.

A patient's later events, films and notes are moved, altered, deleted and added to, and the hospital is prepared again.
The patient is no training patient: the scaling is fitted on whole training stays, later events included, by design.
"""

from __future__ import annotations

import copy
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from raw_files import HEART_RATE, START, Hospital, hours, subjects_in

from benchmark.data.dataset import PreparedData
from benchmark.data.prepare import prepare
from benchmark.data.rules import Rules

RULES = Rules(note_source="previous_admission")
PATIENT, STAY, EARLIER, ADMISSION = subjects_in("test", 1)[0], 30_000_000, 20_000_001, 20_000_000
STUDIES = {50_000_000: 7.5, 50_000_001: 31.3, 50_000_002: 58.6}
GLUCOSE, SYSTOLIC = 50931, 220179
TABLES = ("icu/chartevents", "hosp/labevents", "mimic-cxr-2.0.0-metadata", "note/discharge")
SUMMARY = "Past Medical History:\n{history}\nSocial History:\n___\nBrief Hospital Course:\ncourse\nFacility:\n___\n"


def hospital() -> Hospital:
    """A test patient with an earlier admission, a stay from hour 1 to hour 81 and three studies; training patients."""
    raw = Hospital()
    raw.patient(PATIENT)
    raw.admission(PATIENT, EARLIER, start=-900, end=-800)
    raw.admission(PATIENT, ADMISSION)
    raw.stay(PATIENT, ADMISSION, STAY, length=80.0, beats=tuple(np.arange(0.4, 80, 2.3)))
    for hour in np.arange(0.7, 79, 5.1):
        _chart(raw, START + hours(1 + hour), SYSTOLIC, 110 + hour)
        _lab(raw, START + hours(1 + hour), 90 + hour)
    for study, at in STUDIES.items():
        raw.film(PATIENT, study, f"film{study}", at)
        raw.findings(PATIENT, study, Edema=1.0)
    _note(raw, EARLIER, START - hours(799), "an old history")
    _note(raw, ADMISSION, START + hours(241), "a history with all that the stay has shown")
    for index, subject in enumerate(subjects_in("train", 3)):
        hadm = 20_000_010 + index
        raw.patient(subject)
        raw.admission(subject, hadm)
        raw.stay(subject, hadm, 30_000_010 + index, beats=(0.5, 9.5, 30.5, 70.5))
        raw.diagnosis(subject, hadm, "I10", 10)
        raw.film(subject, 50_000_010 + index, f"other{index}", 20.0)
        raw.findings(subject, 50_000_010 + index, Edema=0.0)
        raw.note(subject, hadm, SUMMARY.format(history="other"))
    return raw


def _chart(raw: Hospital, at: datetime, itemid: int, value: float) -> None:
    raw.add("icu/chartevents", subject_id=PATIENT, hadm_id=ADMISSION, stay_id=STAY, charttime=at, itemid=itemid,
            value=value, valuenum=value)  # fmt: skip


def _lab(raw: Hospital, at: datetime, value: float) -> None:
    number = len(raw.rows["hosp/labevents"])
    raw.add("hosp/labevents", labevent_id=number, subject_id=PATIENT, hadm_id=ADMISSION, specimen_id=number,
            itemid=GLUCOSE, charttime=at, value=value, valuenum=value)  # fmt: skip


def _note(raw: Hospital, hadm: int, at: datetime, history: str) -> None:
    raw.note(PATIENT, hadm, SUMMARY.format(history=history), seq=len(raw.rows["note/discharge"]))
    raw.rows["note/discharge"][-1]["charttime"] = at


def _film(raw: Hospital, at: datetime) -> None:
    number = len(raw.rows["mimic-cxr-2.0.0-metadata"])
    raw.film(PATIENT, 51_000_000 + number, f"new{number}", (at - START) / timedelta(hours=1))
    raw.findings(PATIENT, 51_000_000 + number, Edema=1.0)


def _time(row: dict) -> datetime:
    if "charttime" in row:
        return row["charttime"]
    return datetime.strptime(f"{row['StudyDate']}{int(float(row['StudyTime'])):06d}", "%Y%m%d%H%M%S")


def _delay(row: dict, by: timedelta) -> None:
    if "charttime" in row:
        row["charttime"] += by
    else:
        moment = _time(row) + by
        row["StudyDate"], row["StudyTime"] = moment.strftime("%Y%m%d"), repr(float(moment.strftime("%H%M%S")))


def _alter(row: dict) -> None:
    if "text" in row:
        row["text"] = SUMMARY.format(history="another history")
    elif "ViewPosition" in row:
        row["ViewPosition"] = "PA"
    else:
        row["value"] = row["valuenum"] = row["value"] + 13


Edits = tuple[list[tuple[str, int]], list[tuple[str, int, float]]]


def changed(moment: datetime, at_once: bool, edits: Edits) -> Hospital:
    """The hospital with the patient's rows after a moment edited.

    Args:
        at_once: whether events at the moment itself count as later.
        edits: what happens to one later row after the other, with a number of seconds; rows that are added, with
            seconds after the moment and a value.
    """
    raw = copy.deepcopy(hospital())
    actions = iter(edits[0] * 100)
    for table in TABLES:
        rows = []
        for row in raw.rows[table]:
            event = table in TABLES[:2]
            late = _time(row) > moment or (event and at_once and _time(row) == moment)
            if row["subject_id"] == PATIENT and late:
                action, by = next(actions)
                if action == "delete":
                    continue
                if action == "delay":
                    _delay(row, timedelta(seconds=by))
                elif action == "alter":
                    _alter(row)
            rows.append(row)
        raw.rows[table] = rows
    for what, after, value in edits[1]:
        at = moment + timedelta(seconds=after)
        if what == "chart":
            _chart(raw, at, HEART_RATE, value)
        elif what == "lab":
            _lab(raw, at, value)
        elif what == "film":
            _film(raw, at)
        else:
            _note(raw, EARLIER if what == "addendum" else ADMISSION, at, f"later history {value}")
    return raw


def inputs(raw: Hospital) -> dict[tuple[str, int], tuple]:
    """Moment of prediction, and bytes of series, film and note, of every sample of the patient."""
    with TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        prepare(**raw.write(Path(folder), compress=False), out=out, rules=RULES)
        data, found = PreparedData.open(out), {}
        links = pd.read_parquet(out / "private" / "links.parquet").set_index("sample")
        texts = pd.read_parquet(out / "notes" / "texts.parquet").text
        for task in ("ihm", "los", "dec", "dia"):
            for sample in pd.read_parquet(out / "samples" / f"{task}.parquet").itertuples():
                link = links.loc[sample.sample]
                if link.subject_id != PATIENT:
                    continue
                series = data.series[sample.series][: sample.hours] if sample.series >= 0 else np.zeros(0)
                if sample.tail >= 0:
                    series = np.concatenate([series[:-1], data.tails[sample.tail][None]])
                film = data.films[sample.film].tobytes() if sample.film >= 0 else None
                note = texts[sample.note] if sample.note >= 0 else None
                key = (task, int(link.study_id if task == "dia" else link.stay_id))
                found[key] = (link.end.to_pydatetime(), series.shape, series.tobytes(), film, note)
    return found


@cache
def unchanged() -> dict[tuple[str, int], tuple]:
    return inputs(hospital())


SAMPLES = [("ihm", STAY), ("los", STAY), ("dec", STAY), *(("dia", study) for study in STUDIES)]

KINDS = ("chart", "lab", "film", "note", "addendum")

DAYS = 60 * 3600

edits = st.tuples(
    st.lists(st.tuples(st.sampled_from(["keep", "delete", "delay", "alter"]), st.integers(0, DAYS)), min_size=1),
    st.lists(st.tuples(st.sampled_from(KINDS), st.integers(1, DAYS), st.integers(60, 180)), max_size=6),
)


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: f"{sample[0]}-{sample[1]}")
@settings(
    max_examples=2, deadline=None, phases=[Phase.generate]
)  # each example prepares a data set; shrinking takes minutes
@given(edits=edits)
def test_later_rows_do_not_change_an_input(sample, edits):
    before = unchanged()[sample]
    assert before[2] and before[4] == "an old history"
    after = inputs(changed(before[0], sample[0] == "dia", edits))
    assert after[sample] == before


def test_the_edits_do_reach_inputs_of_later_samples():
    """Guards the test above: the same edits, made early, do change what a later sample sees."""
    before = unchanged()[("ihm", STAY)]
    everything = ([("alter", 0)], [("film", 852 * 3600, 0)])
    after = inputs(changed(START - hours(850), False, everything))[("ihm", STAY)]
    assert after[2] != before[2] and after[3] != before[3] and after[4] == "another history"
