"""A stored run is repeated and compared; results are looked through for identifiers and text of notes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from prepared_data import write_prepared

from benchmark import cli

SMALL = """
base: quick
dimensions: {width: 8, layers: 1, heads: 2, hours: 24, note_tokens: 8, film: 32, patch: 16}
training: {batch_size: 16, epochs: {multitask: 2, singletask: 2}}
seeds: [1]
"""
NOTE = "The patient is a pleasant man who came in with pains of the chest and a history of gout."


def write_data(folder: Path) -> Path:
    """A prepared data set with identifiers and a note."""
    write_prepared(folder, ("ihm", "phe"))
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | {"modalities": {"ehr": True, "cxr": True}}))
    (folder / "private").mkdir()
    (folder / "private" / "key.bin").write_bytes(bytes(32))
    links = {"subject_id": [10000032, 10001217], "dicom_id": ["02aa804e-bde0afdd-112c0b34-7bc16630-4e384014", None]}
    pd.DataFrame(links).to_parquet(folder / "private" / "links.parquet")
    pd.DataFrame({"section": ["pmh"], "text": [NOTE], "digest": ["0"]}).to_parquet(folder / "notes" / "texts.parquet")
    return folder


pytestmark = [pytest.mark.slow, pytest.mark.reliability]


@pytest.fixture
def bench(monkeypatch, capsys):
    def call(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["bench", *map(str, words)])
        code = 0
        try:
            cli.main()
        except SystemExit as end:
            code = end.code or 0
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return call


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """Data and results of three runs in one process with one thread."""
    place = tmp_path_factory.mktemp("made")
    write_data(place / "data")
    (place / "small.yaml").write_text(SMALL)
    words = ["run", "--models", "mmf,flexcare", "--tasks", "ihm,phe", "--data", place / "data", "--out", place / "out"]
    words += ["--protocol", place / "small.yaml", "--device", "cpu", "--workers", 1]
    sys.argv, before = ["bench", *map(str, words)], sys.argv
    try:
        with pytest.raises(SystemExit) as ended:
            cli.main()
    finally:
        sys.argv = before
    assert not ended.value.code
    return place


@pytest.fixture
def grid(made: Path, tmp_path: Path) -> tuple[Path, Path]:
    """Copies of data and results."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    return tmp_path / "data", tmp_path / "out"


def test_a_run_is_verified_and_a_changed_one_is_not(grid, bench, monkeypatch) -> None:
    data, out = grid
    code, said, err = bench("verify", "mmf-phe", "--out", out, "--data", data)
    assert (code, said.count("the same bytes")) == (0, 1), said + err
    (folder,) = (out / "runs").glob("mmf-phe-*")
    table = pd.read_parquet(folder / "predictions.parquet")
    table["p"] = [np.float32(p + 1e-3) for p in table["p"]]
    table.to_parquet(folder / "predictions.parquet", index=False)
    code, said, _ = bench("verify", folder, "--data", data)
    assert code == 1 and "the largest difference of a probability is 0.001" in said
    assert not list(out.glob(".unfinished-*"))
    code, _, err = bench("verify", "mmf", "--out", out, "--data", data)
    assert code == 2 and "2 finished runs" in err
    code, _, err = bench("verify", "medfuse", "--out", out, "--data", data)
    assert code == 2 and "no finished run" in err
    monkeypatch.setattr("benchmark.runs.verify.code_version", lambda: "other code")
    code, _, err = bench("verify", "mmf-phe", "--out", out, "--data", data)
    assert code == 2 and "was made by code of version" in err


def test_threads_and_order_of_jobs_change_no_byte(grid, bench, tmp_path: Path) -> None:
    """A pool of two, which takes the jobs in another order, in processes that are told to use two threads."""
    data, out = grid
    other = tmp_path / "other"
    words = ["run", "--models", "flexcare,mmf", "--tasks", "phe,ihm", "--protocol", tmp_path / "small.yaml"]
    words += ["--data", data, "--out", other, "--device", "cpu", "--workers", 2]
    script = "import torch; torch.set_num_threads(2); from benchmark.cli import main; main()"
    paths = {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "2", "POLARS_MAX_THREADS": "2"}
    command = [sys.executable, "-c", script, *map(str, words)]
    subprocess.run(command, check=True, env={**os.environ, **paths}, stdout=subprocess.DEVNULL)
    for folder in (out / "runs").iterdir():
        for name in ("predictions.parquet", "checkpoint.safetensors"):
            assert (folder / name).read_bytes() == (other / "runs" / folder.name / name).read_bytes(), folder.name


def test_results_are_clean_and_whatever_slips_in_is_found(grid, bench) -> None:
    data, out = grid
    code, said, err = bench("scan-results", out, "--data", data)
    assert code == 0 and "3 identifiers and 1 texts" in said, said + err
    planted = {
        "tables/numbers.csv": "run,value\n1,10000032\n",
        "tables/heads.csv": "subject_id,value\n1,2\n",
        "film.json": '{"film": "02aa804e-bde0afdd-112c0b34-7bc16630-4e384014"}',
        "note.md": "| he came in with pains of the\n| Pleasant man who came in with pains of the chest, and more\n",
        "gaps.txt": "Name: ___ Unit No: ___",
        "notes.bin": "?",
    }
    for name, content in planted.items():
        (out / name).parent.mkdir(exist_ok=True)
        (out / name).write_text(content)
    pd.DataFrame({"row": [10001217, 5]}).to_parquet(out / "rows.parquet")
    pd.DataFrame({"said": [NOTE]}).to_parquet(out / "texts.parquet")
    code, said, _ = bench("scan-results", out, "--data", data)
    assert code == 1
    for name in (*planted, "rows.parquet", "texts.parquet"):
        assert f"{name}: " in said, name
    assert "10000032" not in said and "pleasant" not in said, "the finding repeats what must not be told"
    for name in (*planted, "rows.parquet", "texts.parquet"):
        (out / name).unlink()
    assert bench("scan-results", out, "--data", data)[0] == 0


def test_a_data_set_among_the_results_is_left_out_and_read_for_what_to_look_for(grid, bench) -> None:
    data, out = grid
    (out / "data").mkdir()
    data.rename(out / "data" / "mine")
    code, said, _ = bench("scan-results", out)
    assert code == 0 and "texts of mine" in said
    code, _, err = bench("scan-results", out / "nothing")
    assert code == 2 and "no folder of results" in err
