"""`prepare` on a hand-made hospital: links, windows, classes, repeatability, refusals."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from raw_files import Hospital, subjects_in

from benchmark.data.channels import VALUES
from benchmark.data.dataset import PreparedData
from benchmark.data.prepare import prepare
from benchmark.errors import UserError

SUMMARY = "Past Medical History:\n{history}\nSocial History:\n___\nBrief Hospital Course:\n{course}\nFacility:\n___\n"
TRAIN = subjects_in("train", 6)
VAL, TEST = subjects_in("val", 1), subjects_in("test", 2)
SUBJECTS = [*TRAIN, *VAL, *TEST]
HEART_RATE_OBSERVED = VALUES + 8


def hospital() -> Hospital:
    """Nine patients with a stay of 72 hours each, from hour 1 of an admission of 240 hours."""
    raw = Hospital()
    for index, subject in enumerate(SUBJECTS):
        hadm, stay = 20_000_000 + index, 30_000_000 + index
        raw.patient(subject)
        raw.admission(subject, hadm, death=60 if index == 3 else None, end=60 if index == 3 else 240)
        raw.stay(subject, hadm, stay, beats=(0.5, 10.0, 10.2, 10.5, 47.5, 48.2, 70.0))
        raw.diagnosis(subject, hadm, "I10", 10)
        raw.add("hosp/drgcodes", subject_id=subject, hadm_id=hadm, drg_type="HCFA", drg_code=str(64 + index % 2))
        if index != 1:
            raw.note(subject, hadm, SUMMARY.format(history=f"history {index}", course=f"course {index}"))
    raw.rows["hosp/drgcodes"][-1]["drg_code"] = "900"  # a test patient's class that nobody trains on
    films(raw, SUBJECTS[0])
    return raw


def films(raw: Hospital, subject: int) -> None:
    """Films of the first patient, hours after the start; the stay begins at hour 1."""
    study = 50_000_000
    for number, (dicoms, at, finding) in enumerate(
        [
            (["b", "a"], 11.2, 1.0),  # 10.2 h in the stay: two films, an event at the same moment
            (["c"], 4.9, 0.0),  # 3.9 h in the stay: too early for a series
            (["d"], 49.0, 1.0),  # hour 48 exactly
            (["e"], 49.5, 1.0),  # after the window of IHM
            (["f"], 300.0, 1.0),  # outside the admission
            (["g"], 20.0, -1.0),  # nothing but an uncertain finding
        ]
    ):
        for dicom in dicoms:
            raw.film(subject, study + number, dicom, at)
        raw.findings(subject, study + number, Edema=finding)
    raw.film(subject, study + 9, "lateral", 30.0, view="LATERAL")
    raw.findings(subject, study + 9, Edema=1.0)


@pytest.fixture(scope="module")
def raw_paths(tmp_path_factory) -> dict[str, Path]:
    return hospital().write(tmp_path_factory.mktemp("raw"))


@pytest.fixture(scope="module")
def folder(raw_paths, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("prepared") / "data"
    prepare(**raw_paths, out=out, name="nine")
    return out


def joined(folder: Path, task: str) -> pd.DataFrame:
    """Samples with their MIMIC numbers."""
    links = pd.read_parquet(folder / "private" / "links.parquet").drop(columns="task")
    return pd.read_parquet(folder / "samples" / f"{task}.parquet").merge(links, on="sample")


def film_of(folder: Path, row: int) -> str:
    """Name of a film by its grey value."""
    grey = int(np.load(folder / "films" / "pixels.npy")[row, 0, 0])
    return {sum(map(ord, name)) % 256: name for name in "abcdefg"}[grey]


def text_of(folder: Path, row: int) -> str:
    return pd.read_parquet(folder / "notes" / "texts.parquet").text[row] if row >= 0 else ""


def test_data_set_opens_and_counts(folder):
    data = PreparedData.open(folder)
    assert data.name == "nine" and not data.simulated and data.manifest["impossible"] == {}
    counts = {task: entry["samples"] for task, entry in data.manifest["tasks"].items()}
    assert counts["phe"] == {"train": 6, "val": 1, "test": 2}
    assert counts["rea"] == {"train": 5, "val": 1, "test": 2}  # one died in the unit
    assert counts["dia"] == {"train": 5, "val": 0, "test": 0}
    assert counts["drg"] == {"train": 5, "val": 1, "test": 2}  # one has no summary
    assert len(data.task("los").partitions["train"]) == 6
    samples = pd.concat([pd.read_parquet(path) for path in (folder / "samples").iterdir()])
    assert samples["sample"].is_unique and samples.groupby("patient")["split"].nunique().max() == 1


def test_ihm_sees_48_hours_and_the_last_film_in_them(folder):
    ihm = joined(folder, "ihm").set_index("subject_id")
    assert (ihm.hours == 48).all()
    assert ihm.y0.to_dict() == {subject: float(subject == SUBJECTS[3]) for subject in SUBJECTS}
    assert film_of(folder, ihm.film[SUBJECTS[0]]) == "d"
    assert (ihm.film[SUBJECTS[1:]] == -1).all()
    assert text_of(folder, ihm.note[SUBJECTS[2]]) == "history 2" and ihm.note[SUBJECTS[1]] == -1


def test_whole_stay_tasks_see_films_until_the_stay_ends(folder):
    phe = joined(folder, "phe").set_index("subject_id")
    assert (phe.hours == 72).all() and film_of(folder, phe.film[SUBJECTS[0]]) == "e"


def test_random_hours_never_reach_past_the_prediction_or_death(folder):
    for task in ("los", "dec"):
        frame = joined(folder, task)
        assert (frame.hours == frame.hour).all() and frame.hour.between(5, 72).all()
        first = frame.set_index("subject_id").loc[SUBJECTS[0]]
        taken = {"a": 10.2, "c": 3.9, "d": 48.0, "e": 48.5, "g": 19.0}
        latest = max((hour, name) for name, hour in taken.items() if hour <= first.hour)[1]
        assert film_of(folder, first.film) == latest
    dec = joined(folder, "dec").set_index("subject_id")
    assert dec.hour[SUBJECTS[3]] <= 59


def test_findings_one_sample_a_study_with_a_series_cut_before_the_film(folder):
    dia = joined(folder, "dia").set_index("study_id")
    assert [film_of(folder, row) for row in dia.film] == ["a", "c", "d", "e", "f"]
    assert (dia.series >= 0).tolist() == [True, False, True, True, False]
    assert dia.hours.tolist() == [11, 0, 48, 49, 0] and dia["tail"].tolist() == [0, -1, 1, 2, -1]
    assert [text_of(folder, row) for row in dia.note] == ["history 0"] * 4 + [""]
    assert dia.y3.tolist() == [1, 0, 1, 1, 1] and dia.y0.isna().all()
    tails = np.load(folder / "series" / "tails.npy")
    # Beats at 10.0 (row 9), 10.2 and 10.5 (row 10): the film at 10.2 knows neither of the latter.
    assert tails[:, HEART_RATE_OBSERVED].tolist() == [0, 1, 1]


def test_billing_groups(folder):
    data = PreparedData.open(folder)
    assert data.classes("drg") == ("064", "065")
    drg = joined(folder, "drg").set_index("subject_id")
    assert np.isnan(drg.y0[SUBJECTS[-1]]) and drg.y0.notna().sum() == 7
    assert text_of(folder, drg.note[SUBJECTS[4]]) == "course 4"
    assert film_of(folder, drg.film[SUBJECTS[0]]) == "e" and (drg.hours == 72).all()
    assert json.loads((folder / "cohort.json").read_text())["tasks"]["drg"]["of_unseen_class"]["test"] == 1


def test_only_referred_films_and_texts_are_stored(folder):
    assert np.load(folder / "films" / "pixels.npy").shape[0] <= 6  # b, lateral: never
    frames = [pd.read_parquet(path) for path in (folder / "samples").iterdir()]
    used = set(pd.concat(frames).note) - {-1}
    assert used == set(pd.read_parquet(folder / "notes" / "texts.parquet").note)


def test_report_sets_outcomes_beside_missing_notes_and_names_constant_channels(folder):
    report = json.loads((folder / "cohort.json").read_text())
    assert report["tasks"]["ihm"]["by_note"] == {
        "present": {"samples": 8, "positives": 1},
        "missing": {"samples": 1, "positives": 0},
    }
    text = (folder / "cohort.md").read_text()
    assert "% with a note" in text and "usual spread: Diastolic" in text
    assert "Heart Rate" not in report["not_fitted"] and "Height" in report["not_fitted"]


def test_components_of_the_readmission_label_are_kept_and_not_read_as_labels(folder):
    frame = pd.read_parquet(folder / "samples" / "rea.parquet")
    assert (frame[["ward_death", "readmitted", "late_death"]].any(axis=1) == (frame.y0 == 1)).all()
    assert PreparedData.open(folder).task("rea").partitions["train"].labels.shape == (5, 1)


def test_second_run_is_identical_but_for_the_key(raw_paths, folder, tmp_path):
    again = tmp_path / "again"
    prepare(**raw_paths, out=again, name="nine")
    files = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(again) for path in again.rglob("*") if path.is_file())
    different = [str(path) for path in files if (folder / path).read_bytes() != (again / path).read_bytes()]
    assert different == ["private/key.bin"]
    assert again.stat().st_mode & 0o777 == 0o700


def test_fingerprint_follows_content_not_name(raw_paths, folder, tmp_path):
    named = prepare(**raw_paths, out=tmp_path / "named", name="other")
    bare = prepare(raw_paths["mimic_iv"], tmp_path / "bare")
    assert named["fingerprint"] == PreparedData.open(folder).fingerprint != bare["fingerprint"]
    assert bare["name"] == "mimic-iv"


def test_missing_sources_are_stated(raw_paths, tmp_path):
    manifest = prepare(raw_paths["mimic_iv"], tmp_path / "out")
    assert manifest["impossible"] == {
        "dia": "no MIMIC-CXR folder given",
        "drg": "no MIMIC-IV-Note folder given",
    }
    assert manifest["modalities"] == {"ehr": True, "cxr": False, "note": False}
    assert "Not given: chest films, notes." in (tmp_path / "out" / "cohort.md").read_text()


def test_unusual_folders_are_stated_too(tmp_path):
    raw = hospital()
    for row in raw.rows["mimic-cxr-2.0.0-metadata"]:
        row["ViewPosition"] = "PA"
    paths = raw.write(tmp_path / "raw", compress=False)
    for table in ("hosp/diagnoses_icd", "hosp/labevents", "hosp/drgcodes"):
        (paths["mimic_iv"] / f"{table}.csv").unlink()
    manifest = prepare(**paths, out=tmp_path / "out")
    assert manifest["impossible"] == {
        "phe": "MIMIC-IV folder without hosp/diagnoses_icd",
        "dia": "no anterior-posterior film with a file and a time",
        "drg": "MIMIC-IV folder without hosp/drgcodes",
    }
    report = (tmp_path / "out" / "cohort.md").read_text()
    assert "lacks: hosp/labevents, hosp/diagnoses_icd" in report and "Impossible: PHE" in report
    assert PreparedData.open(tmp_path / "out").films.shape == (0, 256, 256)


def test_broken_films_are_counted_and_never_samples(tmp_path):
    paths = hospital().write(tmp_path / "raw")
    broken = next(path for path in paths["mimic_cxr"].rglob("*.jpg") if path.stem == "f")
    broken.write_bytes(b"no image")
    prepare(**paths, out=tmp_path / "out")
    assert json.loads((tmp_path / "out" / "cohort.json").read_text())["films"]["unreadable"] == 1
    assert len(joined(tmp_path / "out", "dia")) == 4
    failed = pd.read_csv(tmp_path / "out" / "private" / "unreadable_films.csv")
    assert failed[["dicom_id", "reason"]].values.tolist() == [["f", "no JPEG or PNG image"]]


@pytest.mark.parametrize("harm", ["absent", "no image", "cut short", "StudyDate", "StudyTime"])
def test_a_study_with_another_film_is_kept(tmp_path, harm):
    paths = hospital().write(tmp_path / "raw")
    broken = next(path for path in paths["mimic_cxr"].rglob("*.jpg") if path.stem == "a")
    content = broken.read_bytes()
    blank = harm.startswith("Study")
    if blank:
        table = next(paths["mimic_cxr"].glob("*metadata.csv*"))
        metadata = pd.read_csv(table, dtype=str)
        metadata.loc[metadata.dicom_id == "a", harm] = None
        metadata.to_csv(table, index=False)
    else:
        broken.unlink()
    if harm in ("no image", "cut short"):
        broken.write_bytes(b"no image" if harm == "no image" else content[: len(content) - 200])
    prepare(**paths, out=tmp_path / "out")
    dia = joined(tmp_path / "out", "dia").set_index("study_id")
    assert [film_of(tmp_path / "out", row) for row in dia.film] == ["b", "c", "d", "e", "f"]
    listed = tmp_path / "out" / "private" / "unreadable_films.csv"
    if harm == "absent" or blank:
        table = pd.read_csv(listed)
        assert table[["dicom_id", "reason"]].values.tolist() == [["a", "no date or time" if blank else "no such file"]]
    facts = json.loads((tmp_path / "out" / "cohort.json").read_text())["films"]
    assert facts["absent"] == (harm == "absent") and facts["untimed"] == blank
    assert ("1 without a date or time" in (tmp_path / "out" / "cohort.md").read_text()) == blank


def test_simulated_data_carries_its_truth(tmp_path):
    raw = hospital()
    paths = raw.write(tmp_path / "raw")
    stays = [(row["stay_id"], 72) for row in raw.rows["icu/icustays"]]
    rows = [(task, stay, -1, [0.5]) for task in ("ihm", "rea") for stay, _ in stays]
    rows += [("phe", stay, -1, [0.1] * 25) for stay, _ in stays]
    for task, width in (("los", 10), ("dec", 1)):
        rows += [(task, stay, hour, [hour / 100] * width) for stay, last in stays for hour in range(5, last + 1)]
    truth = pd.DataFrame(rows, columns=["task", "unit", "hour", "p"])
    truth.to_parquet(tmp_path / "raw" / "truth.parquet")
    marker = {"generator": "by hand", "patients": 9, "seed": 1, "truth": "../truth.parquet"}
    (paths["mimic_iv"] / "SIMULATED.json").write_text(json.dumps(marker))
    manifest = prepare(paths["mimic_iv"], tmp_path / "out")
    assert manifest["simulated"] and manifest["name"] == "simulated-9-s1"
    los = joined(tmp_path / "out", "los").merge(pd.read_parquet(tmp_path / "out" / "truth" / "los.parquet"))
    assert los.p9.tolist() == pytest.approx((los.hour / 100).tolist())
    assert (tmp_path / "out" / "cohort.md").read_text().startswith("# Simulated data: ")

    def key(name: str) -> bytes:
        return (tmp_path / name / "private" / "key.bin").read_bytes()

    prepare(paths["mimic_iv"], tmp_path / "again")
    (paths["mimic_iv"] / "SIMULATED.json").rename(tmp_path / "aside")
    for name in ("real", "real again"):
        prepare(paths["mimic_iv"], tmp_path / name)
    (tmp_path / "aside").rename(paths["mimic_iv"] / "SIMULATED.json")
    assert key("out") == key("again"), "simulated patients have the same numbers wherever they are prepared"
    assert len({key("out"), key("real"), key("real again")}) == 3, "nobody can know those of patients"

    truth[truth.task != "ihm"].to_parquet(tmp_path / "raw" / "truth.parquet")
    with pytest.raises(UserError, match="ihm"):
        prepare(paths["mimic_iv"], tmp_path / "second")
    with pytest.raises(UserError, match="cannot be mixed"):
        prepare(**paths, out=tmp_path / "third")
