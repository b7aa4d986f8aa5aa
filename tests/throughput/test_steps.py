"""`bench throughput` at a size of no meaning: what it measures, writes and refuses."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from benchmark import cli, registry
from benchmark.published import published_cohort
from benchmark.throughput.clock import alternating
from benchmark.throughput.counting import counted, flops, idle_share, launches
from benchmark.throughput.forms import Subject, make_runner
from benchmark.throughput.mixes import HOURS, TOKENS, mixes
from models.contract import MODALITIES, Dimensions
from models.cost import forward_flops

TINY = Dimensions(
    width=16, layers=2, heads=2, dropout=0.1, hours=24, note_tokens=20, film=32, patch=16, note_features=24
)
CPU = torch.device("cpu")
SIZES = """
base: quick
name: tiny
dimensions: {width: 16, layers: 2, heads: 2, dropout: 0.1, hours: 24, note_tokens: 20, film: 32, patch: 16}
"""


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    def call(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["bench", "throughput", *words])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        printed = capsys.readouterr()
        return ended.value.code or 0, printed.out, printed.err

    return call


@pytest.mark.slow
def test_the_command_measures_and_writes(bench, tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(SIZES)
    out, trace = tmp_path / "out", tmp_path / "trace.json"
    words = ["--models", "flexcare,boosted-trees", "--tasks", "ihm,dia", "--against", "dense"]
    words += ["--dtype", "float32,bfloat16", "--rounds", "2", "--batch-size", "6", "--forms", "packed,fixed"]
    words += ["--seeds-in-parallel", "3", "--loop"]
    code, text, err = bench(
        *words, "--protocol", str(tmp_path / "tiny.yaml"), "--out", str(out), "--profile", str(trace)
    )
    assert code == 0, err
    assert "SIMULATED SAMPLES" in text and "CUDA device: not measured" in text and "the medians say little" in text
    for name in ("throughput.md", "throughput.tex", "steps.svg"):
        assert "SIMULATED SAMPLES" in (out / name).read_text()
    assert (out / "steps.png").stat().st_size
    assert "traceEvents" in json.loads(trace.read_text())
    steps, ratios = pd.read_csv(out / "steps.csv"), pd.read_csv(out / "ratios.csv")
    forms = [(form, dtype) for form in ("packed", "fixed") for dtype in ("float32", "bfloat16")]
    forms.append(("dense", "float32"))
    assert (steps["seeds"] == np.where(steps["form"] == "fixed", 3, 1)).all()
    assert list(zip(steps["form"], steps["dtype"], strict=True)) == 2 * forms
    assert steps["simulated"].all() and (steps[["train_ms", "infer_ms", "operations", "train_flops"]] > 0).all(
        axis=None
    )
    assert set(ratios["model"]) == {"flexcare"} and (ratios["train"] > 0).all()
    assert (ratios["train_low"] <= ratios["train"]).all() and (ratios["train"] <= ratios["train_high"]).all()
    assert (ratios["flops"][ratios["form"] == "packed"] > 1).all()
    loop = pd.read_csv(out / "training-loop.csv")
    assert loop.groupby("model").size().to_dict() == {"flexcare": 4} and (loop["seeds"] == 3).all()
    assert (loop[["ms", "ms_steady", "ms_making"]] > 0).all(axis=None) and (loop["ms_making"] < loop["ms"]).all()
    assert loop["idle"].isna().all() and (loop["recorded"] == 0).all(), "there is no GPU"
    assert np.allclose(loop["samples_per_second"], 3 * 6 / loop["ms"] * 1e3)
    exact = steps[steps["dtype"] == "float32"]
    assert (exact["difference"] < 1e-5).all(), "the dense form computes something else"
    # Hours of an epoch from the medians, by hand.
    epoch = pd.read_csv(out / "epoch.csv").set_index(["model", "form", "dtype"])
    own = steps[(steps.model == "flexcare") & (steps.form == "packed") & (steps.dtype == "float32")]
    number = published_cohort()["dia"]["samples"] * 7 // 10 // 6
    assert own["steps_an_epoch"].tolist()[1] == number
    hours = (own["train_ms"] * own["steps_an_epoch"]).sum() / 3.6e6
    assert epoch.loc[("flexcare", "packed", "float32"), "hours"] == pytest.approx(hours)
    assert "fitted in one go" in text
    for line in re.findall(r"^\|.*\|$", text, re.M):
        assert line.count("|") in {
            text_line.count("|") for text_line in (out / "throughput.md").read_text().split("\n")
        }
    assert len(json.loads((out / "rounds.json").read_text())["comparisons"][0]["rows"][0]["train"]) == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--models", "flexcar"], "unknown model 'flexcar'; did you mean 'flexcare'"),
        (["--models", "boosted-trees"], "without training steps"),
        (["--tasks", "drg"], "unknown task 'drg'"),
        (["--forms", "padded"], "unknown form 'padded'"),
        (["--dtype", "float64"], "unknown dtype 'float64'"),
        (["--against", "packed"], "unknown reference 'packed'. Allowed: dense"),
        (["--device", "tpu"], "unknown device 'tpu'"),
        (["--protocol", "fast"], "unknown protocol 'fast'"),
        (["--out", "."], "exists already"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_refusals(bench, words: list[str], message: str) -> None:
    code, _, err = bench(*words)
    assert code == 2 and err.startswith("error: ") and message in err and "Traceback" not in err


@pytest.mark.parametrize("name", ["ihm", "dia"])
def test_mixes_have_the_published_shares_and_the_assumed_lengths(name: str) -> None:
    mix = mixes([name])[name]
    wide = Dimensions(series_features=1, note_features=1, film=16, note_tokens=512)
    batch = mix.batch(wide, 4000, seed=0, number=0).inputs
    for modality, shown in zip(MODALITIES, batch.present.float().mean(0).tolist(), strict=True):
        assert 1 - shown == pytest.approx(published_cohort()[name][modality] / 100, abs=0.03)
    assert batch.present.any(1).all()
    hours, tokens = (np.array(part.layout.lengths) for part in (batch.ehr, batch.note))
    if name == "ihm":
        assert (hours == 48).all()
    else:
        assert np.median(hours) == pytest.approx(HOURS.median, rel=0.15) and hours.max() == 512
    assert np.median(tokens) == pytest.approx(TOKENS.median, rel=0.1)
    assert tokens.mean() == pytest.approx(TOKENS.mean, rel=0.1)
    again = mix.batch(wide, 4000, seed=0, number=0).inputs
    assert torch.equal(batch.note.values, again.note.values) and batch.note.layout == again.note.layout
    assert not torch.equal(batch.present, mix.batch(wide, 4000, seed=0, number=1).inputs.present)


def test_operations_waits_and_memory_of_a_known_piece_of_work() -> None:
    a, mask = torch.ones(64, 64), torch.ones(64, dtype=torch.bool)

    def work() -> None:
        b = a @ a  # 16 KiB
        c = b.t() + 1  # 16 KiB more; the transpose is a view
        del b
        c[mask].sum().item()  # a mask and a read value: two waits

    found = counted(work)
    assert (found.operations, found.waits) == (4, 2)
    assert 2 * 64 * 64 * 4 <= found.peak_bytes <= 2 * 64 * 64 * 4 + 1024


def test_products_of_fused_kernels_are_counted() -> None:
    q = torch.ones(1, 2, 8, 16, requires_grad=True)
    attention = 2 * 2 * 2 * 8 * 8 * 16
    assert flops(lambda: F.scaled_dot_product_attention(q, q, q)) == attention
    lstm = nn.LSTM(8, 16)
    assert flops(lambda: lstm(torch.ones(5, 3, 8))) == 2 * 5 * 3 * 64 * (8 + 16)


@pytest.mark.parametrize("name", ["medfuse", "mt"])
def test_counted_products_are_those_of_the_cost_table(name: str) -> None:
    """One sample, in which nothing is padded; the table counts in double precision with plain kernels."""
    entry = registry.get(name)
    subject = Subject(entry, mixes(["dia"])["dia"], TINY, CPU)
    runner = make_runner(subject, "packed", torch.float32, 1, 1)
    batch = subject.batch(1, 3)
    measured = flops(lambda: runner.infer(batch))
    ehr, cxr, note = batch.inputs.ehr, batch.inputs.cxr, batch.inputs.note
    double = replace(
        batch.inputs,
        ehr=ehr.with_values(ehr.values.double()),
        cxr=replace(cxr, pixels=cxr.pixels.double()),
        note=note.with_values(note.values.double()),
    )
    assert measured == forward_flops(runner.module, double)


def test_what_the_profiler_does_not_see_is_not_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU whose counters are closed to the user: no kernels would be a false number, not a measured one."""
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    work = partial(torch.ones, 3)
    assert launches(work, torch.device("cuda")) is None
    assert idle_share(work, torch.device("cuda")) is None


def test_rounds_alternate() -> None:
    order: list[str] = []
    works = {name: (lambda name=name: order.append(name)) for name in ("a", "b")}
    times = alternating(3, lambda _: works, CPU, warm_up=1)
    assert order == ["b", "a", "a", "b", "b", "a", "a", "b"]
    assert {name: len(found) for name, found in times.items()} == {"a": 3, "b": 3}
