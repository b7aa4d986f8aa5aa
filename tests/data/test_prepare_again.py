"""`prepare` called again: nothing changed, something changed, after a kill, and by two processes at once."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from raw_files import small_hospital

import benchmark.data.prepare as prepare_module
from benchmark.data.prepare import prepare
from benchmark.data.rules import Rules
from benchmark.errors import UserError

COMMAND = [sys.executable, "-c", "from benchmark.cli import main; main()", "prepare"]


@pytest.fixture(scope="module")
def raw_paths(tmp_path_factory) -> dict[str, Path]:
    return small_hospital().write(tmp_path_factory.mktemp("raw"))


@pytest.fixture(scope="module")
def first(raw_paths, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("first") / "data"
    prepare(**raw_paths, out=out)
    return out


def content(folder: Path) -> dict[str, bytes]:
    """All files but the random key."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != "key.bin"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def refuse_work(*_: object) -> None:
    raise AssertionError("a step was done")


def test_same_call_again_does_nothing(raw_paths, first, monkeypatch):
    monkeypatch.setattr(prepare_module, "read_sources", refuse_work)
    before = content(first)
    assert prepare(**raw_paths, out=first) == json.loads((first / "manifest.json").read_text())
    assert content(first) == before and [path.name for path in first.parent.iterdir()] == ["data"]


def test_copied_and_touched_files_are_the_same(raw_paths, first, tmp_path, monkeypatch):
    copied = {name: shutil.copytree(path, tmp_path / name) for name, path in raw_paths.items()}
    for path in tmp_path.rglob("*.csv.gz"):
        os.utime(path, (1, 1))
    monkeypatch.setattr(prepare_module, "read_sources", refuse_work)
    assert prepare(**copied, out=first)["fingerprint"]
    shutil.copytree(first, tmp_path / "shared", ignore=shutil.ignore_patterns("private"))
    assert prepare(**copied, out=tmp_path / "shared")["fingerprint"]


def test_what_changed_is_said(raw_paths, first, tmp_path, monkeypatch):
    monkeypatch.setattr(prepare_module, "read_sources", refuse_work)
    with pytest.raises(UserError, match=r"exists already.*\n  rule age: at_admission then, anchor now$"):
        prepare(**raw_paths, out=first, rules=Rules(age="anchor"))
    with pytest.raises(UserError, match="name: mimic-iv then, other now"):
        prepare(**raw_paths, out=first, name="other")
    with pytest.raises(UserError, match="note/discharge: there then, not now"):
        prepare(raw_paths["mimic_iv"], first, raw_paths["mimic_cxr"])
    changed = Path(shutil.copytree(raw_paths["mimic_iv"], tmp_path / "iv"))
    stays = changed / "icu/icustays.csv.gz"
    stays.write_bytes(stays.read_bytes()[:-1] + b"\0")
    labs = changed / "hosp/labevents.csv.gz"
    labs.write_bytes(labs.read_bytes()[:-1] + b"\1")
    with pytest.raises(UserError, match=r"labevents.csv.gz: other content"):
        prepare(**raw_paths | {"mimic_iv": changed}, out=first)
    stays.write_bytes(stays.read_bytes() + b"\0")
    with pytest.raises(UserError, match=r"icustays.csv.gz: [\d,]+ bytes then, [\d,]+ now"):
        prepare(**raw_paths | {"mimic_iv": changed}, out=first)
    monkeypatch.setattr("benchmark.data.request.code_version", lambda _: "other")
    with pytest.raises(UserError, match="the part of this program that prepares data has changed"):
        prepare(**raw_paths, out=first)


