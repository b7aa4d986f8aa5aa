"""From raw MIMIC files to a data set that training can open: the whole way, step by step."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl

from benchmark.data.audit import audit_folder, require_sound, write_audit
from benchmark.data.audit.evidence import write_event_hours, write_origins
from benchmark.data.film_list import NO_FILE, NO_TIME
from benchmark.data.film_store import read_sums, write_films
from benchmark.data.fingerprint import FORMAT, fingerprint, sizes
from benchmark.data.labels import films_from
from benchmark.data.people import write_people
from benchmark.data.raw import TABLES, RawMimic
from benchmark.data.redraw import stay_films, write_stay_films
from benchmark.data.release import Identities, content_fingerprint, oddities, release
from benchmark.data.report import cohort_report, markdown
from benchmark.data.request import FILE as REQUEST_FILE
from benchmark.data.request import code, existing, request, simulation
from benchmark.data.rules import Rules
from benchmark.data.samples import Rows, Sampled, cuts_of, has_truth, number_samples, truth_of
from benchmark.data.series import Progress, SeriesIndex, write_series
from benchmark.data.sources import Sources, draft_tasks, read_sources
from benchmark.data.split import SPLITS, read_assignment
from benchmark.data.summaries import number_texts
from benchmark.data.workplace import Workplace, workplace
from benchmark.errors import UserError
from benchmark.files import replace_text
from benchmark.tasks import TASKS


def prepare(
    mimic_iv: Path,
    out: Path,
    mimic_cxr: Path | None = None,
    mimic_note: Path | None = None,
    name: str | None = None,
    progress: Progress | None = None,
    rules: Rules = Rules(),
) -> dict[str, Any]:
    """Prepare a data set.

    Args:
        mimic_iv, mimic_cxr, mimic_note: the raw folders. out: the folder to write. If it holds a data set that was made
            from the same, nothing is done.
        name: what tables call the data; by default the simulation or the MIMIC-IV folder. progress: called with (what,
            done, total). rules: a setting of every switch.

    Returns:
        The manifest.

    Raises:
        UserError: a folder, file or column is missing or unreadable, no task is possible, or `out` is something else.
    """
    out = Path(os.path.abspath(out))
    raw = RawMimic(Path(mimic_iv), mimic_cxr and Path(mimic_cxr), mimic_note and Path(mimic_note))
    if os.path.lexists(out):  # also a link to nothing, in whose place no folder can be put
        return existing(out, raw, rules, name)
    raw.require_needed()
    asked = request(raw, rules)
    with workplace(out) as place, Identities(raw) as identities:
        manifest = _prepare(raw, place, name or _default_name(raw), progress or (lambda *_: None), rules, identities)
        replace_text(place.data / REQUEST_FILE, json.dumps(asked, indent=2) + "\n")
    return manifest


def _default_name(raw: RawMimic) -> str:
    marker = raw.marker()
    if marker is None:
        return raw.roots["iv"].resolve().name
    return f"simulated-{marker['patients']}-s{marker['seed']}"


def _prepare(
    raw: RawMimic, place: Workplace, name: str, progress: Progress, rules: Rules, identities: Identities
) -> dict[str, Any]:
    folder = place.data
    sources, events = read_sources(raw, place.events, progress, rules)
    drafts = draft_tasks(sources, progress)
    candidates = stay_films(_redrawn_stays(sources, drafts), sources.films, rules)
    film_rows = _write_films(sources, drafts, candidates, place, progress)
    drafts = _possible(drafts, sources)
    stays = sources.stays[sources.stays.first_event.notna()]
    training = {
        stay
        for stay, subject in zip(stays.stay_id, stays.subject_id, strict=True)
        if sources.split.of(subject) == "train"
    }
    series = write_series(events, stays, training, cuts_of(drafts), folder, rules, progress)
    write_event_hours(events.buckets(), stays, cuts_of(drafts), _private(folder), rules)
    note_rows = _write_notes(sources, drafts, folder)
    sampled = number_samples(drafts, Rows(series, film_rows, note_rows), sources.split, rules)
    _write_samples(sampled, folder, raw)
    write_stay_films(candidates, series.stay_row, film_rows, folder)
    write_people(raw, sampled.links, folder)
    assignment = read_assignment(raw, sources.split)
    assignment.to_parquet(_private(folder) / "split.parquet", index=False)
    sources.facts["patients"] = {split: int((assignment["split"] == split).sum()) for split in SPLITS}
    _write_truth(raw, sampled, folder, sources.rules)
    write_origins(
        _private(folder),
        sampled,
        stays.assign(split=sources.split.all(stays.subject_id)),
        None if sources.films is None else sources.films.assign(film=film_rows),
        None if sources.summaries is None else (note_rows, sources.summaries.times, sources.summaries.patients()),
    )
    manifest = _describe(sources, sampled, drafts, series, folder, name, identities)
    findings = audit_folder(folder)
    require_sound(findings)
    write_audit(findings, folder)
    return manifest


def _redrawn_stays(sources: Sources, drafts: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Training stays whose hour may be drawn anew."""
    timed = pd.concat([drafts[task].stay_id for task, record in TASKS.items() if record.label_at and task in drafts])
    stays = sources.stays[sources.stays.stay_id.isin(timed)]
    stays = stays[sources.split.all(stays.subject_id) == "train"]
    return stays.assign(start=films_from(stays, sources.rules))


