"""`bench analyse` on real runs of a tiny cohort: what it prints and writes, refuses, and keeps to itself."""

from __future__ import annotations

import csv
import gzip
import re
import sys
from pathlib import Path

import pandas as pd
import pytest

from benchmark import cli
from benchmark.simulation import simulate

pytestmark = pytest.mark.slow

PROTOCOL = """
base: quick
dimensions: {width: 8, layers: 1, heads: 2, hours: 24, note_tokens: 16, film: 64, patch: 32}
training: {batch_size: 8, epochs: {multitask: 1, singletask: 1}}
seeds: [40, 42]
"""
TEXT, VALUE = "Zyxwvut planted sentence", "PLANTEDVALUE"
TABLES = ("calibration", "cost", "patterns", "reliability", "robustness", "subgroups", "transfer")


def rewrite(file: Path, change) -> None:
    with gzip.open(file, "rt", newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    with gzip.open(file, "wt", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, rows[0].keys(), lineterminator="\n")
        writer.writeheader()
        writer.writerows(row | change(row) for row in rows)


def call(*words: str) -> int:
    before = sys.argv
    sys.argv = ["bench", *words]
    try:
        with pytest.raises(SystemExit) as ended:
            cli.main()
    finally:
        sys.argv = before
    return ended.value.code or 0


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("analyse")
    raw = folder / "raw"
    simulate(raw, 90, 5)
    rewrite(
        raw / "mimic-note" / "note" / "discharge.csv.gz",
        lambda row: {"text": row["text"].replace("Brief Hospital Course:\n", f"Brief Hospital Course:\n{TEXT} ")},
    )
    rewrite(
        raw / "mimic-iv" / "hosp" / "admissions.csv.gz",
        lambda row: {"race": f"WHITE - {VALUE}", "insurance": VALUE if int(row["hadm_id"]) % 2 else "Medicare"},
    )
    (folder / "tiny.yaml").write_text(PROTOCOL)
    roots = ["--mimic-iv", "mimic-iv", "--mimic-cxr", "mimic-cxr", "--mimic-note", "mimic-note"]
    roots = [word if word.startswith("--") else str(raw / word) for word in roots]
    assert call("prepare", *roots, str(folder / "data")) == 0
    for models, tasks in (("flexcare-st,mmf", "ihm,drg"), ("flexcare", "ihm,drg")):
        words = ["--models", models, "--tasks", tasks, "--protocol", str(folder / "tiny.yaml"), "--device", "cpu"]
        words += ["--workers", "1", "--data", str(folder / "data"), "--out", str(folder / "out")]
        assert call("run", *words) == 0
    return folder


def test_all_analyses_are_printed_and_written_without_text_or_number_of_a_patient(place, capsys):
    assert call("analyse", "--out", str(place / "out"), "--data", str(place / "data"), "--device", "cpu") == 0
    printed = capsys.readouterr()
    for title in ("Calibration of", "by group of patients", "by the modalities present", "hidden modalities"):
        assert title in printed.out
    assert printed.out.count("**SIMULATED DATA. ") == 6 and "Traceback" not in printed.err
    files = sorted((place / "out" / "tables").glob("*-*.csv"))
    names = {file.name.split("-")[0]: pd.read_csv(file) for file in files if not file.name.startswith("table")}
    assert tuple(sorted(names)) == TABLES
    assert all(frame["simulated"].all() and len(frame) for frame in names.values())
    assert set(names["subgroups"]["subgroup"]) >= {"female", "male", "another", "Medicare"}
    assert {"FlexCare, 2 tasks"} == {word.strip() for word in printed.out.split("|") if ", 2 tasks" in word}

    secret = names_of_patients(place)
    texts = {str(file): file.read_text() for file in (place / "out" / "tables").iterdir()} | {"screen": printed.out}
    for name, text in texts.items():
        words = set(text.replace(",", " ").replace("|", " ").replace("(", " ").split())
        assert not words & secret, name
    contents = {str(file): file.read_bytes() for file in (place / "out").rglob("*") if file.is_file()}
    for name, content in (contents | {name: text.encode() for name, text in texts.items()}).items():
        assert TEXT.encode() not in content and VALUE.encode() not in content, name


def names_of_patients(place: Path) -> set[str]:
    """Numbers of MIMIC, and the hashes that stand for them in predictions."""
    links = pd.read_parquet(place / "data" / "private" / "links.parquet")
    numbers = pd.concat([links[name] for name in ("subject_id", "hadm_id", "stay_id", "study_id")]).dropna()
    secret = {str(int(number)) for number in numbers if number > 10**5}
    for run in (place / "out" / "runs").iterdir():
        stored = pd.read_parquet(run / "predictions.parquet")
        secret |= set(stored["patient"]) | set(stored["sample"])
    return secret


def test_the_report_page_has_all_parts_and_nothing_of_a_single_patient(place, capsys):
    page = place / "report.html"
    assert call("report", str(page), "--out", str(place / "out"), "--data", str(place / "data")) == 0
    assert "Traceback" not in capsys.readouterr().err
    text = page.read_text(encoding="utf-8")
    headings = re.findall(r"<h2 id=[^>]*>(.*?)</h2>", text)
    expected = (
        "Reading",
        "Results",
        "Extension task (Table 5)",
        "Figures of the paper",
        "Cohort",
        "Settings and environment",
    )
    assert [heading for heading in headings if heading in expected] == list(expected)
    for part in ("Calibration of test predictions", "Cost beside score", "Test results by group of patients"):
        assert part in headings
    for part in ("Calibration of test predictions", "Cost beside score"):
        assert re.search(rf"SIMULATED DATA\. {part} on [^<]+, protocol \w+\.", text), "a table that says what it is of"
    assert "Simulated data." in text and "Leakage audit" in text.replace("leakage", "Leakage")
    words = set(re.split(r"[^0-9A-Za-z]+", text))
    assert not words & names_of_patients(place)
    assert TEXT not in text and VALUE not in text


def test_a_second_call_reads_what_the_first_kept(place, capsys, monkeypatch):
    words = ("analyse", "robustness", "--out", str(place / "out"), "--data", str(place / "data"), "--device", "cpu")
    assert call(*words) == 0
    first = capsys.readouterr().out
    monkeypatch.setattr("benchmark.runs.restore.restore_run", lambda *_: pytest.fail("predicted again"))
    assert call(*words) == 0
    assert capsys.readouterr().out == first


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("calibraton",), "unknown analysis 'calibraton'; did you mean 'calibration'"),
        (("cost", "--models", "flexcar"), "did you mean 'flexcare'"),
        (("cost", "--group", "zz"), "no group of runs starts with 'zz'"),
        (("subgroups",), "need the data set of the runs; name its folder with --data"),
        (("robustness", "--data", "DATA", "--device", "gpu"), "unknown device 'gpu'"),
    ],
)
def test_what_cannot_be_done_is_refused_in_one_line(place, capsys, words, said):
    words = [str(place / "data") if word == "DATA" else word for word in words]
    assert call("analyse", *words, "--out", str(place / "out")) == 2
    printed = capsys.readouterr()
    assert said in printed.err and "Traceback" not in printed.err


def test_people_that_were_not_prepared_are_missed(place, tmp_path, capsys):
    older = tmp_path / "data"
    older.mkdir()
    for entry in (place / "data").iterdir():
        if entry.name != "private":
            (older / entry.name).symlink_to(entry)
    (older / "private").mkdir()
    (older / "private" / "key.bin").write_bytes((place / "data" / "private" / "key.bin").read_bytes())
    assert call("analyse", "subgroups", "--out", str(place / "out"), "--data", str(older)) == 2
    assert "prepare the data again to see subgroups" in capsys.readouterr().err
    assert call("analyse", "--out", str(place / "out"), "--data", str(older), "--device", "cpu") == 0
    printed = capsys.readouterr().out
    assert "subgroups is left out: " in printed and "Cost beside score" in printed
