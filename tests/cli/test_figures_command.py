"""`bench figures` as a user types it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from stored_runs import write_run

from benchmark import cli


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    def call(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["bench", *words])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        printed = capsys.readouterr()
        return ended.value.code or 0, printed.out, printed.err

    return call


@pytest.fixture
def out(tmp_path: Path) -> Path:
    for place, model in enumerate(("flexcare-a", "flexcare-b", "flexcare-c", "flexcare-d", "flexcare")):
        for seed in (40, 42):
            score = 0.6 + 0.01 * place + 0.001 * seed
            metrics = {
                "ihm": {"auroc": score, "auprc": score / 2},
                "phe": {"macro_auroc": score, "micro_auroc": None},
            }
            write_run(tmp_path, model, seed, metrics, tasks=["ihm", "phe"])
    return tmp_path


def test_what_can_be_drawn_is_and_the_rest_is_explained(bench, out: Path) -> None:
    code, text, _ = bench("figures", "4", "7", "--out", str(out))
    assert code == 0
    assert "SIMULATED DATA: toy 5% cohort; protocol quick. Ablations: mean test scores over 2 seeds" in text
    for ending in ("pdf", "svg", "png", "csv", "txt"):
        file = out / "figures" / f"figure4-aaaa11112222.{ending}"
        assert str(file) in text
        assert file.stat().st_size
    last = text.strip().splitlines()[-1]
    assert last.startswith("Figure 7 is left out: there are no traced runs of flexcare. `bench run --models flexcare")
    assert "--seeds 40,42 --trace --protocol quick" in last


def test_asked_for_figures_of_which_none_can_be_drawn_are_refused(bench, tmp_path: Path) -> None:
    out = tmp_path / "my results"
    write_run(out, "flexcare", 40, {"ihm": {"auroc": 0.7, "auprc": 0.4}})
    code, _, err = bench("figures", "7", "--out", str(out))
    assert code == 2
    assert err.startswith("error: Figure 7 is left out: there are no traced runs of flexcare. `bench run")
    assert f"--out '{out}'`" in err
    assert "figures draw runs on several tasks with all labels, which those that are here are not" in err
    assert bench("figures", "--out", str(out))[0] == 0


def test_refusals(bench, out: Path, tmp_path: Path) -> None:
    code, _, err = bench("figures", "3", "--out", str(out))
    assert (code, err) == (2, "error: there is no figure 3 to draw. Allowed: 4, 5, 6, 7\n")
    code, _, err = bench("figures", "--data", str(tmp_path / "nowhere"), "--out", str(out))
    assert code == 2
    assert err.startswith("error: data folder ") and err.count("\n") == 1
    assert bench("figures", "--group", "zz", "--out", str(out))[2].startswith(
        "error: no group of runs starts with 'zz'"
    )
