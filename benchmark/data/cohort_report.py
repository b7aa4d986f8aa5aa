"""The cohort report: what became of the stays, and what each task holds, beside the paper's figures."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from tabulate import tabulate

from benchmark.data.phenotypes import PHENOTYPES
from benchmark.data.samples import Sampled
from benchmark.data.series import SeriesIndex
from benchmark.data.sources import Sources
from benchmark.data.split import SPLITS
from benchmark.published import published_cohort
from benchmark.tasks import TASKS

MOST_CLASSES = 30
"""A task with more classes has no table of them in the Markdown report; JSON holds all."""

_ROWS = {"ehr": "series", "cxr": "film", "note": "note"}


def cohort_report(
    sources: Sources,
    sampled: Sampled,
    drafts: dict[str, pd.DataFrame],
    series: SeriesIndex,
    manifest: dict[str, Any],
) -> dict[str, Any]:
    """Everything the report says, ready for JSON."""
    stays, paper = sources.stays, published_cohort()
    outcomes = ("died_in_hospital", "died_in_icu", "ward_death", "readmitted", "late_death")
    with_events = stays[stays.first_event.notna()]
    report = {key: manifest[key] for key in ("name", "simulated", "profile", "modalities", "impossible")}
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
        task: _task(task, frame, drafts[task], sampled.classes[task], sources) | {"published": paper[task]}
        for task, frame in sampled.frames.items()
    }
    if "phe" in sampled.frames:
        report["phenotypes_by_icd_version"] = _by_version(sampled.frames["phe"], drafts["phe"], sources.diagnoses)
    further = ("films", "further_hcfa_rows", "drg_without_course")
    report |= {name: sources.facts[name] for name in further if name in sources.facts}
    report["signals"] = sources.facts["signals"]
    report["not_fitted"] = series.standardiser.not_fitted
    report["observed_hours"] = {channel: round(share, 4) for channel, share in series.observed.items()}
    return report


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


def markdown(report: dict[str, Any]) -> str:
    """The report as Markdown."""
    kind = "Simulated data: " if report["simulated"] else ""
    there = {"ehr": "ICU series", "cxr": "chest films", "note": "notes"}
    lacking = [title for name, title in there.items() if not report["modalities"][name]]
    parts = [f"# {kind}cohort report of {report['name']}" if kind else f"# Cohort report of {report['name']}"]
    if report["simulated"]:
        parts.append("These patients are simulated; none of these figures describes real people.")
    if lacking:
        parts.append(f"Not given: {', '.join(lacking)}.")
    if report["missing_tables"]:
        parts.append(f"Tables that the MIMIC-IV folder lacks: {', '.join(report['missing_tables'])}.")
    parts += [f"Impossible: {TASKS[task].title} ({reason})." for task, reason in report["impossible"].items()]
    parts += ["## Stays", _selection(report), "## Tasks", _tasks(report), "## Labels", *_labels(report)]
    if "films" in report:
        films = report["films"]
        parts.append("## Films")
        parts.append(
            f"{films['ap_films']:,} anterior-posterior films, and {films['absent']:,} more without a file; "
            f"{films['referred_to']:,} belong to a sample, {films['unreadable']:,} of these could not be read."
        )
    if report["modalities"]["note"]:
        parts += ["## Notes", _notes(report)]
    parts += ["## Signals", *_signals(report)]
    return "\n\n".join(parts) + "\n"


def _table(rows: list[list[Any]], headers: list[str]) -> str:
    align = ["left"] + ["right"] * (len(headers) - 1)
    return tabulate(rows, headers, tablefmt="github", colalign=align, disable_numparse=True)


def _selection(report: dict[str, Any]) -> str:
    steps = [
        [step["name"], f"{step['kept']:,}", f"{step['dropped']:,}", step["reason"]] for step in report["selection"]
    ]
    stays = report["stays"]
    table = tabulate(steps, ["step", "kept", "dropped", "dropped because"], tablefmt="github", disable_numparse=True,
                     colalign=("left", "right", "right", "left"))  # fmt: skip
    lines = [
        f"{stays['cohort']:,} stays of {stays['patients']:,} patients. Without any event of the 17 channels, and so in "
        f"no time series task: {stays['without_event']:,}.",
        f"Deaths in hospital {stays['died_in_hospital']:,}, of these in the unit {stays['died_in_icu']:,} and on the "
        f"ward {stays['ward_death']:,}; back within 30 days {stays['readmitted']:,}; death within 30 days of discharge "
        f"{stays['late_death']:,}.",
    ]
    if stays["without_diagnoses"]:
        lines.append(f"Stays without coded diagnoses, in every task but PHE: {stays['without_diagnoses']:,}.")
    return "\n\n".join([table, *lines])


def _tasks(report: dict[str, Any]) -> str:
    rows = []
    for task, facts in report["tasks"].items():
        published = {name: "-" if rate is None else f"{rate:.2f}" for name, rate in facts["published"].items()}
        missing = [f"{facts['missing_percent'][name]:.2f} ({published[name]})" for name in _ROWS]
        samples = f"{facts['samples']:,} ({facts['published']['samples']:,})"
        rows.append([TASKS[task].title, samples, *(f"{facts['split'][split]:,}" for split in SPLITS), *missing])
    headers = ["task", "samples", *SPLITS, "series missing %", "film missing %", "note missing %"]
    return "In brackets: FlexCare (KDD 2024), Table 2, on MIMIC-IV 2.0.\n\n" + _table(rows, headers)


def _labels(report: dict[str, Any]) -> list[str]:
    tasks, parts = report["tasks"], []
    binary = {task: facts for task, facts in tasks.items() if TASKS[task].kind == "binary"}
    headers = ["task", "positives", "%"]
    rows = [
        [TASKS[task].title, f"{facts['positives']:,}", _percent(facts["positives"], facts["samples"])]
        for task, facts in binary.items()
    ]
    if report["modalities"]["note"]:
        headers += ["% with a note", "% without"]
        for row, facts in zip(rows, binary.values(), strict=True):
            row += [_percent(part["positives"], part["samples"]) for part in facts["by_note"].values()]
    if rows:
        parts.append(_table(rows, headers))
    for task, facts in tasks.items():
        title = TASKS[task].title
        if TASKS[task].kind == "multilabel":
            rows = [
                [name, f"{count:,}", f"{facts['labelled'][name]:,}", _percent(count, facts["labelled"][name])]
                for name, count in facts["positives"].items()
            ]
            headers = [f"{title} label", "positives", "labelled", "%"]
            if task == "phe":
                for version, own in report["phenotypes_by_icd_version"].items():
                    headers.append(f"% of {own['stays']:,} ICD-{version} stays")
                    for row, share in zip(rows, own["prevalence"], strict=True):
                        row.append("-" if share is None else f"{100 * share:.1f}")
            parts.append(_table(rows, headers))
        elif TASKS[task].kind == "multiclass":
            parts.append(_classes(title, facts))
    return parts


def _classes(title: str, facts: dict[str, Any]) -> str:
    counts = facts["classes"]
    text = f"{title}: {len(counts)} classes."
    if "of_unseen_class" in facts:
        unseen = ", ".join(f"{count:,} ({split})" for split, count in facts["of_unseen_class"].items())
        text += f" Samples of a class that no training sample has: {unseen}."
    if len(counts) > MOST_CLASSES:
        return text
    rows = [[f"`{name}`", f"{count:,}", _percent(count, sum(counts.values()))] for name, count in counts.items()]
    return text + "\n\n" + _table(rows, [f"{title} class", "samples", "%"])


def _notes(report: dict[str, Any]) -> str:
    counts = {task: facts["notes"] for task, facts in report["tasks"].items()}
    names = list(next(iter(counts.values())))
    rows = [[TASKS[task].title, *(f"{facts.get(name, 0):,}" for name in names)] for task, facts in counts.items()]
    text = "What became of the section that each task reads, by samples. A truncated history is not used.\n\n"
    text += _table(rows, ["task", *names])
    if "drg_without_course" in report:
        text += (
            f"\n\nAdmissions with a DRG but without a hospital course: {report['drg_without_course']:,}; "
            f"further HCFA rows of an admission, left out: {report['further_hcfa_rows']:,}."
        )
    return text


def _signals(report: dict[str, Any]) -> list[str]:
    signals = report["signals"]
    verdicts = list(dict.fromkeys(name for counts in signals["rows"].values() for name in counts))
    rows = [
        [channel, f"{100 * report['observed_hours'][channel]:.1f}", *(f"{counts.get(name, 0):,}" for name in verdicts)]
        for channel, counts in signals["rows"].items()
    ]
    parts = [
        f"{signals['events']:,} events, {signals['derived_coma_totals']:,} of them sums of the coma scale.",
        _table(rows, ["channel", "hours observed %", *(f"rows {name}" for name in verdicts)]),
    ]
    if report["not_fitted"]:
        parts.append(
            "Too few or only equal values in the training stays; scaled with the channel's normal value and usual "
            f"spread: {', '.join(report['not_fitted'])}."
        )
    for kind, found in signals["dictionary"].items():
        if found:
            parts.append(f"Items {kind} in the dictionaries: {'; '.join(found)}.")
    return parts


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f}" if whole else "-"
