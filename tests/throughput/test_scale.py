"""The measurement itself, at a size of no meaning, and speed and memory at a million rows."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from benchmark.cli import app
from benchmark.throughput.raw_tables import write_raw_tables
from benchmark.throughput.scale import markdown, measure, measure_scale

STEPS = ["chart events", "laboratory events", "events", "standardiser", "series"]


def test_sizes_are_measured_in_a_process_of_their_own(tmp_path):
    (measured,) = measure_scale([20_000], tmp_path)
    assert measured.rows == {"icu/chartevents": 20_000, "hosp/labevents": 7540}
    assert list(measured.seconds) == STEPS and 0 < sum(measured.seconds.values()) <= measured.total
    assert 0.1 < measured.events / 20_000 < 0.2 and measured.hours > 300 and measured.cpu > 0
    assert 50 < measured.peak < 1024
    assert list(tmp_path.iterdir()) == []
    assert "| 20,000" in markdown([measured])


def test_a_failed_process_says_why(tmp_path):
    with pytest.raises(RuntimeError, match="no such folder"):
        measure(tmp_path / "nothing", tmp_path / "out")


def test_the_command_prints_a_table(tmp_path):
    sizes = ["--rows", "3000", "--lab-rows", "700"]
    result = CliRunner().invoke(app, ["data", "scale", *sizes, "--plain", "--folder", str(tmp_path)])
    assert result.exit_code == 0 and "| 3,000" in result.output and "| 700" in result.output


@pytest.mark.slow
def test_a_million_rows(tmp_path, benchmark):
    raw = tmp_path / "raw"
    write_raw_tables(raw, 1_000_000)
    measured = benchmark.pedantic(measure, (raw, tmp_path / "out"), rounds=1)
    assert measured.events > 100_000 and measured.peak < 1024
