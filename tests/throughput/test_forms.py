"""Every model can be put under the stop watch in every form that it has."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from tape import use_tapes

from benchmark.registry import models
from benchmark.throughput.counting import flops
from benchmark.throughput.forms import Subject, make_runner
from benchmark.throughput.mixes import mixes
from models.contract import Dimensions

SIZES = Dimensions(width=16, layers=1, heads=2, hours=24, note_tokens=16, film=32, patch=16)
CPU = torch.device("cpu")


@pytest.mark.parametrize("model", [entry.name for entry in models().values() if not entry.fits])
def test_work_of_a_step_and_of_predictions_is_counted(model: str) -> None:
    subject = Subject(models()[model], mixes(["ihm"])["ihm"], SIZES, CPU)
    for form in ("packed", "alone", "dense"):
        runner = make_runner(subject, form, torch.float32, 4, 1)
        batch = runner.fit(subject.batch(4, 0), 0)
        predicting, training = (flops(partial(work, batch)) for work in (runner.infer, runner.unrecorded))
        assert 0 < predicting < training, form


def test_a_step_is_recorded_beside_the_stop_watch(monkeypatch: pytest.MonkeyPatch) -> None:
    tapes = use_tapes(monkeypatch)
    subject = Subject(models()["mmf"], mixes(["ihm"])["ihm"], SIZES, CPU)
    runner = make_runner(subject, "fixed", torch.float32, 4, 2)
    runner.steps.record = True  # as on a GPU
    before = runner.stack.values.clone()
    batch = runner.fit(subject.batch(4, 0), 0)
    assert len(tapes) == 1 and torch.equal(runner.stack.values, before)
    runner.train(batch)
    assert [tape.replays for tape in tapes] == [1] and not torch.equal(runner.stack.values, before)
