"""What the raw files hold: the cohort, its events, films, codes and notes, and the drafts of tasks they allow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from benchmark.data.billing import Billing, read_billing
from benchmark.data.cohort import Cohort, build_cohort
from benchmark.data.diagnoses import code_report, read_diagnoses
from benchmark.data.discretiser import TOLERANCE
from benchmark.data.events import Events, Progress, extract_events
from benchmark.data.film_list import of_other_patients, read_films, read_findings
from benchmark.data.labels import draft_dia, draft_drg, draft_stay_tasks
from benchmark.data.note_source import with_previous_notes
from benchmark.data.owners import REASONS
from benchmark.data.raw import RawMimic
from benchmark.data.rules import Rules
from benchmark.data.split import Split, read_split
from benchmark.data.summaries import Summaries, list_summaries, one_with_history, read_summaries


@dataclass
class Sources:
    """What was read, as far as it is there, and what follows from what is not.

    Attributes:
        rules: the switches it is read with. split: the partition of every patient.
        stays: the cohort with `first_event` (hour of the first event in the unit, NaN without one) and `first_charted`
            (the same, events before the admission to the unit included where the rules keep such).
        films: AP films whose file is there, None without MIMIC-CXR.
        lacking_films: the other AP films, with `reason`. summaries: None without notes. billing: None without notes or
            codes.
        impossible: reason by task. facts: counts for the cohort report. oddities: rows of notes, codes and films
            that contradict other tables.
    """

    raw: RawMimic
    rules: Rules
    split: Split
    cohort: Cohort
    stays: pd.DataFrame
    films: pd.DataFrame | None
    diagnoses: pd.DataFrame | None
    summaries: Summaries | None = None
    billing: Billing | None = None
    lacking_films: pd.DataFrame | None = None
    impossible: dict[str, str] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    oddities: dict[str, int] = field(default_factory=dict)


def read_sources(raw: RawMimic, folder: Path, progress: Progress, rules: Rules = Rules()) -> tuple[Sources, Events]:
    """Read everything but the notes. The events go to `folder`, or are there already."""
    progress("cohort", 0, 1)
    cohort = build_cohort(raw, rules)
    progress("cohort", 1, 1)
    events = extract_events(raw, cohort.stays, folder, rules, progress)
    stays = with_first_events(cohort.stays, events.first_hours(), events.early_hours())
    films, lacking, views = read_films(raw, rules) if raw.has("cxr/metadata") else (None, None, None)
    sources = Sources(raw, rules, read_split(raw, rules), cohort, stays, films, None, lacking_films=lacking)
    sources.facts["signals"] = events.report
    if views is not None:
        sources.facts["films_by_view"] = views
    if raw.has("hosp/diagnoses_icd"):
        sources.diagnoses, rows = read_diagnoses(raw, stays, cohort.admissions, rules)
        sources.facts["diagnoses"] = {"rows": rows} | code_report(sources.diagnoses, rules)
        sources.oddities |= {f"diagnoses {reason}": rows.get(reason, 0) for reason in REASONS}
    else:
        sources.impossible["phe"] = raw.lack("hosp/diagnoses_icd")
    return sources, events


def with_first_events(
    stays: pd.DataFrame, first: Mapping[int, float], earliest: Mapping[int, float] | None = None
) -> pd.DataFrame:
    """The stays with `first_event` and `first_charted`.

    Args:
        first: hour of the first event from the admission to the unit on, by stay; it counts if it lies in the stay.
        earliest: hour of the first event before the admission to the unit, where the rules see such.
    """
    event = stays.stay_id.map(dict(first)).astype(float)
    charted = stays.stay_id.map(dict(earliest or {})).astype(float).fillna(event)
    return stays.assign(first_event=event.where(event < stays.los_hours + TOLERANCE), first_charted=charted)


def draft_tasks(sources: Sources, progress: Progress) -> dict[str, pd.DataFrame]:
    """Samples of all tasks for which there is a source, in MIMIC's own numbers; patients in no partition have none."""
    drafts = _drafts(sources, progress)
    kept = {task: pd.notna(sources.split.all(draft.subject_id)) for task, draft in drafts.items()}
    sources.facts["without_partition"] = {task: int((~rows).sum()) for task, rows in kept.items()}
    return {task: draft[kept[task]].reset_index(drop=True) for task, draft in drafts.items()}


def _drafts(sources: Sources, progress: Progress) -> dict[str, pd.DataFrame]:
    raw, rules, stays, films = sources.raw, sources.rules, sources.stays, sources.films
    admissions = sources.cohort.admissions
    drafts = draft_stay_tasks(stays, sources.diagnoses, films, rules)
    if reason := raw.lack("cxr/metadata") or raw.lack("cxr/chexpert"):
        sources.impossible["dia"] = reason
    elif films.empty:
        sources.impossible["dia"] = "no anterior-posterior film with a file and a time"
    else:
        findings = read_findings(raw)
        drafts["dia"] = draft_dia(films, findings, stays, admissions, rules)
        sources.oddities["films whose findings name another patient"] = of_other_patients(films, findings)
    billing = None
    if reason := raw.lack("note/discharge") or raw.lack("hosp/drgcodes"):
        sources.impossible["drg"] = reason
    else:
        billing = sources.billing = read_billing(raw, admissions, rules)
        sources.oddities |= billing.oddities
    if raw.has("note/discharge"):
        listed, odd = list_summaries(raw, admissions)
        sources.oddities |= odd
        if rules.note_source == "previous_admission":
            drafts = with_previous_notes(drafts, stays, one_with_history(listed, rules), admissions)
        history = {int(hadm) for draft in drafts.values() for hadm in draft.note if hadm >= 0}
        course = set() if billing is None else set(billing.codes.hadm_id.tolist())
        sources.summaries = read_summaries(raw, listed, {"pmh": history, "bhc": course}, progress, rules)
    if billing is not None:
        with_course = sources.summaries.readable("bhc")
        sources.facts["drg_without_course"] = int((~billing.codes.hadm_id.isin(with_course)).sum())
        drafts["drg"] = draft_drg(billing.codes, with_course, admissions, stays, films, rules)
    return drafts