def _write_films(
    sources: Sources,
    drafts: dict[str, pd.DataFrame],
    candidates: pd.DataFrame,
    place: Workplace,
    progress: Progress,
) -> np.ndarray:
    """Write the films that samples refer to; takes samples of the findings task out whose film cannot be read.

    Films without a time or a readable file are listed in `private/unreadable_films.csv`.
    """
    if sources.films is None:
        return np.array([], dtype=np.int64)
    films = sources.films
    used = np.unique(np.concatenate([*(draft.film.to_numpy() for draft in drafts.values()), candidates.film]))
    used = used[used >= 0]
    chosen = films.iloc[used]
    triples = zip(chosen.subject_id, chosen.study_id, chosen.dicom_id, strict=True)
    paths = [sources.raw.film_path(*triple) for triple in triples]
    sums = read_sums(sources.raw.roots["cxr"], paths)
    written = write_films(paths, place.folder, progress, rules=sources.rules, sums=sums)
    place.take(place.films / "pixels.npy", place.data / "films" / "pixels.npy")
    rows = np.full(len(films), -1, dtype=np.int64)
    rows[used] = written.rows
    broken = chosen.iloc[list(written.reasons)].assign(reason=list(written.reasons.values()))
    failed = pd.concat([broken, sources.lacking_films])
    sources.facts["films"] = {
        "ap_films": len(films),
        "absent": int((sources.lacking_films.reason == NO_FILE).sum()),
        "untimed": int((sources.lacking_films.reason == NO_TIME).sum()),
        "referred_to": len(used),
        "unreadable": len(written.reasons),
    }
    if len(failed):
        columns = ["subject_id", "study_id", "dicom_id", "reason"]
        failed[columns].to_csv(_private(place.data) / "unreadable_films.csv", index=False, lineterminator="\n")
    if "dia" in drafts:
        drafts["dia"] = drafts["dia"][rows[drafts["dia"].film] >= 0].reset_index(drop=True)
    return rows


def _possible(drafts: dict[str, pd.DataFrame], sources: Sources) -> dict[str, pd.DataFrame]:
    """The drafts of tasks that can be trained; the reasons of the others are noted."""
    kept = {}
    for task in TASKS:
        draft = drafts.get(task)
        if draft is None:
            continue
        if (sources.split.all(draft.subject_id.unique()) == "train").any():
            kept[task] = draft
        else:
            sources.impossible[task] = "no sample of a training patient" if len(draft) else "no sample"
    if not kept:
        reasons = "; ".join(f"{task}: {reason}" for task, reason in sources.impossible.items())
        raise UserError(f"no task can be prepared from {sources.raw.roots['iv']} ({reasons})")
    return kept


def _write_notes(sources: Sources, drafts: dict[str, pd.DataFrame], folder: Path) -> dict[tuple[str, int], int]:
    if sources.summaries is None:
        return {}
    used: dict[str, set[int]] = {}
    for task, draft in drafts.items():
        used.setdefault(TASKS[task].note_section, set()).update(draft.note.tolist())
    table, rows = number_texts(sources.summaries, used)
    (folder / "notes").mkdir()
    # In small groups: otherwise writing takes three times the memory of the texts.
    table.write_parquet(folder / "notes" / "texts.parquet", row_group_size=2_000)
    return rows


