"""Codes of diagnoses and billing groups: which rows count, and that every other one is counted with its reason."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from raw_files import Hospital, small_hospital

from benchmark.data.billing import read_billing
from benchmark.data.diagnoses import code_report, read_diagnoses
from benchmark.data.owners import OTHER_PATIENT, UNKNOWN_ADMISSION
from benchmark.data.prepare import prepare
from benchmark.data.raw import RawMimic
from benchmark.data.rules import Rules

ADMISSIONS = pd.DataFrame({"subject_id": [1, 2, 3, 4], "hadm_id": [10, 20, 30, 40]})


def raw_of(hospital: Hospital, root: Path) -> RawMimic:
    hospital.stay(1, 10, 100)
    return RawMimic(hospital.write(root)["mimic_iv"])


def drgs(*rows: tuple[int, int, str, str]) -> Hospital:
    hospital = Hospital()
    for subject, hadm, kind, code in rows:
        hospital.add("hosp/drgcodes", subject_id=subject, hadm_id=hadm, drg_type=kind, drg_code=code)
    return hospital


def test_every_row_of_drgcodes_has_its_reason(tmp_path):
    hospital = drgs(
        (1, 10, "APR ", "720"),
        (1, 10, " hcfa", ""),
        (1, 10, "HCFA ", " 64 "),
        (1, 10, "HCFA", "065"),
        (2, 20, "HCFA", "  "),
        (1, 30, "HCFA", "871"),  # the patient of another admission
        (9, 90, "HCFA", "871"),
        (4, 40, "MS", "x"),
    )
    billing = read_billing(raw_of(hospital, tmp_path), ADMISSIONS)
    assert billing.codes.values.tolist() == [[10, "064"]]
    assert billing.rows == {
        "HCFA, the code of its admission": 1,
        "HCFA, a further code of it": 1,
        "HCFA, without a code": 2,
        "HCFA, with a code that is not one to three digits": 0,
        f"HCFA, {UNKNOWN_ADMISSION}": 1,
        f"HCFA, {OTHER_PATIENT}": 1,
        "of type APR": 1,
        "of type MS": 1,
    }
    assert sum(billing.rows.values()) == len(hospital.rows["hosp/drgcodes"])
    assert billing.admissions == 4 and list(billing.lost.values()) == [1, 0, 1, 1]
    assert {name for name, count in billing.oddities.items() if count} == {
        "billing codes that are blank", f"billing codes {UNKNOWN_ADMISSION}", f"billing codes {OTHER_PATIENT}",
    }  # fmt: skip
    last = read_billing(raw_of(hospital, tmp_path / "again"), ADMISSIONS, Rules(drg_classes="all_partitions"))
    assert last.codes.values.tolist() == [[10, "065"]]


@pytest.mark.parametrize("code", ["64.0", "1064", "A64", "-64", "６4"])
def test_a_code_that_is_no_number_of_three_digits_is_no_class_of_its_own(tmp_path, code):
    """Codes of other types have other forms."""
    hospital = drgs((1, 10, "APR", "0064-2"), (1, 10, "HCFA", "064"), (1, 10, "HCFA", code), (2, 20, "hcfa", code))
    billing = read_billing(raw_of(hospital, tmp_path), ADMISSIONS)
    assert billing.codes.values.tolist() == [[10, "064"]]
    reason = "with a code that is not one to three digits"
    assert billing.rows[f"HCFA, {reason}"] == 2 and billing.lost[reason] == 1
    assert billing.oddities["billing codes that are not one to three digits"] == 2


def test_every_row_of_diagnoses_has_its_reason(tmp_path):
    hospital = Hospital()
    for code, version in (("4019  ", 9), ("4019", 9), ("4019", 10), ("0389", 9), ("", 9), ("  ", 9)):
        hospital.diagnosis(1, 10, code, version)
    hospital.diagnosis(1, 20, "41071", 9)
    hospital.diagnosis(2, 20, "41071", 9)
    hospital.diagnosis(9, 90, "41071", 9)
    stays = pd.DataFrame({"subject_id": [1], "hadm_id": [10]})
    table, rows = read_diagnoses(raw_of(hospital, tmp_path), stays, ADMISSIONS)
    assert table.values.tolist() == [[10, "0389", 9], [10, "4019", 9], [10, "4019", 10]]
    assert rows == {
        "counts": 3,
        "repeats another of its admission": 1,
        "without a code": 2,
        OTHER_PATIENT: 1,
        UNKNOWN_ADMISSION: 1,
        "of an admission without a stay of the cohort": 1,
    }


@pytest.mark.parametrize("rules", [Rules(), Rules(icd10="gem")], ids=["ccs", "gem"])
def test_codes_that_no_table_has_are_counted(rules):
    rows = [(10, "4019", 9), (10, "V707", 9), (10, "XXXX", 9), (20, "XXXX", 9), (20, "U071", 10), (20, "Z23X9", 10)]
    counts = code_report(pd.DataFrame(rows, columns=["hadm_id", "icd_code", "icd_version"]), rules)
    alike = rules.icd10 == "ccs"
    assert [counts[kind] for kind in ("phenotype", "listed", "begins alike", "unlisted")] == [1, 1, alike, 4 - alike]
    assert dict(list(counts["unlisted codes"].items())[:2]) == {"ICD-9 XXXX": 2, "ICD-10 U071": 1}


def test_losses_stand_in_the_report_and_its_flow(tmp_path):
    hospital = small_hospital()
    codes, notes = hospital.rows["hosp/drgcodes"], hospital.rows["note/discharge"]
    for note in notes[:4]:
        note["text"] += "Brief Hospital Course:\ncourse\nFacility:\n___\n"
    codes[1]["drg_code"] = " "
    codes[2]["subject_id"] = codes[3]["subject_id"]
    codes[3]["drg_type"] = "hcfa "
    hospital.rows["hosp/diagnoses_icd"][0]["icd_code"] = "XXXX"
    hospital.rows["mimic-cxr-2.0.0-metadata"][0]["ViewPosition"] = "pa"
    findings = hospital.rows["mimic-cxr-2.0.0-chexpert"]
    findings[1]["subject_id"] = findings[2]["subject_id"]
    prepare(**hospital.write(tmp_path / "raw"), out=tmp_path / "out")
    report = json.loads((tmp_path / "out" / "cohort.json").read_text())
    first, *steps = report["tasks"]["drg"]["flow"]
    assert first["kept"] == 6
    assert [(step["reason"], step["dropped"], step["kept"]) for step in steps] == [
        ("no other HCFA row than such without a code", 1, 5),
        (f"no other HCFA row than such {OTHER_PATIENT}", 1, 4),
        ("no hospital course in a discharge summary", 2, 2),
        ("", 0, 2),
    ]
    text = (tmp_path / "out" / "cohort.md").read_text()
    assert "AP 5, PA 1, LATERAL 0, LL 0, other 0, blank 0" in text
    lines = [" ".join(line.replace("|", " ").split()) for line in text.splitlines()]
    for line in (
        "films whose findings name another patient 1",
        "billing codes that are blank 1",
        f"billing codes {OTHER_PATIENT} 1",
        f"hosp/drgcodes HCFA, {OTHER_PATIENT} 1",
        "`ICD-10 XXXX` 1",
    ):
        assert line in lines
