"""The audit of a prepared folder: sound as written, and each rule sees the violation that is planted for it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pytest
from raw_files import Hospital, subjects_in

import benchmark.data.prepare as prepare_module
import benchmark.data.summaries as summaries_module
from benchmark.data.audit import LeakageError, audit_folder, read_audit, require_sound
from benchmark.data.channels import VALUES
from benchmark.data.prepare import prepare
from benchmark.errors import UserError

SUMMARY = (
    "Past Medical History:\nhistory {index}\nSocial History:\n___\nBrief Hospital Course:\ncourse\nFacility:\n___\n"
)
SUBJECTS = [*subjects_in("train", 5), *subjects_in("val", 2), *subjects_in("test", 2)]


def hospital() -> Hospital:
    """Nine patients with a stay of 60 hours, each with two studies and a summary."""
    raw = Hospital()
    for index, subject in enumerate(SUBJECTS):
        hadm = 20_000_000 + index
        raw.patient(subject)
        raw.admission(subject, hadm)
        raw.stay(subject, hadm, 30_000_000 + index, length=60.0, beats=(0.5, 3.0, 9.7 + index, 30.2, 47.5, 55.0))
        raw.diagnosis(subject, hadm, "I10", 10)
        raw.add("hosp/drgcodes", subject_id=subject, hadm_id=hadm, drg_type="HCFA", drg_code="064")
        raw.note(subject, hadm, SUMMARY.format(index=index))
        for study, at in ((50_000_000 + 2 * index, 8.3), (50_000_001 + 2 * index, 52.6)):
            raw.film(subject, study, f"film{study}", at)
            raw.findings(subject, study, Edema=1.0)
    return raw


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> Path:
    paths = hospital().write(tmp_path_factory.mktemp("raw"))
    out = tmp_path_factory.mktemp("prepared") / "data"
    prepare(**paths, out=out)
    return out


def table(path: str, edit: Callable[[pd.DataFrame], None]) -> Callable[[Path], None]:
    """Changes a table of the folder in place."""

    def plant(folder: Path) -> None:
        frame = pd.read_parquet(folder / path)
        edit(frame)
        frame.to_parquet(folder / path, index=False)

    return plant


def array(path: str, edit: Callable[[np.ndarray], None]) -> Callable[[Path], None]:
    def plant(folder: Path) -> None:
        values = np.load(folder / path)
        edit(values)
        np.save(folder / path, values)

    return plant


def cell(column: str, value: object, row: int = 0) -> Callable[[pd.DataFrame], None]:
    return lambda frame: frame.__setitem__(column, frame[column].where(frame.index != row, value))


def later(column: str, hours: float, row: int = 0) -> Callable[[pd.DataFrame], None]:
    return lambda frame: cell(column, frame[column][row] + pd.Timedelta(hours=hours), row)(frame)


def statistics(folder: Path, **changes: float) -> None:
    """Changes the standardiser's figures of the heart rate."""
    path = folder / "standardiser.json"
    content = json.loads(path.read_text())
    heart_rate = next(channel for channel in content["channels"] if channel["channel"] == "Heart Rate")
    heart_rate.update(changes)
    path.write_text(json.dumps(content))


def other_stays(folder: Path) -> None:
    path = folder / "standardiser.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"training_stays_sha256": "0" * 64}))


def other_classes(folder: Path) -> None:
    path = folder / "manifest.json"
    content = json.loads(path.read_text())
    content["tasks"]["drg"]["classes"] = ["064", "900"]
    path.write_text(json.dumps(content))


def other_rule(name: str, setting: str) -> Callable[[Path], None]:
    """Claims another rule than the one that the data were prepared with."""

    def plant(folder: Path) -> None:
        path = folder / "manifest.json"
        content = json.loads(path.read_text())
        content["rules"][name] = setting
        path.write_text(json.dumps(content))

    return plant


