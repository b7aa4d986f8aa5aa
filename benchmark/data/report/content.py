"""What the cohort report says, as sections of paragraphs, tables and figures; `text` and `page` give it a form."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from benchmark.data.audit.finding import Finding
from benchmark.data.report.blocks import Block, Figure, Section, Table
from benchmark.data.report.comparison import compared
from benchmark.data.switches import SWITCHES
from benchmark.tasks import TASKS

MOST_CLASSES = 30
"""A task with more classes has no table of them; cohort.json holds all."""

MOST_SHOWN = 5

_LISTED = {
    "phenotype": "of one of the 25 phenotypes",
    "listed": "of none of them, by the tables that they are taken from",
    "begins alike": "of none: ICD-10-CM, not listed there (fiscal year 2019), though codes that begin like it are",
    "unlisted": "of none: not listed there, be it a code of a later year or no code at all (the tables cannot tell)",
}
"""What `benchmark.data.diagnoses.code_report` counts."""

NAMES = {"ehr": "ICU series", "cxr": "chest films", "note": "notes"}


def sections(report: dict[str, Any], findings: Sequence[Finding] = ()) -> list[Section]:
    """The whole report; the first section has its title.

    Args:
        report: `cohort.json`. findings: of the audit, none before it was made.
    """
    made: list[tuple[str, Callable[[dict[str, Any]], list[Block]]]] = [
        ("Stays", _stays),
        ("From stays to samples", _flow),
        ("Tasks beside the paper", compared),
        ("Labels", _labels),
        ("Lengths", _lengths),
        ("Films", _films),
        ("Notes", _notes),
        ("Codes", _codes),
        ("Signals", _signals),
        ("Rules", _rules),
        ("Raw files", _files),
    ]
    written = [(title, make(report)) for title, make in made]
    if findings:
        written.append(("Leakage audit", _audit(findings)))
    head = "Simulated data: {}" if report["simulated"] else "{}"
    found = [Section(_heading(head, title), title, blocks) for title, blocks in written if blocks]
    title = _heading(head, f"Cohort report of {report['name']}")
    return [Section(title, title, _opening(report)), *found]


def _heading(head: str, title: str) -> str:
    """The title, with what all headings must say before it.

    >>> _heading("Simulated data: {}", "Stays"), _heading("{}", "Stays")
    ('Simulated data: stays', 'Stays')
    """
    return head.format(title if head == "{}" else title[0].lower() + title[1:])


def _opening(report: dict[str, Any]) -> list[Block]:
    lacking = [title for name, title in NAMES.items() if not report["modalities"][name]]
    blocks: list[Block] = []
    if report["simulated"]:
        blocks.append("These patients are simulated; none of these figures describes real people.")
    blocks.append(f"Release of MIMIC-IV: {report['source']['release']}. Profile of rules: {report['profile']}.")
    if lacking:
        blocks.append(f"Not given: {', '.join(lacking)}.")
    if report["missing_tables"]:
        blocks.append(f"Tables that the MIMIC-IV folder lacks: {', '.join(report['missing_tables'])}.")
    empty = [reason for reason in report["source"]["lacking"].values() if "no rows" in reason]
    if empty:
        blocks.append(f"Taken for absent: {'; '.join(empty)}.")
    if report["source"]["plain_and_gzipped"]:
        blocks.append(
            f"Plain and gzipped, the plain file was read: {', '.join(report['source']['plain_and_gzipped'])}."
        )
    if report["source"]["without_line_end"]:
        tables = ", ".join(report["source"]["without_line_end"])
        blocks.append(f"Files without a line end, which may be cut short in the last field: {tables}.")
    return [*blocks, *(f"Impossible: {TASKS[task].title} ({reason})." for task, reason in report["impossible"].items())]


def _stays(report: dict[str, Any]) -> list[Block]:
    stays = report["stays"]
    rows = [[step["name"], f"{step['kept']:,}", f"{step['dropped']:,}", step["reason"]] for step in report["selection"]]
    blocks: list[Block] = [
        Table(["step", "kept", "dropped", "dropped because"], rows, words=(0, 3)),
        f"{stays['cohort']:,} stays of {stays['patients']:,} patients. Without any event of the 17 channels, and so in "
        f"no time series task: {stays['without_event']:,}.",
        f"Deaths in hospital {stays['died_in_hospital']:,}; in the unit {stays['died_in_icu']:,}; on the "
        f"ward {stays['ward_death']:,}; back within 30 days {stays['readmitted']:,}; death within 30 days of discharge "
        f"{stays['late_death']:,}.",
    ]
    if stays["without_diagnoses"]:
        blocks.append(f"Stays without coded diagnoses, in every task but PHE: {stays['without_diagnoses']:,}.")
    return blocks


def _flow(report: dict[str, Any]) -> list[Block]:
    rows = []
    for task, facts in report["tasks"].items():
        first, *further = facts["flow"]
        rows.append([TASKS[task].title, first["name"], f"{first['kept']:,}", ""])
        rows += [["", f"less: {step['reason']}", "", f"{step['dropped']:,}"] for step in further if step["dropped"]]
        rows.append(["", "samples", f"{facts['samples']:,}", ""])
    figure = Figure("flow", "From the raw ICU stays to the samples of each task. Right: what each step leaves out.")
    return [figure, Table(["task", "", "kept", "dropped"], rows, words=(0, 1))]


def _labels(report: dict[str, Any]) -> list[Block]:
    tasks = report["tasks"]
    blocks: list[Block] = []
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
        blocks.append(Table(headers, rows))
        if report["modalities"]["note"]:
            blocks.append(Figure("by_note", "Outcome rate of samples with and without a note: whether there is a note "
                                 "may itself tell something of the outcome."))  # fmt: skip
    for task, facts in tasks.items():
        if TASKS[task].kind == "multilabel":
            blocks += _multilabel(task, facts, report)
        elif TASKS[task].kind == "multiclass":
            blocks += _classes(TASKS[task].title, facts)
    return blocks


def _multilabel(task: str, facts: dict[str, Any], report: dict[str, Any]) -> list[Block]:
    title, blocks = TASKS[task].title, []
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
        blocks.append(Figure("phenotypes", "Prevalence of the phenotypes among admissions coded in one ICD version."))
    return [*blocks, Table(headers, rows)]


def _classes(title: str, facts: dict[str, Any]) -> list[Block]:
    counts = facts["classes"]
    text = f"{title}: {len(counts)} classes."
    if "of_unseen_class" in facts:
        unseen = ", ".join(f"{count:,} ({split})" for split, count in facts["of_unseen_class"].items())
        text += f" Samples of a class that no training sample has: {unseen}."
    if len(counts) > MOST_CLASSES:
        return [text]
    rows = [[f"`{name}`", f"{count:,}", _percent(count, sum(counts.values()))] for name, count in counts.items()]
    return [text, Table([f"{title} class", "samples", "%"], rows)]


def _lengths(report: dict[str, Any]) -> list[Block]:
    rows = []
    for name, facts in report["lengths"].items():
        quartiles = [f"{value:,.1f}" for value in facts["quartiles"]] or ["-"] * 3
        rows.append([name, f"{facts['n']:,}", "-" if facts["mean"] is None else f"{facts['mean']:,.1f}", *quartiles])
    figure = Figure("lengths", "Distributions of lengths; the last bar of each holds all that is longer.")
    return [Table(["", "n", "mean", "lower quartile", "median", "upper quartile"], rows), figure]


def _films(report: dict[str, Any]) -> list[Block]:
    if "films" not in report:
        return []
    films = report["films"]
    views = ", ".join(f"{name} {count:,}" for name, count in report.get("films_by_view", {}).items())
    untimed = f" and {films['untimed']:,} without a date or time" if films.get("untimed") else ""
    return [
        f"{films['ap_films']:,} anterior-posterior films, and {films['absent']:,} more without a file{untimed}; "
        f"{films['referred_to']:,} belong to a sample, {films['unreadable']:,} of these could not be read.",
        *([f"All films by view position: {views}."] if views else []),
    ]


def _notes(report: dict[str, Any]) -> list[Block]:
    if not report["modalities"]["note"]:
        return []
    counts = {task: facts["notes"] for task, facts in report["tasks"].items()}
    names = list(next(iter(counts.values())))
    rows = [[TASKS[task].title, *(f"{facts.get(name, 0):,}" for name in names)] for task, facts in counts.items()]
    blocks: list[Block] = [
        "What became of the section that each task reads, by samples. A truncated history is not used.",
        Table(["task", *names], rows),
    ]
    headings = [
        [section, f"`{heading}`", f"{count:,}"]
        for section, facts in report["sections"].items()
        for heading, count in list(facts["headings"].items())[:MOST_SHOWN]
    ]
    if headings:
        blocks.append(Table(["section", "most frequent headings", "summaries"], headings, words=(0, 1)))
    return blocks


def _codes(report: dict[str, Any]) -> list[Block]:
    """What became of all rows of the tables of codes."""
    found = {
        "hosp/diagnoses_icd": report.get("diagnoses", {}).get("rows", {}),
        "hosp/drgcodes": report.get("billing_rows", {}),
    }
    rows = [[table, fate, f"{count:,}"] for table, fates in found.items() for fate, count in fates.items() if count]
    if not rows:
        return []
    blocks: list[Block] = [Table(["table", "what became of the row", "rows"], rows, words=(0, 1))]
    if "diagnoses" not in report:
        return blocks
    kinds = report["diagnoses"]
    blocks.append(Table(["diagnoses that count", "number"], [[_LISTED[k], f"{kinds[k]:,}"] for k in _LISTED]))
    odd = [[f"`{code}`", f"{count:,}"] for code, count in kinds["unlisted codes"].items()]
    return [*blocks, Table(["most frequent unlisted codes", "diagnoses"], odd)] if odd else blocks


def _signals(report: dict[str, Any]) -> list[Block]:
    signals = report["signals"]
    verdicts = list(dict.fromkeys(name for counts in signals["rows"].values() for name in counts))
    rows = [
        [channel, f"{100 * report['observed_hours'][channel]:.1f}", *(f"{counts.get(name, 0):,}" for name in verdicts)]
        for channel, counts in signals["rows"].items()
    ]
    blocks: list[Block] = [
        f"{signals['events']:,} events, {signals['derived_coma_totals']:,} of them sums of the coma scale.",
        Figure("observed", "Share of the hours of all stays in which a channel was observed."),
        Table(["channel", "hours observed %", *(f"rows {name}" for name in verdicts)], rows),
    ]
    for key, title in (("unknown_texts", "unknown text"), ("other_units", "other unit")):
        odd = [
            [item, f"`{text}`", f"{count:,}"]
            for item, texts in signals.get(key, {}).items()
            for text, count in list(texts.items())[:MOST_SHOWN]
        ]
        if odd:
            blocks.append(Table(["item", title, "rows"], odd, words=(0, 1)))
    if report["not_fitted"]:
        blocks.append(
            "Too few or only equal values in the training stays; scaled with the channel's normal value and usual "
            f"spread: {', '.join(report['not_fitted'])}."
        )
    for kind, found in signals["dictionary"].items():
        if found:
            blocks.append(f"Items {kind} in the dictionaries: {'; '.join(found)}.")
    return blocks


def _rules(report: dict[str, Any]) -> list[Block]:
    rows = []
    for switch in SWITCHES:
        setting = report["rules"][switch.name]
        marks = [name for name in ("fix", "ref") if getattr(switch, name) == setting]
        rows.append([f"`{switch.name}`", f"`{setting}`", switch.settings[setting], " and ".join(marks) or "neither"])
    return [
        f"Profile: {report['profile']}.",
        Table(["rule", "setting", "what it does", "as in"], rows, words=(0, 1, 2, 3)),
    ]


def _files(report: dict[str, Any]) -> list[Block]:
    source = report["source"]
    rows = [
        [table, f"`{file['file']}`", f"{file['rows']:,}", f"{file['bytes']:,}", f"`{file['sha256'][:12]}`"]
        for table, file in source["files"].items()
    ]
    odd = [[name, f"{count:,}"] for name, count in source["oddities"].items() if count]
    blocks: list[Block] = [Table(["table", "file", "rows", "bytes", "SHA-256 begins"], rows, words=(0, 1, 4))]
    return [*blocks, Table(["oddities of the raw tables", "rows"], odd)] if odd else blocks


def _audit(findings: Sequence[Finding]) -> list[Block]:
    broken = [found for found in findings if found.violated]
    checked = [found for found in findings if found.kind == "check"]
    blocks: list[Block] = [
        f"{len(checked)} checks of {len({found.rule for found in checked})} rules; {len(broken)} found a violation."
    ]
    blocks += [f"Violation: {found}." for found in broken]
    rows = [
        [
            TASKS[found.task].title if found.task else "all",
            found.rule,
            found.about,
            f"{found.found:,}",
            f"{found.checked:,}",
        ]
        for found in findings
        if found.kind != "check"
    ]
    if rows:
        blocks.append("Known only after the prediction, by design of the task, or not to be checked:")
        blocks.append(Table(["task", "input", "what it is", "samples", "of"], rows, words=(0, 1, 2)))
    return blocks


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f}" if whole else "-"
