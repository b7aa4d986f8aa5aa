"""The simulated raw files: layout, determinism, independence of the number of patients."""

from __future__ import annotations

import gzip
import io
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from benchmark.data.channels import items
from benchmark.data.phenotypes import PHENOTYPES, phenotypes_of
from benchmark.errors import UserError
from benchmark.simulation import MissingRates, layout, radiology, simulate, tables
from benchmark.simulation.people import draw_patient

PATIENTS = 24

# The published headers of MIMIC-IV 2.2, MIMIC-CXR-JPG 2.0.0 and MIMIC-IV-Note 2.2.
HEADERS = {
    "mimic-iv/hosp/patients": "subject_id,gender,anchor_age,anchor_year,anchor_year_group,dod",
    "mimic-iv/hosp/admissions": "subject_id,hadm_id,admittime,dischtime,deathtime,admission_type,admit_provider_id,"
    "admission_location,discharge_location,insurance,language,marital_status,race,edregtime,edouttime,"
    "hospital_expire_flag",
    "mimic-iv/hosp/diagnoses_icd": "subject_id,hadm_id,seq_num,icd_code,icd_version",
    "mimic-iv/hosp/d_icd_diagnoses": "icd_code,icd_version,long_title",
    "mimic-iv/hosp/drgcodes": "subject_id,hadm_id,drg_type,drg_code,description,drg_severity,drg_mortality",
    "mimic-iv/hosp/labevents": "labevent_id,subject_id,hadm_id,specimen_id,itemid,order_provider_id,charttime,"
    "storetime,value,valuenum,valueuom,ref_range_lower,ref_range_upper,flag,priority,comments",
    "mimic-iv/hosp/d_labitems": "itemid,label,fluid,category",
    "mimic-iv/icu/icustays": "subject_id,hadm_id,stay_id,first_careunit,last_careunit,intime,outtime,los",
    "mimic-iv/icu/chartevents": "subject_id,hadm_id,stay_id,caregiver_id,charttime,storetime,itemid,value,valuenum,"
    "valueuom,warning",
    "mimic-iv/icu/d_items": "itemid,label,abbreviation,linksto,category,unitname,param_type,lownormalvalue,"
    "highnormalvalue",
    "mimic-iv/icu/outputevents": "subject_id,hadm_id,stay_id,caregiver_id,charttime,storetime,itemid,value,valueuom",
    "mimic-cxr/mimic-cxr-2.0.0-metadata": "dicom_id,subject_id,study_id,PerformedProcedureStepDescription,ViewPosition,"
    "Rows,Columns,StudyDate,StudyTime,ProcedureCodeSequence_CodeMeaning,ViewCodeSequence_CodeMeaning,"
    "PatientOrientationCodeSequence_CodeMeaning",
    "mimic-cxr/mimic-cxr-2.0.0-chexpert": "subject_id,study_id,Atelectasis,Cardiomegaly,Consolidation,Edema,"
    "Enlarged Cardiomediastinum,Fracture,Lung Lesion,Lung Opacity,No Finding,Pleural Effusion,Pleural Other,Pneumonia,"
    "Pneumothorax,Support Devices",
    "mimic-cxr/mimic-cxr-2.0.0-split": "dicom_id,study_id,subject_id,split",
    "mimic-note/note/discharge": "note_id,subject_id,hadm_id,note_type,note_seq,charttime,storetime,text",
}