def _write_samples(sampled: Sampled, folder: Path, raw: RawMimic) -> None:
    (folder / "samples").mkdir()
    for task, frame in sampled.frames.items():
        frame.to_parquet(folder / "samples" / f"{task}.parquet", index=False)
    private = _private(folder)
    sampled.links.to_parquet(private / "links.parquet", index=False)
    key = private / "key.bin"
    key.write_bytes(_new_key(raw))
    key.chmod(0o600)


def _new_key(raw: RawMimic) -> bytes:
    """The key of the hashes that stand for patients in results; random, since patients are not to be found by it.

    Simulated ones are nobody. Theirs follows from the simulation, so that results, draws of patients included, are the
    same wherever a cohort is made.
    """
    marker = raw.marker()
    if marker is None:
        return os.urandom(32)
    facts = {name: value for name, value in marker.items() if name != "truth"}
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).digest()


def _private(folder: Path) -> Path:
    """The folder of what must not leave the machine."""
    private = folder / "private"
    private.mkdir(mode=0o700, exist_ok=True)
    return private


def _write_truth(raw: RawMimic, sampled: Sampled, folder: Path, rules: Rules) -> None:
    """True outcome probabilities of simulated samples, for reports only, of tasks whose labels are the usual ones."""
    marker = raw.marker()
    if marker is None:
        return
    if "truth" not in marker or not marker["truth"].is_file():
        raise UserError(f"simulated data without truth.parquet (looked for {marker.get('truth')})")
    truth = pl.read_parquet(marker["truth"]).to_pandas()
    (folder / "truth").mkdir()
    for task in sampled.frames:
        if not has_truth(task, rules):
            continue
        columns = None
        if task == "drg":
            known = {code: index for index, code in enumerate(marker.get("drg_classes", []))}
            unknown = [code for code in sampled.classes["drg"] if code not in known]
            if unknown:
                raise UserError(f"the simulation's drg_classes lack {', '.join(unknown)}")
            columns = [known[code] for code in sampled.classes["drg"]]
        table = truth_of(truth, task, sampled.links, columns)
        table.to_parquet(folder / "truth" / f"{task}.parquet", index=False)


def _describe(
    sources: Sources,
    sampled: Sampled,
    drafts: dict[str, pd.DataFrame],
    series: SeriesIndex,
    folder: Path,
    name: str,
    identities: Identities,
) -> dict[str, Any]:
    """Write cohort report and manifest."""
    raw = sources.raw
    manifest = {
        "format": FORMAT,
        "name": name,
        "simulated": raw.marker() is not None,
        "source": _source(sources, identities),
        "code": code(),
        "fingerprint": fingerprint(folder),
        "content": sizes(folder),
        "profile": sources.rules.profile,
        "rules": asdict(sources.rules),
        "patients": sources.facts["patients"],
        "modalities": {"ehr": True, "cxr": sources.films is not None, "note": sources.summaries is not None},
        "note_sections": ["pmh", "bhc"] if sources.summaries is not None else [],
        "tasks": {
            task: {
                "classes": list(sampled.classes[task]),
                "samples": {split: int((frame["split"] == split).sum()) for split in SPLITS},
            }
            for task, frame in sampled.frames.items()
        },
        "impossible": {task: sources.impossible[task] for task in TASKS if task in sources.impossible},
    }
    report = cohort_report(sources, sampled, drafts, series, manifest, folder)
    _write_text(folder / "cohort.json", json.dumps(report, indent=2) + "\n")
    _write_text(folder / "cohort.md", markdown(report))
    _write_text(folder / "manifest.json", json.dumps(manifest, indent=2) + "\n")
    return manifest


def _source(sources: Sources, identities: Identities) -> dict[str, Any]:
    """What the data set was made from."""
    raw = sources.raw
    files = identities.finish(sources.facts["signals"].get("read", {}))
    return {
        "simulation": simulation(raw),
        "release": release(raw),
        "stays": sources.cohort.steps[0].kept,
        "admissions": len(sources.cohort.admissions),
        "files": files,
        "fingerprint": content_fingerprint(files),
        "lacking": {table: reason for table in TABLES if (reason := raw.lack(table))},
        "plain_and_gzipped": raw.twice(),
        "without_line_end": raw.ending_openly(),
        "oddities": oddities(raw) | sources.oddities,
    }


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
