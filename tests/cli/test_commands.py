"""The command as a user types it: help, refusals, lists, dry runs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from harness_fakes import write_data

from benchmark import cli, registry
from benchmark.config import resolve

VERBS = ("run", "tune", "table", "figures", "list", "prepare", "simulate", "verify", "scan-results")


@pytest.fixture
def bench(monkeypatch, capsys):
    """Calls the command; gives its exit code, and what it printed on both channels."""

    def call(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["bench", *words])
        monkeypatch.setenv("COLUMNS", "200")
        with pytest.raises(SystemExit) as ended:
            cli.main()
        printed = capsys.readouterr()
        return ended.value.code or 0, printed.out, printed.err

    return call


def test_help_lists_every_verb_with_examples(bench):
    code, out, _ = bench("--help")
    assert code == 0
    assert out.count("bench ") >= 7
    for verb in VERBS:
        assert f"bench {verb}" in out
        code, help_text, _ = bench(verb, "--help")
        assert code == 0
        assert f"bench {verb}" in help_text.split("Examples:")[1]


def test_help_needs_no_heavy_import():
    code = (
        "import sys; from benchmark.cli import app; from typer.testing import CliRunner; "
        "assert CliRunner().invoke(app, ['run', '--help']).exit_code == 0; "
        "print([name for name in ('torch', 'pandas', 'polars', 'transformers') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_all_refusals_come_at_once_with_exit_code_2_and_no_traceback(bench, tmp_path):
    code, _, err = bench(
        "run", "--models", "flexcar", "--tasks", "ihn", "--seeds", "4x", "--out", str(tmp_path / "out")
    )
    assert code == 2
    assert err.startswith("error: 3 faults")
    for part in ("did you mean 'flexcare'", "did you mean 'ihm'", "4x"):
        assert part in err
    assert "Traceback" not in err
    assert not (tmp_path / "out").exists()
    assert bench("run", "--modles", "mt")[0] == 2
    assert "Did you mean 'list'?" in bench("lst")[2]
    nothing = f"error: there are no runs yet in {tmp_path}; `bench run` makes some\n"
    assert bench("table", "--out", str(tmp_path))[::2] == (2, nothing)
    assert "did you mean 'models'" in bench("list", "modles")[2]


@pytest.mark.parametrize(
    "words",
    [
        ("simulate", "--patients", "20", "FILE/sub"),
        ("simulate", "--patients", "20", "/proc/nope"),
        ("run", "--out", "FILE"),
        ("run", "--out", "FILE/sub", "--dry-run"),
        ("run", "--out", "/proc/nope", "--dry-run"),
        ("prepare", "--mimic-iv", "RAW", "FILE/sub"),
    ],
)
def test_places_that_cannot_be_written_are_refused_in_one_line(bench, tmp_path, words):
    file = tmp_path / "file"
    file.write_text("")
    (tmp_path / "raw" / "hosp").mkdir(parents=True)
    (tmp_path / "raw" / "icu").mkdir()
    words = [word.replace("FILE", str(file)).replace("RAW", str(tmp_path / "raw")) for word in words]
    code, _, err = bench(*words)
    assert code == 2
    assert err.startswith("error: ")
    assert err.count("\n") == 1


def test_a_tilde_that_the_shell_left_alone_is_the_home_folder(bench, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "mine.yaml").write_text("models: [mt]\ntasks: [phe]\ndata: data\nprotocol: quick\n")
    assert bench("simulate", "--patients", "12", "~/raw")[0] == 0
    assert bench("prepare", "--mimic-iv=~/raw/mimic-iv", "~/data")[0] == 0
    assert bench("data", "check", "~/data")[0] == 0
    assert bench("data", "report", "~/data", "--out=~/report")[0] == 0
    assert resolve({"out": "~/out"}, Path("~/mine.yaml")).data.path == tmp_path / "home" / "data"
    assert [path.name for path in tmp_path.iterdir()] == ["home"]


def test_an_interrupt_before_a_verb_begins_leaves_no_traceback(bench, monkeypatch):
    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "app", interrupted)
    assert bench("list") == (130, "", "")


def test_lists(bench):
    assert [line.split()[0] for line in bench("list", "models")[1].splitlines()[2:]] == list(registry.models())
    assert [line.split()[0] for line in bench("list", "tasks")[1].splitlines()[2:]] == [
        "ihm", "los", "dec", "phe", "rea", "dia", "drg",
    ]  # fmt: skip
    assert {"paper", "quick"} <= {line.split()[0] for line in bench("list", "protocols")[1].splitlines()[2:]}
    assert "top_k" in bench("list", "models", "--options")[1]
    costs = bench("list", "models", "--cost")[1]
    assert [line.split()[0] for line in costs.split("\n\n")[0].splitlines()[2:]] == list(registry.models())
    assert "1,538,228" in costs


@pytest.mark.slow
def test_a_dry_run_of_the_papers_work_says_how_long_it_takes_and_what_that_rests_on(bench, tmp_path):
    protocol = tmp_path / "small.yaml"
    sizes = "{width: 8, layers: 1, hours: 24, note_tokens: 16, film: 32, patch: 16}"
    protocol.write_text(f"base: paper\nname: small\ndimensions: {sizes}\ntraining: {{batch_size: 4}}\nseeds: [1, 2]\n")
    words = ("run", "--dry-run", "--paper-size", "--devices", "1,4,8", "--models", "mt", "--tasks", "ihm,drg")
    more = ("--protocol", str(protocol), "--device", "cpu", "--workers", "1", "--out", str(tmp_path / "out"))
    code, text, _ = bench(*words, *more)
    assert code == 0
    rows = {line.split()[0]: line.split() for line in text.splitlines() if line[:1] in tuple("148m")}
    assert rows["mt"][1] == "6", "two seeds of IHM and of two shares of DRG"
    assert {"1", "4", "8"} <= set(rows)
    assert "Measured on" in text and "(cpu), 1 thread a process: 4 training steps." in text
    assert "Rests on: numbers of samples and missing rates of the paper's Table 2" in text
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["speeds.json"]
    assert text.endswith(bench(*words, *more)[1]), "kept, not measured again"


def test_a_dry_run_counts_the_jobs_and_makes_nothing(bench, tmp_path):
    out = tmp_path / "out"
    data = str(write_data(tmp_path / "data"))
    words = ("run", "--models", "flexcare,mt", "--tasks", "ihm,phe", "--dry-run", "--out", str(out))
    code, text, _ = bench(*words, "--data", data, "--protocol", "quick")
    assert code == 0
    assert "15 runs on toy cohort; protocol quick" in text
    rows = {line.split()[0]: line.split() for line in text.splitlines() if line.startswith(("flexcare", "mt"))}
    assert [row[-3:] for row in (rows["flexcare"], rows["mt"])] == [["5", "0", "5"], ["10", "0", "10"]]
    assert "no estimate: note embeddings are not there yet" in text
    code, text, _ = bench(*words)
    assert code == 0
    assert "still to be made" in text and "no estimate: the first run makes the cohort" in text
    assert not out.exists()
