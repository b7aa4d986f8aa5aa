"""Counts what a data set holds while it is prepared, for `cohort.json`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmark.data.phenotypes import PHENOTYPES
from benchmark.data.report.flow import flow_of, histogram
from benchmark.data.samples import Sampled
from benchmark.data.series import SeriesIndex
from benchmark.data.sources import Sources
from benchmark.data.split import SPLITS
from benchmark.published import published_cohort
from benchmark.tasks import TASKS

STAY_HOURS = [0, 12, 24, 36, 48, 72, 96, 120, 168, 240, 336, 512]
"""Edges of the distribution of stays; 512 is the longest input of a model."""

WORDS = [0, 10, 25, 50, 75, 100, 150, 200, 300, 400, 600, 1000]

DAYS_LEFT = [0, 0.5, 1, 1.5, 2, 3, 4, 5, 6, 7, 8, 10, 14, 21]

_ROWS = {"ehr": "series", "cxr": "film", "note": "note"}


def cohort_report(
    sources: Sources,
    sampled: Sampled,
    drafts: dict[str, pd.DataFrame],
    series: SeriesIndex,
    manifest: dict[str, Any],
    folder: Path,
) -> dict[str, Any]:
    """Everything the report says, ready for JSON.

    Args:
        folder: the data set, with its samples and texts written.
    """
    stays, paper = sources.stays, published_cohort()
    outcomes = ("died_in_hospital", "died_in_icu", "ward_death", "readmitted", "late_death")
    with_events = stays[stays.first_event.notna()]
    report = {key: manifest[key] for key in ("name", "simulated", "profile", "rules", "modalities", "impossible")}
    report["source"] = {key: value for key, value in manifest["source"].items() if key != "simulation"}
    report["patients_by_partition"] = manifest["patients"]
    report["missing_tables"] = [
        table for table in ("hosp/labevents", "hosp/diagnoses_icd") if not sources.raw.has(table)
    ]
    report["selection"] = [vars(step) for step in sources.cohort.steps]
    report["stays"] = {
        "cohort": len(stays),
        "without_event": len(stays) - len(with_events),
        "patients": int(stays.subject_id.nunique()),
        **{name: int(stays[name].sum()) for name in outcomes},
        "without_diagnoses": _without_diagnoses(sources),
    }
    report["tasks"] = {
        task: _task(task, frame, drafts[task], sampled.classes[task], sources)
        | {"flow": flow_of(task, drafts[task], sources), "published": paper[task]}
        for task, frame in sampled.frames.items()
    }
    if "phe" in sampled.frames:
        report["phenotypes_by_icd_version"] = _by_version(sampled.frames["phe"], drafts["phe"], sources.diagnoses)
    further = ("films", "films_by_view", "diagnoses")
    report |= {name: sources.facts[name] for name in further if name in sources.facts}
    if sources.billing is not None:
        report["billing_rows"] = sources.billing.rows
    report["signals"] = sources.facts["signals"]
    report["not_fitted"] = series.standardiser.not_fitted
    report["observed_hours"] = {channel: round(share, 4) for channel, share in series.observed.items()}
    if sources.summaries is not None:
        report["sections"] = sources.summaries.report()
    report["lengths"] = _lengths(sources, drafts, with_events, folder)
    return report


def _lengths(
    sources: Sources, drafts: dict[str, pd.DataFrame], stays: pd.DataFrame, folder: Path
) -> dict[str, dict[str, Any]]:
    """Distributions of stays, of the time left at a prediction of LOS, and of texts."""
    found = {"hours of ICU stays": histogram(stays.los_hours, STAY_HOURS)}
    if "los" in drafts:
        draft = drafts["los"]
        left = draft.stay_id.map(stays.set_index("stay_id").los_hours) - draft.hour
        found["days left at the prediction of LOS"] = histogram(left / 24, DAYS_LEFT)
    if sources.summaries is not None:
        texts = pd.read_parquet(folder / "notes" / "texts.parquet", columns=["section", "text"])
        words = texts.text.str.split().str.len()
        for section, title in (("pmh", "histories"), ("bhc", "hospital courses")):
            found[f"words of {title}"] = histogram(words[texts.section == section], WORDS)
    return found


def _without_diagnoses(sources: Sources) -> int | None:
    if sources.diagnoses is None:
        return None
    return int((~sources.stays.hadm_id.isin(sources.diagnoses.hadm_id)).sum())


def _task(
    task: str, frame: pd.DataFrame, draft: pd.DataFrame, classes: tuple[str, ...], sources: Sources
) -> dict[str, Any]:
    labels = frame[[name for name in frame.columns if name[0] == "y"]].to_numpy()
    facts: dict[str, Any] = {
        "samples": len(frame),
        "patients": int(frame.patient.nunique()),
        "split": {split: int((frame["split"] == split).sum()) for split in SPLITS},
        "missing_percent": {name: round(100 * float((frame[row] < 0).mean()), 2) for name, row in _ROWS.items()},
    }
    if TASKS[task].kind == "binary":
        facts["positives"] = int(np.nansum(labels))
        if sources.summaries is not None:
            facts["by_note"] = _by_note(frame)
    elif TASKS[task].kind == "multilabel":
        known = np.isfinite(labels)
        facts["positives"] = dict(zip(classes, np.nansum(labels, axis=0).astype(int).tolist(), strict=True))
        facts["labelled"] = dict(zip(classes, known.sum(axis=0).tolist(), strict=True))
    else:
        numbers = labels[np.isfinite(labels[:, 0]), 0].astype(int)
        facts["classes"] = dict(zip(classes, np.bincount(numbers, minlength=len(classes)).tolist(), strict=True))
        if TASKS[task].classes is None:
            unseen = frame[frame.y0.isna()]
            facts["of_unseen_class"] = {split: int((unseen["split"] == split).sum()) for split in SPLITS}
    if sources.summaries is not None:
        facts["notes"] = sources.summaries.counts(TASKS[task].note_section, draft.note)
    return facts


def _by_note(frame: pd.DataFrame) -> dict[str, dict[str, int]]:
    """Outcomes with and without a note: whether a note is there may itself tell something of the outcome."""
    present = frame.note >= 0
    parts = {"present": frame[present], "missing": frame[~present]}
    return {name: {"samples": len(part), "positives": int(part.y0.sum())} for name, part in parts.items()}


def _by_version(frame: pd.DataFrame, draft: pd.DataFrame, diagnoses: pd.DataFrame) -> dict[str, Any]:
    """Prevalence of each phenotype among admissions coded in one ICD version only."""
    versions = diagnoses.groupby("hadm_id").icd_version.agg(["min", "max"])
    own = versions.reindex(draft.hadm_id)
    result = {}
    for version in (9, 10):
        chosen = frame[((own["min"] == version) & (own["max"] == version)).to_numpy()]
        shares = chosen[[f"y{index}" for index in range(len(PHENOTYPES))]].mean()
        prevalence = [None if pd.isna(share) else round(float(share), 4) for share in shares]
        result[str(version)] = {"stays": len(chosen), "prevalence": prevalence}
    return result
