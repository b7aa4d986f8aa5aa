"""Rules of inputs: nothing later than the moment of prediction, nothing of another patient, stay or study."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from benchmark.data.audit.evidence import ROUNDING, rows_of
from benchmark.data.audit.finding import Finding, finding
from benchmark.data.audit.opened import Opened
from benchmark.tasks import TASKS
from benchmark.tasks.ihm import WINDOW

WHOLE_HOURS = ("ihm", "los", "dec")
"""Tasks that predict at a full hour."""

WHOLE_STAY = ("phe", "rea")
"""Tasks that predict when the ICU stay ends."""

SECOND = pd.Timedelta(seconds=1)


def findings(opened: Opened) -> Iterator[Finding]:
    """All findings about inputs."""
    for task in opened.samples:
        yield _moment(opened, task)
        yield from _presence(opened, task)
        yield _owner(opened, task)
        yield _rows(opened, task)
        yield _events(opened, task)
        if task == "dia":
            yield _cut(opened, task)
        yield _films(opened, task)
        yield from _notes(opened, task)
        yield from _whole_stay(opened, task)


def _named(opened: Opened, task: str, rule: str, about: str, broken: np.ndarray | pd.Series) -> Finding:
    return finding(rule, about, broken, opened.samples[task]["sample"].tolist(), task=task)


def _moment(opened: Opened, task: str) -> Finding:
    """The recorded moment of prediction, worked out again from stay, film and hour."""
    frame, stay = opened.samples[task], opened.rows(task, "series")
    hour = frame["hour"].to_numpy(dtype=float)
    if task in WHOLE_STAY:
        expected = stay.outtime
        wrong = ~(np.abs(hour - stay.los_hours) <= ROUNDING)
    elif task in WHOLE_HOURS:
        expected = stay.intime + pd.to_timedelta(hour, unit="h")
        wrong = ~(hour <= stay.los_hours + ROUNDING) | (hour != (WINDOW if task == "ihm" else np.floor(hour)))
    elif task == "dia":
        expected = opened.rows(task, "film")["time"]
        since = (expected - stay.intime).dt.total_seconds() / 3600
        wrong = (frame.series >= 0) & ~(hour <= since + ROUNDING)
    else:  # the admission's end, which only the links know
        expected = frame.end
        wrong = (frame.series >= 0) & ~(np.abs(hour - stay.los_hours) <= ROUNDING)
    wrong |= frame.end.isna() | ~((frame.end - expected).abs() < SECOND)
    return _named(opened, task, "moment of prediction", "is the one that the task defines", wrong)


def _presence(opened: Opened, task: str) -> Iterator[Finding]:
    frame, there = opened.samples[task], opened.manifest["modalities"]
    series, film, note = (frame[name] >= 0 for name in ("series", "film", "note"))
    wrong = series != (frame["hours"] >= 1)
    wrong |= series & (frame.stay_id < 0)
    wrong |= (frame["tail"] >= 0) != (series & (task == "dia"))
    for present, store in ((series, "series"), (frame["tail"] >= 0, "tail"), (film, "film"), (note, "note")):
        wrong |= present & opened.rows(task, store).subject_id.isna() if store != "tail" else False
        wrong |= frame[store] < -1
    wrong |= (frame["tail"] >= 0) & opened.rows(task, "tail").stay_id.isna()
    wrong |= (film & (not there["cxr"])) | (note & (not there["note"]))
    about = "a sample has a series, tail, film or note exactly if the stores and their origins have one"
    yield _named(opened, task, "presence", about, wrong)
    primary = {"ehr": series, "cxr": film, "note": note}[TASKS[task].primary]
    yield _named(opened, task, "primary modality", f"every sample has its {TASKS[task].primary}", ~primary)


def _owner(opened: Opened, task: str) -> Finding:
    """The content is of the sample's own patient, and of its own stay or study where the unit is one."""
    frame = opened.samples[task]
    wrong = pd.Series(False, index=frame.index)
    for store in ("series", "film", "note"):
        wrong |= (frame[store] >= 0) & (opened.rows(task, store).subject_id != frame.subject_id)
    wrong |= (frame.series >= 0) & (opened.rows(task, "series").stay_id != frame.stay_id)
    wrong |= (frame["tail"] >= 0) & (opened.rows(task, "tail").stay_id != frame.stay_id)
    if task == "dia":
        wrong |= (frame.film >= 0) & (opened.rows(task, "film").study_id != frame.study_id)
    else:
        wrong |= (frame.series >= 0) & (opened.rows(task, "series").hadm_id != frame.hadm_id)
    wrong |= (frame.note >= 0) & (opened.rows(task, "note").section != TASKS[task].note_section)
    return _named(opened, task, "owner", "series, film and note are of the sample's patient, stay and study", wrong)


