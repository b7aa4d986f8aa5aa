"""A short campaign of `tests/fault_injection.py`, and what no file of the source may do."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmark.code_version import ROOT

pytestmark = pytest.mark.reliability


@pytest.mark.slow
def test_commands_survive_faults_at_random_points(tmp_path: Path) -> None:
    script = Path(__file__).parent.parent / "fault_injection.py"
    done = subprocess.run(
        [sys.executable, str(script), "--faults", "6", "--seed", "7", "--most", "2", "--folder", str(tmp_path / "f")],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert json.loads(done.stdout)["faults"] >= 6


FORBIDDEN = {
    r"\bimport (pickle|dill|joblib|shelve|marshal)\b|\bfrom (pickle|dill|joblib|shelve|marshal)\b": "pickle runs code",
    r"torch\.(load|save)\(": "safetensors hold tensors alone",
    r"allow_pickle=True": "an array of objects runs code",
    r"yaml\.(unsafe_load|full_load|UnsafeLoader|FullLoader)": "YAML tags run code",
    r"(?<![\w.])(eval|exec)\(": "runs text",
    r"\bextractall\(": "an archive may name paths outside",
    r"\b(requests|urllib\.request|http\.client)\b": "asks the network",
}


def test_no_source_file_runs_code_from_data_or_asks_the_network() -> None:
    found = []
    for package in ("benchmark", "models", "baselines"):
        for file in sorted((ROOT / package).rglob("*.py")):
            text = file.read_text(encoding="utf-8")
            found += [
                f"{file.relative_to(ROOT)}: {why}" for pattern, why in FORBIDDEN.items() if re.search(pattern, text)
            ]
    assert not found
