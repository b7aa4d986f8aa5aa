"""`bench run --models all`, whole and real, on a tiny simulated cohort: killed, continued, compared."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from benchmark import registry
from benchmark.tasks import TASKS

pytestmark = pytest.mark.slow

PROTOCOL = """
base: quick
dimensions: {width: 8, layers: 1, heads: 2, hours: 24, note_tokens: 16, film: 64, patch: 32}
training: {batch_size: 8, epochs: {multitask: 1, singletask: 1}}
cohort: {patients: 80, seed: 5}
seeds: [40]
"""

BENCH = (sys.executable, "-c", "from benchmark.cli import main; main()")


HEAVY = ("torch._dynamo", "sklearn", "scipy.stats", "matplotlib", "transformers")
"""Libraries whose import takes seconds, and which a grid does not need."""

TELLING = (
    sys.executable,
    "-c",
    f"""
import atexit, sys
from benchmark.cli import main
atexit.register(lambda: print("loaded:", *(name for name in {HEAVY} if name in sys.modules), file=sys.stderr))
main()""",
)


def finished(out: Path) -> dict[str, Path]:
    return {file.parent.name: file.parent for file in out.glob("runs/[!.]*/run.json")}


@pytest.fixture(scope="module")
def grid(tmp_path_factory) -> tuple[Path, Path, subprocess.CompletedProcess, set[str]]:
    """Kills the command amid its grid and calls it again; gives out, protocol, the second call, the kept runs."""
    folder = tmp_path_factory.mktemp("grid")
    protocol, out = folder / "tiny.yaml", folder / "out"
    protocol.write_text(PROTOCOL)
    command = [*BENCH, "run", "--models", "all", "--protocol", str(protocol), "--out", str(out), "--device", "cpu"]
    first = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + 300
    while len(finished(out)) < 3 and first.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    assert first.poll() is None, "the grid was over before it could be killed"
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    kept = set(finished(out))
    second = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    return out, protocol, second, kept


def test_the_grid_is_completed_and_the_table_shown(grid):
    out, _, second, kept = grid
    assert second.returncode == 0, second.stdout + second.stderr
    assert len(kept) >= 3
    tasks = sum(task.in_table3 for task in TASKS.values())
    compared = [entry for entry in registry.models().values() if entry.group == "table3"]
    runs = sum(1 if entry.multitask else tasks for entry in compared)
    assert f"{runs} runs, {len(kept)} of them finished before" in second.stdout
    assert len(finished(out)) == runs
    assert "SIMULATED DATA" in second.stdout
    for title in (*(entry.title for entry in compared), "ceiling"):
        assert f" {title} " in second.stdout
    for line in second.stdout.splitlines()[-3:]:
        assert Path(line.split(maxsplit=1)[1]).is_file()
    assert "Traceback" not in second.stdout + second.stderr


def test_the_killed_and_continued_grid_equals_an_undisturbed_one_in_one_process(grid, tmp_path):
    out, protocol, _, _ = grid
    (data,) = (out / "data").glob("embedded-*")
    command = [*TELLING, "run", "--models", "all", "--protocol", str(protocol), "--out", str(tmp_path)]
    command += ["--data", str(data), "--workers", "1", "--device", "cpu"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert done.stderr.splitlines()[-1].split() == ["loaded:"], done.stderr
    disturbed, undisturbed = finished(out), finished(tmp_path)
    assert disturbed.keys() == undisturbed.keys()
    for name, folder in undisturbed.items():
        for file in ("predictions.parquet", "checkpoint.safetensors"):
            assert (folder / file).read_bytes() == (disturbed[name] / file).read_bytes(), f"{name}/{file}"
        records = [json.loads((place / "run.json").read_text()) for place in (folder, disturbed[name])]
        assert records[0]["metrics"] == records[1]["metrics"]


def test_nothing_is_repeated(grid):
    out, protocol, _, _ = grid
    command = [*BENCH, "run", "--protocol", str(protocol), "--out", str(out), "--device", "cpu"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "nothing to run" in done.stdout
    assert "0 runs finished" in done.stdout


def test_results_hold_no_number_of_a_patient_or_sample(grid):
    out, _, _, _ = grid
    (data,) = (out / "data").glob("embedded-*")
    links = pd.read_parquet(data / "private" / "links.parquet")
    secret = {
        str(int(value)) for name in ("subject_id", "hadm_id", "stay_id", "study_id") for value in links[name].dropna()
    }
    secret = {value for value in secret if len(value) > 5}
    assert secret
    for folder in finished(out).values():
        text = (folder / "run.json").read_text() + pd.read_parquet(folder / "predictions.parquet").to_csv()
        words = {word for word in text.replace('"', " ").replace(",", " ").split() if word.isdecimal()}
        assert not words & secret


def test_nothing_of_the_patients_is_in_the_results(grid):
    out, *_ = grid
    scanned = subprocess.run([*BENCH, "scan-results", str(out)], capture_output=True, text=True, check=False)
    assert scanned.returncode == 0, scanned.stdout + scanned.stderr
    (data,) = (out / "data").glob("[!.]*")
    assert f"texts of {data.name}" in scanned.stdout
    assert data.stat().st_mode & 0o077 == 0, "patients' data are for their owner alone"
    os.umask(usual := os.umask(0))
    run = next(out.glob("runs/*/run.json")).parent
    for path in (run, *run.iterdir(), *out.glob("tables/*")):
        assert path.stat().st_mode & 0o777 == (0o777 if path.is_dir() else 0o666) & ~usual, "results are as usual"