def test_what_is_no_data_set_is_left_alone(raw_paths, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").write_text("precious")
    with pytest.raises(UserError, match=r"exists already; choose another name or remove it$"):
        prepare(**raw_paths, out=tmp_path / "mine")
    assert (tmp_path / "mine" / "file").read_text() == "precious"


KILLED = """
import os, signal, sys
from pathlib import Path
from benchmark.data import prepare as module
iv, cxr, note, out, moment = sys.argv[1:]

def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

def progress(what, done, total):
    if what == moment:
        die()

if hasattr(module, moment):
    setattr(module, moment, die)
module.prepare(Path(iv), Path(out), Path(cxr), Path(note), progress=progress)
"""
"""Kills itself when a step reports, or at the call of a function of the module."""


@pytest.mark.parametrize("moment", ["laboratory events", "films", "series", "replace_text"])
def test_killed_call_is_taken_up(raw_paths, first, tmp_path, moment):
    out = tmp_path / "data"
    places = [str(raw_paths[name]) for name in ("mimic_iv", "mimic_cxr", "mimic_note")]
    killed = subprocess.run([sys.executable, "-c", KILLED, *places, str(out), moment])
    assert killed.returncode == -signal.SIGKILL and not out.exists()
    place = tmp_path / ".data.work"
    assert place.stat().st_mode & 0o777 == 0o700
    prepare(**raw_paths, out=out)
    assert content(out) == content(first)
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_finished_steps_are_not_done_again(raw_paths, first, tmp_path, monkeypatch):
    out = tmp_path / "data"
    with monkeypatch.context() as patch:
        patch.setattr(prepare_module, "audit_folder", stop)
        with pytest.raises(KeyboardInterrupt):
            prepare(**raw_paths, out=out)
    steps = []
    prepare(**raw_paths, out=out, progress=lambda what, *_: steps.append(what))
    assert "chart events" not in steps and content(out) == content(first)


def test_finished_steps_of_another_request_are_thrown_away(raw_paths, first, tmp_path, monkeypatch):
    out = tmp_path / "data"
    with monkeypatch.context() as patch:
        patch.setattr(prepare_module, "audit_folder", stop)
        with pytest.raises(KeyboardInterrupt):
            prepare(**raw_paths, out=out, rules=Rules(outliers="kept"))
    steps = []
    prepare(**raw_paths, out=out, progress=lambda what, *_: steps.append(what))
    assert "chart events" in steps and content(out) == content(first)


def test_a_repaired_table_costs_no_step_that_does_not_read_it(first, tmp_path) -> None:
    paths, steps = small_hospital().write(tmp_path / "raw"), []
    films = paths["mimic_cxr"] / "mimic-cxr-2.0.0-metadata.csv.gz"
    whole = films.read_bytes()
    films.write_bytes(gzip.compress(gzip.decompress(whole).replace(b",21", b",99", 1)))
    with pytest.raises(
        UserError, match=r"(?s)column StudyDate: '99.*Finished steps are kept in .*; the same call goes on from there"
    ):
        prepare(**paths, out=tmp_path / "data")
    films.write_bytes(whole)
    prepare(**paths, out=tmp_path / "data", progress=lambda what, *_: steps.append(what))
    assert "chart events" not in steps
    samples = [(folder / "samples/ihm.parquet").read_bytes() for folder in (first, tmp_path / "data")]
    assert samples[0] == samples[1]


def test_a_file_that_cannot_be_written_is_placed(raw_paths, tmp_path) -> None:
    code = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000)); " + COMMAND[2]
    options = [f"--{name.replace('_', '-')}={path}" for name, path in raw_paths.items()]
    done = subprocess.run(
        [*COMMAND[:2], code, "prepare", *options, str(tmp_path / "data")], capture_output=True, text=True
    )
    assert done.returncode == 2 and f"{tmp_path / 'data'} cannot be prepared in" in done.stderr
    assert "File too large" in done.stderr and not (tmp_path / "data").exists()


def test_a_damaged_data_set_is_not_taken_for_a_finished_one(raw_paths, first, tmp_path) -> None:
    out = Path(shutil.copytree(first, tmp_path / "data"))
    os.truncate(out / "series/values.npy", 200)
    (out / "samples/ihm.parquet").unlink()
    with pytest.raises(UserError, match=r"is damaged: samples/ihm.parquet, series/values.npy missing or cut"):
        prepare(**raw_paths, out=out)


def test_a_link_to_nothing_is_refused_before_the_work(raw_paths, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(prepare_module, "read_sources", refuse_work)
    (tmp_path / "data").symlink_to(tmp_path / "gone")
    with pytest.raises(UserError, match="data exists already; choose another name or remove it"):
        prepare(**raw_paths, out=tmp_path / "data")


def stop(*_: object) -> None:
    raise KeyboardInterrupt


def test_early_failure_leaves_nothing(raw_paths, tmp_path, monkeypatch):
    monkeypatch.setattr(prepare_module, "read_sources", stop)
    with pytest.raises(KeyboardInterrupt):
        prepare(**raw_paths, out=tmp_path / "data")
    assert list(tmp_path.iterdir()) == []


def test_second_process_is_sent_away(raw_paths, tmp_path):
    out, seen = tmp_path / "data", []

    def progress(what: str, *_: object) -> None:
        if not seen:
            other = subprocess.run(
                [*COMMAND, "--mimic-iv", str(raw_paths["mimic_iv"]), str(out)], capture_output=True, text=True
            )
            seen.append((other.returncode, other.stderr))

    prepare(**raw_paths, out=out, progress=progress)
    code, said = seen[0]
    assert code == 2 and "is being prepared by another process" in said and len(said.splitlines()) <= 3


def test_file_that_changes_meanwhile_is_noticed(tmp_path):
    paths = small_hospital().write(tmp_path / "raw")
    stays = paths["mimic_iv"] / "icu/icustays.csv.gz"

    def progress(what: str, *_: object) -> None:
        if what == "series":
            os.utime(stays, (1, 1))

    with pytest.raises(UserError, match=r"icustays.csv.gz changed while it was read"):
        prepare(**paths, out=tmp_path / "data", progress=progress)


def test_command_says_that_nothing_changed(raw_paths, first):
    options = [f"--{name.replace('_', '-')}={path}" for name, path in raw_paths.items()]
    done = subprocess.run([*COMMAND, *options, str(first)], capture_output=True, text=True)
    assert done.returncode == 0 and "nothing has changed" in done.stdout
