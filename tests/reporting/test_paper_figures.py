"""The paper's figures from real, very small runs: pictures, data, captions, and what is said of figures left out."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pandas as pd
import pytest
from prepared_data import ENCODER, NOTE_WIDTH, write_prepared

from benchmark import registry
from benchmark.errors import UserError
from benchmark.reporting.figures import write
from benchmark.reporting.paper import Figures, paper_figures
from benchmark.runs.collect import collect
from benchmark.runs.execute import Context, execute
from benchmark.runs.groups import choose, groups
from benchmark.runs.job import Job
from models.contract import Dimensions

TASKS = ("ihm", "los", "dia")
SMALL = Dimensions(8, 1, 2, 0.0, hours=12, note_features=NOTE_WIDTH, note_tokens=5, film=32, patch=16)
NAMES = ["figure4", "figure5", "figure6", "figure6-gate-weighted", "figure7", "figure7-effects"]


def job(model: str, seed: int, trace: bool = False) -> Job:
    options = json.loads(json.dumps(asdict(registry.get(model).config())))
    weights = dict.fromkeys(TASKS, 1.0)
    return Job(
        model, options, asdict(SMALL), TASKS, seed, 16, 2, 3e-3, weights, True, "none", ENCODER, "test-90-0", "code",
        trace=trace,
    )  # fmt: skip


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results with the data where embedded cohorts lie; two seeds of the original, one of them traced."""
    out = tmp_path_factory.mktemp("results")
    data = write_prepared(out / "data" / "embedded", TASKS)
    manifest = json.loads((data / "manifest.json").read_text())
    manifest["modalities"] = {"ehr": True, "cxr": True, "note": True}
    (data / "manifest.json").write_text(json.dumps(manifest))
    (data / "private").mkdir()
    (data / "private" / "key.bin").write_bytes(bytes(32))
    caption = {
        "group": "abc",
        "data": {"name": "toy cohort", "fingerprint": "test-90-0", "simulated": True, "samples": {}},
        "protocol": {"name": "quick"},
        "encoder": None,
        "code": {"version": "code", "commit": None},
    }
    context = Context(data, out, "cpu", 1, caption)
    variants = ("flexcare-no-task-token", "flexcare-a", "flexcare-d")
    for one in (job("flexcare", 40, True), job("flexcare", 42), *(job(name, 40) for name in variants)):
        result = execute(one, context)
        assert result.status == "done", result.error
    return out


def draw(out: Path, *wanted: int, data: Path | None = None, without: tuple[str, ...] = ()) -> Figures:
    runs = collect(out)
    runs = runs[~runs["model"].isin(without)]
    return paper_figures(out, runs, choose(groups(out, runs), None), registry.models(), wanted or None, data)


@pytest.fixture(scope="module")
def drawn(out: Path) -> Figures:
    return draw(out)


@pytest.mark.slow
def test_every_figure_is_written_in_all_formats(drawn: Figures, tmp_path: Path) -> None:
    assert [one.name for one in drawn.drawn] == NAMES
    for one in drawn.drawn:
        files = {file.name: file.read_bytes() for file in write(one, tmp_path)}
        stem = f"{one.name}-abc"
        assert {f"{stem}.{ending}" for ending in ("pdf", "svg", "png", "csv", "txt")} <= files.keys()
        assert files[f"{stem}.pdf"].startswith(b"%PDF")
        assert files[f"{stem}.png"].startswith(b"\x89PNG")
        assert len(files[f"{stem}.png"]) > 10_000
        assert b"SIMULATED DATA: toy cohort" in files[f"{stem}.svg"]
        assert files[f"{stem}.txt"].startswith(b"SIMULATED DATA: toy cohort")
        for name in (name for name in files if name.endswith(".csv")):
            table = pd.read_csv(tmp_path / name)
            assert len(table) and table["simulated"].all()
            assert not {"patient", "sample"} & set(table.columns)
    assert not list(tmp_path.glob(".*"))


def test_equal_runs_give_equal_files(out: Path, drawn: Figures, tmp_path: Path) -> None:
    again = draw(out, 5).drawn[0]
    first = next(one for one in drawn.drawn if one.name == "figure5")
    for one, two in zip(write(first, tmp_path / "a"), write(again, tmp_path / "b"), strict=True):
        assert one.read_bytes() == two.read_bytes(), one.name


def test_bars_are_of_the_stored_scores(out: Path, drawn: Figures) -> None:
    table = drawn.drawn[0].tables[""].set_index(["model", "task", "metric"])
    runs = collect(out)
    scores = [metrics["dia"]["macro_auroc"] for metrics in runs.loc[runs["model"] == "flexcare", "metrics"]]
    assert table.loc[("flexcare", "dia", "macro_auroc"), "mean"] == pytest.approx(sum(scores) / 2)
    assert set(table.index.get_level_values("model")) == {"flexcare-a", "flexcare-d", "flexcare"}
    (remark,) = drawn.remarks
    assert remark.startswith("Figure 4: no finished runs of flexcare-b, flexcare-c. `bench run --models flexcare-b,")
    assert "--seeds 40,42 --protocol quick" in remark


def test_captions_count_the_samples_and_seeds(drawn: Figures) -> None:
    captions = {one.name: one.caption for one in drawn.drawn}
    assert "of all test samples (IHM 18, LOS 18, DIA 18)" in captions["figure5"]
    assert "mean over 1 seed of" in captions["figure5"], "the two sides have one seed in common"
    assert "rows sum to 2" in captions["figure6"]
    assert "mean over 2 seeds" in captions["figure6"]
    assert "(seed 40)" in captions["figure7"]


def test_the_curves_begin_before_training(drawn: Figures) -> None:
    curves = drawn.drawn[4].tables[""]
    assert sorted(curves["segment"].unique()) == list(range(7))
    effects = drawn.drawn[5].tables[""]
    assert len(effects) == 2 * 3 * 3 * 2  # with and without the first epoch; trained, tested, metrics
    assert effects["mean"].notna().any()


def test_what_is_missing_is_named_with_the_command_that_makes_it(out: Path) -> None:
    done = draw(out, 4, 5, 7, without=("flexcare-a", "flexcare-d", "flexcare-no-task-token"))
    assert [one.name for one in done.drawn] == ["figure7", "figure7-effects"]
    four, five = done.remarks
    assert four.startswith("Figure 4 is left out: there are no finished runs of flexcare-a, flexcare-b, flexcare-c,")
    assert five.startswith("Figure 5 is left out: there are no finished runs of flexcare-no-task-token. `bench run ")
    done = draw(out, 4, 5, 6, 7, without=("flexcare",))
    assert not done.drawn
    assert "`bench run --models flexcare --trace --protocol quick" in done.remarks[3]


def test_other_data_are_refused_and_missing_ones_asked_for(out: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no figure 3"):
        draw(out, 3)
    other = tmp_path / "other"
    other.mkdir()
    manifest = json.loads((out / "data" / "embedded" / "manifest.json").read_text())
    (other / "manifest.json").write_text(json.dumps(manifest | {"fingerprint": "9999"}))
    with pytest.raises(UserError, match="has fingerprint 9999; the runs of group abc were made from 'toy cohort'"):
        draw(out, 6, data=other)
    assert draw(out, 6, data=out / "data" / "embedded").drawn
    moved = (out / "data" / "embedded").rename(out / "away")
    try:
        done = draw(out, 6)
    finally:
        moved.rename(out / "data" / "embedded")
    (remark,) = done.remarks
    assert remark.startswith("Figure 6 is left out: it restores models, which needs the data set 'toy cohort';")
    assert remark.endswith("name its folder with --data DIR")