@pytest.fixture(scope="module")
def raw(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("simulated") / "raw"
    simulate(out, PATIENTS, 5)
    return out


def table(raw: Path, name: str) -> pd.DataFrame:
    return pd.read_csv(raw / f"{name}.csv.gz", dtype=str, keep_default_na=False)


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_headers_are_the_published_ones(raw):
    assert set(layout.TABLES) == set(HEADERS)
    for name, header in HEADERS.items():
        with gzip.open(raw / f"{name}.csv.gz", "rt") as lines:
            assert lines.readline().rstrip("\n") == header


def test_equal_arguments_give_equal_bytes_with_any_number_of_processes(raw, tmp_path, monkeypatch):
    monkeypatch.setattr("benchmark.simulation.generator._ALONE", 0)
    simulate(tmp_path / "again", PATIENTS, 5, workers=2)
    assert files(tmp_path / "again") == files(raw)


def test_a_patient_is_the_same_whatever_the_number_of_patients(raw, tmp_path):
    simulate(tmp_path / "few", 7, 5)
    subjects = set(table(tmp_path / "few", "mimic-iv/hosp/patients")["subject_id"])
    assert len(subjects) == 7
    for name, header in HEADERS.items():
        if "subject_id" in header.split(","):
            few, many = table(tmp_path / "few", name), table(raw, name)
            pd.testing.assert_frame_equal(few, many[many["subject_id"].isin(subjects)].reset_index(drop=True))
    films = {name: data for name, data in files(raw).items() if name.endswith(".jpg")}
    assert {n: d for n, d in files(tmp_path / "few").items() if n.endswith(".jpg")}.items() <= films.items()
    known = pd.read_parquet(raw / "truth.parquet")
    part = pd.read_parquet(tmp_path / "few" / "truth.parquet")
    assert [tuple(p) for p in part["p"]] == [tuple(p) for p in known["p"][: len(part)]]


def test_another_seed_gives_other_patients(raw, tmp_path):
    simulate(tmp_path / "other", 3, 6)
    assert not table(tmp_path / "other", "mimic-iv/hosp/patients").equals(table(raw, "mimic-iv/hosp/patients")[:3])


def test_markers_say_that_nothing_is_real_and_where_the_truth_lies(raw):
    for folder in ("", "mimic-iv", "mimic-cxr", "mimic-note"):
        marker = json.loads((raw / folder / "SIMULATED.json").read_text())
        assert (marker["patients"], marker["seed"]) == (PATIENTS, 5)
        assert (raw / folder / marker["truth"]).resolve() == (raw / "truth.parquet").resolve()


def test_keys_are_unique_and_point_to_each_other(raw):
    stays, admissions = table(raw, "mimic-iv/icu/icustays"), table(raw, "mimic-iv/hosp/admissions")
    assert stays["stay_id"].is_unique and admissions["hadm_id"].is_unique
    assert set(stays["hadm_id"]) <= set(admissions["hadm_id"])
    events = table(raw, "mimic-iv/icu/chartevents").merge(stays, on=["subject_id", "hadm_id", "stay_id"])
    assert len(events) == len(table(raw, "mimic-iv/icu/chartevents"))
    assert (events["charttime"] >= events["intime"]).all()
    assert (events["charttime"] <= events["outtime"].replace("", "9")).all()
    labs = table(raw, "mimic-iv/hosp/labevents")
    assert labs["labevent_id"].is_unique and (labs["hadm_id"] == "").any()


def test_items_are_those_of_the_channels_or_known_traps(raw):
    known = {item.itemid for item in items()}
    traps = {51478, 50831, 51094, 51491}
    charted = set(table(raw, "mimic-iv/icu/chartevents")["itemid"].astype(int))
    measured = set(table(raw, "mimic-iv/hosp/labevents")["itemid"].astype(int))
    assert charted <= known and measured <= known | traps | {52033}
    assert not traps & known and traps & measured
    dictionary = pd.concat([table(raw, "mimic-iv/icu/d_items"), table(raw, "mimic-iv/hosp/d_labitems")])
    assert charted | measured <= set(dictionary["itemid"].astype(int))


def test_every_code_is_in_its_phenotype_group():
    assert [int(row["ccs"]) for row in tables.rows("phenotypes")] == [phenotype.ccs for phenotype in PHENOTYPES]
    for row in tables.rows("codes"):
        groups = [PHENOTYPES[index].ccs for index in phenotypes_of(row["code"], int(row["version"]))]
        assert groups == [int(row["ccs"])] * (row["ccs"] != "0"), row


def test_films_lie_where_the_metadata_says(raw):
    films = table(raw, "mimic-cxr/mimic-cxr-2.0.0-metadata")
    assert len(films) > 5 and (films["ViewPosition"] == "AP").any()
    for row in films.itertuples():
        subject = row.subject_id
        path = raw / f"mimic-cxr/files/p{subject[:2]}/p{subject}/s{row.study_id}/{row.dicom_id}.jpg"
        with Image.open(path) as film:
            assert (film.mode, film.size) == ("L", (int(row.Columns), int(row.Rows)))
    labels = table(raw, "mimic-cxr/mimic-cxr-2.0.0-chexpert")
    assert set(labels["No Finding"]) <= {"", "1.0"}
    assert set(np.unique(labels.iloc[:, 2:].to_numpy().astype(str))) == {"", "-1.0", "0.0", "1.0"}


def test_a_film_shows_a_finding_where_it_belongs():
    from benchmark.simulation.films import draw_film

    def pixels(strength: np.ndarray) -> np.ndarray:
        return np.asarray(Image.open(io.BytesIO(draw_film("AP", strength, np.random.default_rng(0)))), dtype=float)

    nothing = np.full(14, -2.0)
    base = pixels(nothing)
    for index, name in enumerate(tables.linear("findings").names):
        marked = nothing.copy()
        marked[index] = 1.0
        change = np.abs(pixels(marked) - base)
        assert name == "No Finding" or (change > 20).mean() > 0.002, name
        assert (change > 20).mean() < 0.15, name


@pytest.mark.parametrize(
    ("patients", "seed", "said"), [(0, 1, "patients is 0"), (200_000, 1, "200000"), (3, -1, "seed is -1")]
)
def test_numbers_out_of_range_are_refused(tmp_path, patients, seed, said):
    with pytest.raises(UserError, match=said):
        simulate(tmp_path / "raw", patients, seed)


def test_a_folder_that_holds_something_is_refused_and_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("kept")
    with pytest.raises(UserError, match="not empty"):
        simulate(tmp_path, 1, 1)
    assert files(tmp_path) == {"mine.txt": b"kept"}


def test_a_failure_leaves_nothing_behind(tmp_path):
    def stop(what, done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        simulate(tmp_path / "raw", 2, 1, progress=stop)
    assert not list(tmp_path.iterdir())


def test_missing_rates_are_checked_and_followed():
    with pytest.raises(UserError, match="image"):
        MissingRates(image=1.5)
    with pytest.raises(UserError, match="film_note"):
        MissingRates(note=0.5, film_note=0.2)
    for image in (0.82, 0.4):
        seen = []
        for number in range(700):
            patient = draw_patient(2, number)
            times = [s.time for s in radiology.draw_studies(patient, 2, MissingRates(image=image))]
            stays = [a.cohort_stay for a in patient.admissions if a.cohort_stay]
            seen += [any(s.intime <= time <= s.outtime for time in times) for s in stays]
        assert 1 - np.mean(seen) == pytest.approx(image, abs=0.05)
