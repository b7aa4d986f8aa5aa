"""Growth of the cost and whole steps from the disk, at sizes of no meaning."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch

from benchmark import registry
from benchmark.reporting.figures.style import STYLE
from benchmark.throughput import end_to_end, further_tables, output, plots, scaling
from benchmark.throughput.forms import Subject
from benchmark.throughput.mixes import mixes
from benchmark.throughput.steps import Request
from models.contract import Dimensions

TINY = Dimensions(
    width=16, layers=2, heads=2, dropout=0.0, hours=64, note_tokens=64, film=32, patch=16, note_features=24
)
CPU = torch.device("cpu")


def request_for(model: str, task: str) -> Request:
    return Request([registry.get(model)], [mixes([task])[task]], ("packed",), ("float32",), False, 4, 2, 2, TINY, CPU)


def test_work_grows_as_the_formulas_say(tmp_path: Path) -> None:
    points = scaling.measure_scaling(request_for("mt", "los"))
    work = {quantity: [p.work for p in points if p.quantity == quantity] for quantity in scaling.QUANTITIES}
    values = {quantity: [p.value for p in points if p.quantity == quantity] for quantity in scaling.QUANTITIES}
    assert values["length"] == [16, 32, 64] and values["seeds"] == [1, 2, 4, 8]
    # Of one length all samples are equal: the products of a sample by hand, forward, without the classes' few.
    grown = np.array(work["length"])
    assert (np.diff(grown) > 0).all() and grown[2] / grown[1] > 1.4, "attention's part grows with the square"
    np.testing.assert_allclose(np.array(work["seeds"]) / work["seeds"][0], values["seeds"], rtol=0.25)
    # More samples are absent at a higher rate; the first and the last differ by far.
    assert work["missing rate"][0] > 2 * work["missing rate"][-1]
    assert work["patients"][3] > 4 * work["patients"][0]
    assert all(min(p.seconds) > 0 for p in points)
    group = next(group for group in scaling.groups(points) if group[0].quantity == "length")
    assert scaling.by_work(group)[-1] == pytest.approx(group[-1].time.median)

    facts = output.facts_of(CPU, 1, {"float32": 1e10})
    sheets = [further_tables.scaling_sheet(points)]
    with matplotlib.rc_context(STYLE):
        figures = {"scaling": plots.draw_scaling(points, output.caption(facts))}
    output.write_folder(tmp_path / "out", facts, sheets, figures, {"scaling": []})
    assert "SIMULATED SAMPLES" in (tmp_path / "out" / "scaling.svg").read_text()
    assert json.loads((tmp_path / "out" / "rounds.json").read_text())["facts"]["threads"] == 1
    assert len((tmp_path / "out" / "scaling.csv").read_text().splitlines()) == len(points) + 1


def test_the_step_from_the_disk_trains_on_the_same_series_and_films_both_ways(tmp_path: Path) -> None:
    mix = replace(mixes(["dia"])["dia"], missing=(0.4, 0.0, 0.4))
    subject = Subject(registry.get("flexcare"), mix, TINY, CPU)
    files = end_to_end._Files(tmp_path, subject, batch_size=6, batches=2)
    files.write(words=50)
    anew, here = end_to_end._Anew(files, layers=1, words=50), end_to_end._Here(files)
    seen = {}
    for name, each in (("anew", anew), ("here", here)):
        each.runner.train = lambda batch, name=name: seen.setdefault(name, batch)
        each.step(1)
    ours, theirs = seen["here"].inputs, seen["anew"].inputs
    assert torch.equal(ours.present, theirs.present) and torch.equal(ours.sample, theirs.sample)
    assert ours.ehr.layout == theirs.ehr.layout and ours.note.layout == theirs.note.layout
    torch.testing.assert_close(ours.ehr.values, theirs.ehr.values, rtol=1e-3, atol=1e-3)  # stored in half precision
    assert torch.equal(ours.cxr.pixels, theirs.cxr.pixels) and ours.cxr.rows == theirs.cxr.rows
    assert ours.note.values.shape == theirs.note.values.shape
    assert torch.equal(seen["here"].labels.known, seen["anew"].labels.known)
    assert torch.equal(seen["here"].labels.y, seen["anew"].labels.y)


def test_a_step_from_the_disk_is_measured() -> None:
    subject = Subject(registry.get("flexcare"), mixes(["ihm"])["ihm"], TINY, CPU)
    found = end_to_end.measure_end_to_end(subject, 4, 2, layers=1, words=50)
    assert len(found.anew) == len(found.here) == 2 and found.ratio.low > 0
    sheet = further_tables.end_to_end_sheet([found])
    assert sheet.lines.loc[0, "ratio"] == pytest.approx(found.ratio.median)
    without = replace(subject, entry=replace(subject.entry, dense=None))
    assert end_to_end.measure_end_to_end(without, 4, 2, layers=1, words=50) == "no dense reference"


@pytest.mark.parametrize(("tool", "expected"), [("echo 580.65.06; echo 580.65.06", "580.65.06"), ("exit 9", None)])
def test_the_driver_is_asked_of_its_own_tool(tmp_path, monkeypatch, tool, expected):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert output.driver_version() is None, "no such tool"
    (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\n{tool}\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    assert output.driver_version() == expected
    facts = output.facts_of(CPU, 1, {"float32": 1e10}) | {"driver": expected}
    assert ("driver 580.65.06" in output.caption(facts)) == (expected is not None)
