"""Faults planted in raw files: each ends in one line that names file, row and column, or in a count."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from raw_files import small_hospital

from benchmark.data.prepare import prepare
from benchmark.errors import UserError

CHART = "mimic-iv/icu/chartevents"
STAYS = "mimic-iv/icu/icustays"
ADMISSIONS = "mimic-iv/hosp/admissions"
PATIENTS = "mimic-iv/hosp/patients"
DIAGNOSES = "mimic-iv/hosp/diagnoses_icd"
LABS = "mimic-iv/hosp/labevents"
NOTES = "mimic-note/note/discharge"
METADATA = "mimic-cxr/mimic-cxr-2.0.0-metadata"
CHEXPERT = "mimic-cxr/mimic-cxr-2.0.0-chexpert"


def paths(root: Path) -> dict[str, Path]:
    return {name: root / name.replace("_", "-") for name in ("mimic_iv", "mimic_cxr", "mimic_note")}


Harm = Callable[[list[bytes]], object]


def cell(row: int, column: int, value: bytes) -> Harm:
    """Replace a field of a row without quotation marks."""

    def harm(lines: list[bytes]) -> None:
        fields = lines[row].rstrip(b"\r\n").split(b",")
        fields[column] = value
        lines[row] = b",".join(fields) + b"\n"

    return harm


def cut(row: int, fields: int) -> Harm:
    """Leave only the first fields of a row."""

    def harm(lines: list[bytes]) -> None:
        lines[row] = b",".join(lines[row].split(b",")[:fields]) + b"\n"

    return harm


def repeat(row: int) -> Harm:
    return lambda lines: lines.append(lines[row])


def rename(old: bytes, new: bytes) -> Harm:
    def harm(lines: list[bytes]) -> None:
        assert old in lines[0]
        lines[0] = lines[0].replace(old, new)

    return harm


def keep(rows: int) -> Harm:
    return lambda lines: lines.__delitem__(slice(rows, None))


FAULTS: dict[str, tuple[str, Harm, str]] = {
    # wrong type
    "chart id": (CHART, cell(3, 2, b"abc"), r"row 3, column stay_id: 'abc' is no whole number"),
    "chart time": (
        CHART,
        cell(4, 4, b"2150-13-01 00:00:00"),
        r"row 4, column charttime: '2150-13-01 00:00:00' is no time",
    ),
    "chart number": (CHART, cell(5, 8, b"high"), r"row 5, column valuenum: 'high' is no number"),
    "lab item": (LABS, cell(2, 4, b"5x"), r"row 2, column itemid: '5x' is no whole number"),
    "stay time": (STAYS, cell(1, 5, b"yesterday"), r"row 1, column intime: 'yesterday' is no time"),
    "stay time without seconds": (STAYS, cell(1, 5, b"2150-03-01 10:00"), r"row 1, column intime: .* is no time"),
    "year 9999": (STAYS, cell(2, 6, b"9999-12-31 00:00:00"), r"row 2, column outtime: .* the years 1900 to 2399"),
    "year 1": (ADMISSIONS, cell(2, 2, b"0001-01-01 00:00:00"), r"row 2, column admittime: .* the years"),
    "length": (STAYS, cell(3, 7, b"long"), r"row 3, column los: 'long' is no number"),
    "age": (PATIENTS, cell(4, 2, b"sixty"), r"row 4, column anchor_age: 'sixty' is no whole number"),
    "death": (PATIENTS, cell(4, 5, b"03/01/2150"), r"row 4, column dod: '03/01/2150' is no date"),
    "death and more": (PATIENTS, cell(4, 5, b"2150-01-01junk"), r"row 4, column dod: '2150-01-01junk' is no date"),
    "padded chart item": (CHART, cell(5, 6, b"220277 "), r"row 5, column itemid: '220277 ' is no whole number"),
    "flag": (ADMISSIONS, cell(3, 8, b"7"), r"row 3, column hospital_expire_flag: '7' must be 0, 1"),
    "ICD version": (DIAGNOSES, cell(2, 4, b"11"), r"row 2, column icd_version: '11' must be 9, 10"),
    "finding": (CHEXPERT, cell(2, 5, b"2.0"), r"row 2, column .*: '2.0' must be -1, 0, 1"),
    "endless stay": (STAYS, cell(3, 7, b"inf"), r"row 3, column los: 'inf' is no finite number"),
    "stay of a century": (STAYS, cell(3, 7, b"36500"), r"row 3, column los: '36500' must be below 3,650"),
    "day of a film": (METADATA, cell(2, 4, b"21501399"), r"row 2, column StudyDate: '21501399' is no date"),
    "year of a film": (METADATA, cell(2, 4, b"10010101"), r"row 2, column StudyDate: '10010101' must lie in the years"),
    "time of a film": (METADATA, cell(2, 5, b"250000.0"), r"row 2, column StudyTime: '250000.0' is no time of day"),
    "time before midnight": (METADATA, cell(2, 5, b"-93000"), r"row 2, column StudyTime: '-93000' is no time of day"),
    "99 minutes": (METADATA, cell(2, 5, b"129959"), r"row 2, column StudyTime: '129959' is no time of day HHMMSS"),
    "61 seconds": (METADATA, cell(2, 5, b"235961.5"), r"row 2, column StudyTime: '235961.5' is no time of day"),
    "year 0 of a patient": (PATIENTS, cell(4, 3, b"0"), r"row 4, column anchor_year: '0' must lie in the years"),
    # blanks where there must be something
    "blank stay": (STAYS, cell(2, 2, b""), r"row 2, column stay_id: blank must not be blank"),
    "blank begin": (STAYS, cell(2, 5, b""), r"row 2, column intime: blank"),
    "blank chart stay": (CHART, cell(6, 2, b""), r"row 6, column stay_id: blank"),
    # keys
    "stay twice": (STAYS, repeat(2), r"column stay_id: 30000001 occurs in rows 2 and 7"),
    "admission twice": (ADMISSIONS, repeat(1), r"column hadm_id: 20000000 occurs in rows 1 and 7"),
    "patient twice": (PATIENTS, repeat(3), r"column subject_id: \d+ occurs in rows 3 and 7"),
    "film twice": (METADATA, repeat(1), r"column dicom_id: film0 occurs in rows 1 and 7"),
    "study twice": (CHEXPERT, repeat(1), r"column study_id: 50000000 occurs in rows 1 and 7"),
    # shape
    "chart column": (CHART, rename(b"valuenum", b"number"), r"no column valuenum; the file has subject_id, "),
    "stay column": (STAYS, rename(b"los", b"length"), r"no column los; the file has"),
    "column twice": (STAYS, rename(b"last_careunit", b"stay_id"), r"2 columns are called stay_id"),
    "other separator": (STAYS, lambda lines: lines.__setitem__(0, lines[0].replace(b",", b";")), r"icustays.csv"),
    "long row": (STAYS, cell(2, 7, b"3.0,extra"), r"row 2: 9 fields, where the header has 8"),
    "short row": (PATIENTS, cut(2, 4), r"row 2: 4 fields, where the header has 6"),
    "short last row": (STAYS, cut(6, 3), r"row 6: 3 fields, where the header has 8"),
    "short chart row": (CHART, cut(7, 3), r"row 7"),
    "long chart row": (CHART, cell(8, 10, b"0,0"), r"row 8: 12 fields, where the header has 11"),
    "empty line": (STAYS, lambda lines: lines.insert(3, b"\n"), r"row 3: an empty line"),
    # text
    "open quote": (ADMISSIONS, cell(2, 5, b'"URGENT'), r"row 2: a quoted field begins here that is never closed"),
    "open quote in a note": (
        NOTES,
        lambda lines: lines.__setitem__(-1, b"\n".join(lines[-1:]).replace(b'"', b"")),
        r"row 6: a quoted field begins here that is never closed",
    ),
    "stray quote": (ADMISSIONS, cell(2, 5, b'UR"GENT'), r"row 2: a quotation mark without a partner"),
    "Latin-1 name": (STAYS, cell(2, 3, b"Unit\xe9"), r"row 2, column first_careunit: byte 0xe9 is no UTF-8"),
    "Latin-1 value": (CHART, cell(9, 7, b"caf\xe9"), r"row 9, column value: byte 0xe9 is no UTF-8"),
    "Latin-1 note": (
        NOTES,
        lambda lines: lines.__setitem__(7, lines[7].replace(b"history", b"hist\xf3ria")),
        r"row 2, column text: byte 0xf3 is no UTF-8",
    ),
    # size
    "no stays": (STAYS, keep(1), r"icustays.csv has a header but no rows"),
    "no chart rows": (CHART, keep(1), r"chartevents.csv has a header but no rows"),
    "nothing": (STAYS, keep(0), r"icustays.csv has no header"),
    "no byte of labs": (LABS, keep(0), r"labevents.csv has no header"),
    "carriage returns": (
        LABS,
        lambda lines: lines.__setitem__(slice(None), [b"".join(lines).replace(b"\n", b"\r")]),
        r"labevents.csv.*: its lines end in carriage returns alone",
    ),
    "another format": (
        LABS,
        lambda lines: lines.insert(0, b"\x28\xb5\x2f\xfd\x00\x01"),
        r"labevents.csv.*(is no CSV|: header: byte 0xb5)",
    ),
}


@pytest.mark.parametrize("compress", [False, True], ids=["plain", "gz"])
@pytest.mark.parametrize("fault", FAULTS)
def test_fault_is_named_with_its_place(root, tmp_path, fault, compress):
    table, harm, message = FAULTS[fault]
    file = root / f"{table}.csv"
    lines = file.read_bytes().replace(b"\r\n", b"\n").splitlines(keepends=True)
    harm(lines)
    file.write_bytes(b"".join(lines))
    if compress:
        (root / f"{table}.csv.gz").write_bytes(gzip.compress(file.read_bytes()))
        file.unlink()
        message = message.replace(".csv has", ".csv.gz has")
    with pytest.raises(UserError, match=message) as raised:
        prepare(**paths(root), out=tmp_path / "out")
    assert Path(table).name in str(raised.value)
    assert not (tmp_path / "out").exists()


GZIPPED: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "cut in the middle": (lambda data: data[: len(data) // 2], r"is cut short: its gzip data end in the middle of"),
    "without its last bytes": (lambda data: data[:-6], r"is cut short"),
    "changed bytes": (
        lambda data: data[:200] + b"\xff" * 40 + data[240:],
        r"is (damaged|cut short)",
    ),
    "wrong checksum": (lambda data: data[:-8] + b"abcd" + data[-4:], r"is damaged"),
    "rubbish behind": (lambda data: data + b"rubbish", r"is (damaged|cut short)"),
    "no byte": (lambda data: b"", r"has no header"),
}


@pytest.mark.parametrize("table", [CHART, STAYS, NOTES])
@pytest.mark.parametrize("fault", GZIPPED)
def test_damaged_gzip_is_named(root, tmp_path, fault, table):
    harm, message = GZIPPED[fault]
    file = root / f"{table}.csv"
    content = file.read_bytes() + (
        b"".join(b",".join([b"1"] * 11) + b"\n" for _ in range(300)) if table == CHART else b""
    )
    file.with_suffix(".csv.gz").write_bytes(harm(gzip.compress(content)))
    file.unlink()
    with pytest.raises(UserError, match=message) as raised:
        prepare(**paths(root), out=tmp_path / "out")
    assert f"{table}.csv.gz" in str(raised.value)


def test_folder_in_place_of_a_file(root, tmp_path):
    (root / f"{ADMISSIONS}.csv").unlink()
    (root / f"{ADMISSIONS}.csv").mkdir()
    with pytest.raises(UserError, match=r"admissions.csv is a folder; a file is needed"):
        prepare(**paths(root), out=tmp_path / "out")


@pytest.mark.parametrize(("table", "bytes_left"), [(CHART, -40), (LABS, -30), (STAYS, -20), (NOTES, -30)])
def test_plain_file_cut_short(root, tmp_path, table, bytes_left):
    file = root / f"{table}.csv"
    file.write_bytes(file.read_bytes()[:bytes_left])
    with pytest.raises(UserError, match=rf"{Path(table).name}.csv.*(is cut short: its last row has|row \d)"):
        prepare(**paths(root), out=tmp_path / "out")


def test_file_that_may_be_cut_in_its_last_field_is_stated(root, tmp_path):
    file = root / f"{PATIENTS}.csv"
    file.write_bytes(file.read_bytes().rstrip(b"\r\n"))
    assert prepare(**paths(root), out=tmp_path / "out")["source"]["without_line_end"] == ["hosp/patients"]


def test_a_text_of_several_lines_may_end_the_file(tmp_path: Path) -> None:
    hospital = small_hospital()
    hospital.rows["note/discharge"][-1]["text"] += "\nand one line more\n"
    places = hospital.write(tmp_path / "raw", compress=False)
    (file,) = (tmp_path / "raw").rglob("discharge.csv")
    file.write_bytes(file.read_bytes().rstrip(b"\r\n"))
    assert file.read_bytes().endswith(b'\n"')
    whole = prepare(**small_hospital().write(tmp_path / "other"), out=tmp_path / "whole")
    assert prepare(**places, out=tmp_path / "out")["tasks"] == whole["tasks"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_file_without_the_right_to_read(root, tmp_path):
    (root / f"{CHART}.csv").chmod(0)
    with pytest.raises(UserError, match=r"chartevents.csv cannot be read: Permission denied"):
        prepare(**paths(root), out=tmp_path / "out")


def test_contradictions_between_tables_are_counted(tmp_path):
    root = tmp_path / "raw"
    small_hospital(6).write(root, compress=False)
    stays = (root / f"{STAYS}.csv").read_text().splitlines()
    rows = [line.split(",") for line in stays]
    rows[1][1] = "29999999"  # no such admission
    rows[2][7] = rows[2][6] = ""  # no length
    rows[3][5], rows[3][6] = rows[3][6], rows[3][5]  # ends before it begins
    (root / f"{STAYS}.csv").write_text("\n".join(",".join(row) for row in rows) + "\n")
    patients = (root / f"{PATIENTS}.csv").read_text().splitlines()
    fields = [line.split(",") for line in patients]
    fields[5][2], fields[6][5] = "200", "2100-01-01"  # too old, and dead before any admission
    (root / f"{PATIENTS}.csv").write_text("\n".join(",".join(row) for row in fields[:4] + fields[5:]) + "\n")
    manifest = prepare(root / "mimic-iv", tmp_path / "out")
    steps = json.loads((tmp_path / "out" / "cohort.json").read_text())["selection"]
    dropped = {step["name"]: step["dropped"] for step in steps if step["dropped"]}
    assert dropped == {
        "known admission and patient": 2,
        "length of stay known": 1,
        "length of stay above zero": 1,
    }
    assert {what for what, count in manifest["source"]["oddities"].items() if count == 1} == {
        "stays without an admission of the same patient",
        "admissions without a patient",
        "admissions after the day of death",
        "patients whose age is not 0 to 120",
        "stays with a blank length or end",
        "stays that end before they begin",
        "stays whose length is not that between begin and end",
    }
    report = (tmp_path / "out" / "cohort.md").read_text()
    assert "no row in admissions or patients" in report and "not after intime" in report


def test_the_command_prints_one_line_and_no_traceback(root, tmp_path):
    file = root / f"{CHART}.csv"
    file.write_bytes(file.read_bytes().replace(b"2150-03-01 12:00:00", b"noon", 1))
    command = [sys.executable, "-c", "from benchmark.cli import main; main()", "prepare"]
    done = subprocess.run(
        [*command, "--mimic-iv", str(root / "mimic-iv"), str(tmp_path / "out")], capture_output=True, text=True
    )
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert done.stderr.startswith(f"error: {file}: row 1, column charttime: 'noon' is no time YYYY-MM-DD HH:MM:SS")
    assert list(tmp_path.iterdir()) == [root]
