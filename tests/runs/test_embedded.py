"""The embedded cohort is made once, keeps no raw files, and leaves nothing behind when its making fails."""

from __future__ import annotations

import pytest
from harness_fakes import write_data

from benchmark import simulation
from benchmark.data import prepare as preparation
from benchmark.runs import embedded


@pytest.fixture
def calls(monkeypatch):
    """Replaces simulation and preparation by quick ones; lists what was called."""
    called = []

    def simulate(out, patients, seed, progress=None):
        called.append((patients, seed))
        (out / "mimic-iv").mkdir(parents=True)

    def prepare(mimic_iv, out, mimic_cxr=None, mimic_note=None, name=None, progress=None):
        assert mimic_iv.is_dir()
        write_data(out)

    monkeypatch.setattr(simulation, "simulate", simulate)
    monkeypatch.setattr(preparation, "prepare", prepare)
    return called


def test_it_is_made_once_for_each_size_seed_and_code(tmp_path, calls, monkeypatch):
    first = embedded.embedded_cohort(tmp_path, 50, 1)
    assert embedded.embedded_cohort(tmp_path, 50, 1) == first
    assert embedded.embedded_cohort(tmp_path, 50, 2) != first
    monkeypatch.setattr(embedded, "code_version", lambda sources: "0" * 64)
    assert embedded.embedded_cohort(tmp_path, 50, 1) != first
    assert calls == [(50, 1), (50, 2), (50, 1)]
    assert not list(tmp_path.rglob("mimic-iv"))
    assert len(list((tmp_path / "data").iterdir())) == 3


def test_a_failure_leaves_nothing(tmp_path, calls, monkeypatch):
    def fails(*args, **options):
        raise OSError("disk full")

    monkeypatch.setattr(preparation, "prepare", fails)
    with pytest.raises(OSError, match="disk full"):
        embedded.embedded_cohort(tmp_path, 50, 1)
    assert not list((tmp_path / "data").iterdir())
