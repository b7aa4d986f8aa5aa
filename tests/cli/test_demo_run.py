"""The real MIMIC-IV demo, from raw files to a table, with the real command."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

DEMO = Path(os.environ.get("MIMIC_IV_DEMO", Path(__file__).parents[3] / "shared" / "data" / "mimic-iv-demo"))
CONFIG = """
tasks: [ihm, phe]
models: [mt, flexcare]
seeds: [40]
protocol:
  base: quick
  dimensions: {width: 8}
  training:
    epochs: {multitask: 1, singletask: 1}
"""


def _bench(*arguments: object) -> str:
    command = [sys.executable, "-c", "from benchmark.cli import main; main()", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.skipif(
    not (DEMO / "icu").is_dir(), reason="the MIMIC-IV demo is not here; name its folder in MIMIC_IV_DEMO"
)
def test_the_demo_is_prepared_and_trained_on(tmp_path: Path) -> None:
    report = _bench("prepare", "--mimic-iv", DEMO, tmp_path / "data")
    assert "Impossible: DIA (no MIMIC-CXR folder given)." in report
    (tmp_path / "run.yaml").write_text(CONFIG)
    shown = _bench("run", "--config", tmp_path / "run.yaml", "--data", tmp_path / "data", "--out", tmp_path / "out")
    assert "3 runs finished" in shown
    assert "real data" in shown
    table = next((tmp_path / "out" / "tables").glob("*.md")).read_text()
    assert "SIMULATED" not in table
    assert "| PHE " in table