def moved_patient(folder: Path) -> None:
    """All records of a test patient say "train", so that only the hash can tell."""
    patient = pd.read_parquet(folder / "private" / "patients.parquet")
    subject = patient.subject_id[patient["split"] == "test"].iloc[0]
    number = patient.patient[patient.subject_id == subject].iloc[0]
    for name, column, value in (("patients", "subject_id", subject), ("stays", "subject_id", subject)):
        table(f"private/{name}.parquet", lambda f, c=column, v=value: _to_train(f, f[c] == v))(folder)
    for path in (folder / "samples").iterdir():
        table(f"samples/{path.name}", lambda f: _to_train(f, f.patient == number))(folder)


def _to_train(frame: pd.DataFrame, rows: pd.Series) -> None:
    frame.loc[rows, "split"] = "train"


def swap(column: str) -> Callable[[pd.DataFrame], None]:
    """The first two samples take each other's content."""
    return lambda frame: frame.__setitem__(column, [frame[column][1], frame[column][0], *frame[column][2:]])


IHM, LOS, PHE, DIA, DRG = (f"samples/{task}.parquet" for task in ("ihm", "los", "phe", "dia", "drg"))
LINKS, STAYS, FILMS, NOTES, TAILS = (
    f"private/{name}.parquet" for name in ("links", "stays", "films", "notes", "tails")
)

PLANTS: list[tuple[str, str | None, Callable[[Path], None]]] = [
    ("sample number", None, table(IHM, cell("sample", 1))),
    ("unit", None, table(LINKS, lambda f: f.loc.__setitem__((1, f.columns[2:]), f.loc[0, f.columns[2:]].values))),
    ("link", None, table(LINKS, cell("task", "rea"))),
    ("patient number", None, table(IHM, cell("patient", 99))),
    ("one partition", None, table(LOS, cell("split", "val"))),
    ("one partition", None, table(STAYS, cell("split", "test"))),
    ("partition name", None, table(LOS, cell("split", "dev"))),
    ("hashed partition", None, moved_patient),
    ("classes", "drg", other_classes),
    ("class labels", "drg", table(LINKS, lambda f: f.__setitem__("code", f.code.where(f.index != len(f) - 1, "900")))),
    ("standardiser stays", None, other_stays),
    ("standardiser", None, lambda folder: statistics(folder, count=31)),
    ("standardiser", None, array("series/values.npy", lambda v: v.__setitem__((slice(None), 50), v[:, 50] * 1.1))),
    ("moment of prediction", "ihm", table(LINKS, later("end", 1))),
    ("moment of prediction", "phe", table(STAYS, later("outtime", 5))),
    ("presence", "ihm", table(IHM, cell("film", 999))),
    ("presence", "dia", table(DIA, cell("tail", -1))),
    ("presence", "los", table(LOS, cell("hours", 0))),
    ("primary modality", "dia", table(DIA, cell("film", -1))),
    ("owner", "ihm", table(IHM, swap("series"))),
    ("owner", "phe", table(PHE, swap("note"))),
    ("owner", "drg", table(NOTES, swap("subject_id"))),
    ("owner", "dia", table(DIA, swap("film"))),
    ("hours", "los", table(LOS, lambda f: f.__setitem__("hours", f.hours + 1))),
    ("hours", "ihm", table(IHM, cell("hours", 49))),
    ("events", "ihm", array("private/last_event.npy", lambda v: v.__setitem__(47, 48.2))),
    ("events", "dia", table(TAILS, lambda f: f.__setitem__("last_event", f.hour))),
    ("cut", "dia", table(TAILS, lambda f: f.__setitem__("hour", f.hour + 0.4))),
    ("films", "ihm", table(FILMS, lambda f: f.__setitem__("time", f.time + pd.Timedelta(days=9)))),
    ("note admission", "ihm", table(NOTES, lambda f: f.__setitem__("hadm_id", f.hadm_id + 1))),
    ("notes", "los", other_rule("note_source", "previous_admission")),
    ("labels", "ihm", table(IHM, cell("y0", 2.0))),
    ("labels", "phe", table(PHE, cell("y3", np.nan))),
    ("labels", "los", table(LOS, cell("y0", 10.0))),
    ("labels", "dia", table(DIA, cell("y3", np.nan))),
    ("labels", "drg", table(DRG, cell("y0", np.nan))),
    ("series lengths", None, table(STAYS, cell("los_hours", 61.5))),
    ("series values", None, array("series/values.npy", lambda v: v.__setitem__((5, 50), np.nan))),
    ("series values", None, array("series/tails.npy", lambda v: v.__setitem__((0, 0), 1 - v[0, 0]))),
    ("observed flags", None, array("series/values.npy", lambda v: v.__setitem__((5, VALUES + 8), 1))),
    ("observed flags", None, array("series/tails.npy", lambda v: v.__setitem__((0, VALUES + 8), 1 - v[0, VALUES + 8]))),
    ("film store", None, table(FILMS, cell("dicom_id", "film50000001"))),
    ("texts", None, table("notes/texts.parquet", cell("text", "history of another"))),
]


