"""From a study to the report, by the commands that a user types."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest
from tuning_data import PROTOCOL

from benchmark import cli


@pytest.mark.slow
def test_tuned_settings_are_run_and_the_report_shows_their_study(tmp_path: Path, data: Path, monkeypatch) -> None:
    def bench(*words: str) -> None:
        monkeypatch.setattr(sys, "argv", ["bench", *words, "--out", str(out)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert not ended.value.code

    out, protocol, page = tmp_path / "out", tmp_path / "tiny.yaml", tmp_path / "report.html"
    protocol.write_text(PROTOCOL)
    on = ("--data", str(data), "--device", "cpu")
    bench("tune", "--model", "flexcare", "--trials", "2", "--best", "1", "--protocol", str(protocol), *on)
    (best,) = out.glob("tuning/*/best.yaml")
    bench("run", "--config", str(best), "--workers", "1", *on)
    bench("report", str(page))
    text = " ".join(re.sub(r"<[^>]+>", " ", page.read_text()).split())
    study = best.parent.name
    records = [json.loads(file.read_text()) for file in out.glob("runs/*/run.json")]
    assert {record["study"].split("#")[0] for record in records} == {study} and len(records) == 2
    assert "Results on test data, protocol tiny-tuned" in text
    section = text.split("Tuning of FlexCare Study")[1].split("Settings and environment")[0]
    assert section.split()[0] == study
    assert "2 finished trials" in section and "test patients were not read" in section
    assert "the settings without tuning" in section and "Trade-off between tasks" in section
    assert f"study: {records[0]['study']}" in text.split("Settings and environment")[-1]


def test_a_config_file_names_models_and_workers_and_one_seed_is_refused_before_any_training(
    tmp_path: Path, monkeypatch, capsys
) -> None:
    asked = []
    monkeypatch.setattr("benchmark.cli.tune._tune", lambda _, settings, request: asked.append((settings, request)))
    file = tmp_path / "mine.yaml"
    file.write_text("models: [mmf]\nworkers: 2\nprotocol: quick\nout: out\n")
    planned, sent = tmp_path / "planned.yaml", tmp_path / "sent.yaml"
    planned.write_text(file.read_text() + "dry_run: true\n")
    sent.write_text(file.read_text() + "form: packed\nslurm: {slurm_partition: gpu}\nexecutor: slurm\n")
    cases = [(file, [], 0, ""), (file, ["--workers", "1"], 0, "")]
    cases += [(file, ["--seeds", "3"], 2, "[3] is one seed"), (planned, [], 2, "dry_run: goes with bench run")]
    cases.append((sent, [], 2, "form, executor, slurm: goes with bench run"))
    for config, more, code, says in cases:
        monkeypatch.setattr(sys, "argv", ["bench", "tune", "--config", str(config), *more])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert (ended.value.code or 0) == code
        assert says in capsys.readouterr().err
    assert [(settings.models, request.workers) for settings, request in asked] == [(("mmf",), 2), (("mmf",), 1)]