def _rows(opened: Opened, task: str) -> Finding:
    """How many hourly rows are seen: only rows that lie before the end, and none beyond the stored series."""
    frame = opened.samples[task]
    own = (frame.series >= 0).to_numpy()
    hour = np.where(own, frame["hour"].to_numpy(dtype=float), 0.0)
    seen, stored = frame["hours"].to_numpy(), np.zeros(len(frame), dtype=np.int64)
    rows = np.clip(frame.series.to_numpy(), 0, max(len(opened.series) - 1, 0))
    stored[own] = opened.series.lengths[rows[own]]
    # At a full hour the last row ends with the prediction; elsewhere it is the series, or its tail, that ends there.
    limit = hour + ROUNDING if task in WHOLE_HOURS else rows_of(hour)
    wrong = own & ((seen > limit) | (seen > stored))
    return _named(opened, task, "hours", "no hourly row reaches beyond the prediction or the stored series", wrong)


def _events(opened: Opened, task: str) -> Finding:
    """The latest event behind the rows that a sample sees."""
    frame = opened.samples[task]
    own = np.flatnonzero((frame.series >= 0) & (frame.series < len(opened.series)))
    series, tail = frame.series.to_numpy()[own], frame["tail"].to_numpy()[own]
    seen = np.minimum(frame["hours"].to_numpy()[own] - (tail >= 0), opened.series.lengths[series])
    latest = _latest(opened.last_event, opened.series.offsets[series], seen)
    in_tail = opened.rows(task, "tail").last_event.to_numpy(dtype=float)[own]
    if opened.rules.film_cut == "before":  # an event at the moment of the film is already too late
        in_tail = np.nextafter(in_tail, np.inf)
    allowed = frame["hour"].to_numpy(dtype=float)[own]
    late = (latest > allowed + ROUNDING) | (in_tail > allowed + (ROUNDING if opened.rules.film_cut == "at" else 0))
    wrong = np.zeros(len(frame), dtype=bool)
    wrong[own] = late
    return _named(opened, task, "events", "no event of a series is later than the prediction", wrong)


def _latest(hours: np.ndarray, first: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Largest hour among some rows of each of many series; NaN without any."""
    padded = np.append(np.where(np.isnan(hours), -np.inf, hours), -np.inf)
    bounds = np.column_stack([first, first + rows]).ravel()
    largest = np.maximum.reduceat(padded, bounds)[::2] if len(bounds) else np.array([])
    return np.where((rows > 0) & np.isfinite(largest), largest, np.nan)


def _cut(opened: Opened, task: str) -> Finding:
    """A series that goes with a film is cut no later than the film was taken."""
    frame, cut = opened.samples[task], opened.rows(task, "tail")
    since = opened.rows(task, "film")["time"] - opened.rows(task, "series").intime
    own = frame["tail"] >= 0
    wrong = own & ~(cut.hour <= since.dt.total_seconds() / 3600 + ROUNDING)
    wrong |= own & ((cut.hour - frame["hour"]).abs() > ROUNDING)
    wrong |= own & (frame["hours"] != rows_of(frame["hour"].fillna(0).to_numpy()))
    return _named(opened, task, "cut", "the series ends with the film, not with the hour around it", wrong)


def _films(opened: Opened, task: str) -> Finding:
    frame = opened.samples[task]
    taken = opened.rows(task, "film")["time"]
    wrong = (frame.film >= 0) & ~(taken <= frame.end)
    if task == "dia":  # a film without a time is its own moment of prediction, and has neither series nor note
        wrong &= taken.notna() | (frame.series >= 0) | (frame.note >= 0)
    return _named(opened, task, "films", "no film was taken after the prediction", wrong)


def _notes(opened: Opened, task: str) -> Iterator[Finding]:
    frame, note = opened.samples[task], opened.rows(task, "note")
    own = frame.note >= 0
    if not opened.manifest["modalities"]["note"]:
        return
    of_admission = own & (note.hadm_id == frame.hadm_id)
    if opened.rules.note_source == "previous_admission" and TASKS[task].note_section == "pmh":
        limit = frame.end if task == "dia" else opened.rows(task, "series").intime
        wrong = own & (~(note.charttime < limit) | of_admission)
        about = "no note is of the sample's admission or charted after its begin"
        yield _named(opened, task, "notes", about, wrong)
        return
    about = "no note is of another admission"
    yield _named(opened, task, "note admission", about, own & ~of_admission)
    section = "hospital course" if TASKS[task].note_section == "bhc" else "history"
    late = own & ~(note.charttime <= frame.end)
    about = f"the {section} is read in the discharge summary of the same admission, which is written at discharge; "
    about += f"{int(late.sum()):,} of these were charted after the prediction or at an unknown time"
    yield Finding("note of the same admission", about, len(frame), int(own.sum()), task, "retrospective")


def _whole_stay(opened: Opened, task: str) -> Iterator[Finding]:
    """Inputs that reach to the end of a stay or an admission by the definition of the task."""
    frame = opened.samples[task]
    if task in WHOLE_STAY:
        about = "the series and films of the whole ICU stay; the diagnoses were made and the outcomes of the stay were "
        about += "known by then"
        yield Finding("whole stay", about, len(frame), int((frame.series >= 0).sum()), task, "retrospective")
    elif task == "drg":
        about = "the series of the whole ICU stay and the films of the whole admission; it is coded after discharge"
        used = int(((frame.series >= 0) | (frame.film >= 0)).sum())
        yield Finding("whole admission", about, len(frame), used, task, "retrospective")