def named(plant: tuple) -> str:
    return f"{plant[0]}-{plant[1] or 'all'}"


def test_a_prepared_folder_is_sound_and_says_what_is_retrospective(sound):
    findings = audit_folder(sound)
    require_sound(findings)
    assert not [found for found in findings if found.violated]
    assert read_audit(sound) == findings
    retrospective = {(found.task, found.rule): found.found for found in findings if found.kind == "retrospective"}
    assert retrospective["ihm", "note of the same admission"] == 9
    assert retrospective["phe", "whole stay"] == 9 and ("ihm", "whole stay") not in retrospective
    assert retrospective["drg", "whole admission"] == 9
    assert all(found.checked > 0 for found in findings)


@pytest.mark.parametrize("planted", PLANTS, ids=named)
def test_a_planted_violation_is_found(sound, tmp_path, planted):
    rule, task, plant = planted
    folder = tmp_path / "data"
    shutil.copytree(sound, folder)
    plant(folder)
    findings = audit_folder(folder)
    assert rule in {found.rule for found in findings if found.violated and task in (None, found.task)}
    with pytest.raises(LeakageError, match=rule):
        require_sound(findings)


def test_every_rule_has_a_violation_above(sound):
    rules = {found.rule for found in audit_folder(sound) if found.kind == "check"}
    assert rules <= {rule for rule, _, _ in PLANTS}


def test_a_violation_stops_the_preparation(tmp_path, monkeypatch):
    paths = hospital().write(tmp_path / "raw")
    write = prepare_module.write_origins

    def spoil(private: Path, *args: object) -> None:
        write(private, *args)
        table("private/films.parquet", lambda f: f.__setitem__("time", f.time + pd.Timedelta(days=9)))(private.parent)

    monkeypatch.setattr(prepare_module, "write_origins", spoil)
    with pytest.raises(LeakageError, match="no film was taken after the prediction"):
        prepare(**paths, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def exchanged_summaries() -> Hospital:
    """The summaries of a training and a test patient name each other's admission."""
    raw = hospital()
    notes = raw.rows["note/discharge"]
    notes[0]["hadm_id"], notes[-1]["hadm_id"] = notes[-1]["hadm_id"], notes[0]["hadm_id"]
    return raw


def test_summaries_of_exchanged_admissions_are_nobodys(tmp_path):
    manifest = prepare(**exchanged_summaries().write(tmp_path / "raw"), out=tmp_path / "out")
    assert manifest["source"]["oddities"]["summaries of another patient than their admission's"] == 2
    assert pd.read_parquet(tmp_path / "out" / IHM).note.ge(0).sum() == len(SUBJECTS) - 2
    assert "summaries of another patient than their admission's" in (tmp_path / "out" / "cohort.md").read_text()


def test_the_audit_sees_exchanged_summaries_by_itself(tmp_path, monkeypatch):
    """Were summaries joined by their admission alone, the patient that each names would give it away."""
    paths = exchanged_summaries().write(tmp_path / "raw")
    monkeypatch.setattr(
        summaries_module, "with_fault", lambda rows, _: rows.with_columns(fault=pl.lit(None, pl.String))
    )
    with pytest.raises(LeakageError, match="series, film and note are of the sample's patient"):
        prepare(**paths, out=tmp_path / "out")


def test_a_folder_without_evidence_is_refused(sound, tmp_path):
    shutil.copytree(sound, tmp_path / "data")
    (tmp_path / "data" / "private" / "stays.parquet").unlink()
    with pytest.raises(UserError, match="cannot be audited"):
        audit_folder(tmp_path / "data")
