"""What the raw files hold: the cohort, its events, films, codes and notes, and the drafts of tasks they allow."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from benchmark.data.cohort import Cohort, build_cohort, read_diagnoses
from benchmark.data.labels import draft_dia, draft_drg, draft_stay_tasks
from benchmark.data.links import read_films, read_findings
from benchmark.data.raw import RawMimic, collect
from benchmark.data.rules import Rules
from benchmark.data.series import Progress, read_events
from benchmark.data.summaries import Summaries, read_summaries
from benchmark.tasks import drg


@dataclass
class Sources:
    """What was read, as far as it is there, and what follows from what is not.

    Attributes:
        rules: the switches it is read with. stays: the cohort with `first_event`.
        films: AP films whose file is there, None without MIMIC-CXR.
        absent_films: the other AP films. summaries: None without notes.
        impossible: reason by task. facts: counts for the cohort report.
    """

    raw: RawMimic
    rules: Rules
    cohort: Cohort
    stays: pd.DataFrame
    films: pd.DataFrame | None
    diagnoses: pd.DataFrame | None
    summaries: Summaries | None = None
    absent_films: pd.DataFrame | None = None
    impossible: dict[str, str] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)


def read_sources(raw: RawMimic, progress: Progress, rules: Rules = Rules()) -> tuple[Sources, pd.DataFrame]:
    """Read everything but the notes. The second result is the events, which need most of the memory."""
    progress("cohort", 0, 1)
    cohort = build_cohort(raw)
    progress("cohort", 1, 1)
    events = read_events(raw, cohort.stays, progress)
    first = events.groupby("stay_id").hour.min()
    stays = cohort.stays.assign(first_event=cohort.stays.stay_id.map(first).astype(float))
    films, absent = read_films(raw) if raw.has("cxr/metadata") else (None, None)
    known = raw.has("hosp/diagnoses_icd")
    diagnoses = read_diagnoses(raw, stays.hadm_id) if known else None
    sources = Sources(raw, rules, cohort, stays, films, diagnoses, absent_films=absent)
    sources.facts["signals"] = events.attrs.get("report", {})
    if not known:
        sources.impossible["phe"] = "MIMIC-IV folder without hosp/diagnoses_icd"
    return sources, events


def draft_tasks(sources: Sources, progress: Progress) -> dict[str, pd.DataFrame]:
    """Samples of all tasks for which there is a source, in MIMIC's own numbers."""
    raw, stays, films, admissions = sources.raw, sources.stays, sources.films, sources.cohort.admissions
    drafts = draft_stay_tasks(stays, sources.diagnoses, films)
    if films is None:
        sources.impossible["dia"] = "no MIMIC-CXR folder given"
    elif not raw.has("cxr/chexpert"):
        sources.impossible["dia"] = "MIMIC-CXR folder without mimic-cxr-2.0.0-chexpert.csv"
    else:
        drafts["dia"] = draft_dia(films, read_findings(raw), stays, admissions)
    codes = None
    if not raw.has("note/discharge"):
        sources.impossible["drg"] = "no MIMIC-IV-Note folder given"
    elif not raw.has("hosp/drgcodes"):
        sources.impossible["drg"] = "MIMIC-IV folder without hosp/drgcodes"
    else:
        rows = collect(raw.scan("hosp/drgcodes", ["hadm_id", "drg_type", "drg_code"]), "hosp/drgcodes").to_pandas()
        codes, sources.facts["further_hcfa_rows"] = drg.codes(rows)
    if raw.has("note/discharge"):
        history = {int(hadm) for draft in drafts.values() for hadm in draft.note if hadm >= 0}
        course = set() if codes is None else set(codes.hadm_id.tolist())
        sources.summaries = read_summaries(raw, {"pmh": history, "bhc": course}, progress)
    if codes is not None:
        with_course = set(sources.summaries.texts["bhc"])
        sources.facts["drg_without_course"] = len(codes) - int(codes.hadm_id.isin(with_course).sum())
        drafts["drg"] = draft_drg(codes, with_course, admissions, stays, films)
    return drafts
