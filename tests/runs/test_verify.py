"""A run is repeated as it was trained: in its form, side by side with the same seeds, with the same algorithms."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from tuning_data import configured, plan_of, prepare

from benchmark.config import RunConfig
from benchmark.errors import UserError
from benchmark.runs.folder import runs_folder
from benchmark.runs.launch import launch
from benchmark.runs.verify import verify
from benchmark.training import together

pytestmark = pytest.mark.reliability


def trained(config: RunConfig) -> dict[tuple[str, int], str]:
    """The names of the runs by model and seed."""
    summary = launch(config, plan_of(config), lambda tally: nullcontext(tally.tell))
    assert not summary.failed, [result.error for result in summary.failed]
    return {(job.model, job.seed): job.id for job in summary.plan.jobs}


def record_of(out: Path, run: str) -> dict[str, Any]:
    return json.loads((runs_folder(out) / run / "run.json").read_text())


def rewrite(out: Path, run: str, change: Callable[[dict[str, Any]], object]) -> None:
    record = record_of(out, run)
    change(record)
    (runs_folder(out) / run / "run.json").write_text(json.dumps(record))


def as_before_forms_were_noted(record: dict[str, Any]) -> None:
    del record["form"], record["side_by_side"]


def contents(folder: Path) -> dict[Path, tuple[bytes, int]]:
    """Bytes and time of change of all files."""
    return {file: (file.read_bytes(), file.stat().st_mtime_ns) for file in folder.rglob("*") if file.is_file()}


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[tuple[int, ...], bool]]:
    """Seeds of each call of the training side by side, and whether torch was held to deterministic algorithms."""
    seen: list[tuple[tuple[int, ...], bool]] = []
    original = together.train_together

    def train_together(plans, *rest):
        seen.append((tuple(plan.seed for plan in plans), torch.are_deterministic_algorithms_enabled()))
        return original(plans, *rest)

    monkeypatch.setattr(together, "train_together", train_together)
    return seen


def test_seeds_trained_side_by_side_are_repeated_side_by_side(tmp_path: Path, calls, monkeypatch) -> None:
    config = configured(tmp_path, prepare(tmp_path), models="flexcare", form="fixed", tasks="ihm", deterministic=True)
    run = trained(config)["flexcare", 2]
    record = record_of(config.out, run)
    assert (record["form"], record["side_by_side"]) == ("fixed", [1, 2])
    before, reports = contents(config.out), []
    verdict = verify(config.out, run, config.data, notify=reports.append)
    assert (verdict.same_bytes, verdict.largest_gap, verdict.elsewhere) == (True, 0.0, ())
    assert calls == [((1, 2), True)] * 2
    assert [report.epoch for report in reports] == [1, 2], "the other seed's reports are not this run's"
    assert contents(config.out) == before and not list(config.out.glob(".unfinished-*"))

    rewrite(config.out, run, as_before_forms_were_noted)
    with pytest.raises(UserError, match="side by side with other seeds, 2 in all; its record is of an older version"):
        verify(config.out, run, config.data)
    rewrite(config.out, run, lambda record: record.update(form="fixed", side_by_side=[1, 2]))
    recorded = together.train_together

    def too_large(plans, *rest):
        if len(plans) > 1:
            raise MemoryError
        return recorded(plans, *rest)

    monkeypatch.setattr(together, "train_together", too_large)
    with pytest.warns(UserWarning, match="out of memory with 2 seeds side by side"):
        verdict = verify(config.out, run, config.data)
    assert verdict.elsewhere == ("form: fixed with seeds 1, 2 side by side then, fixed with one seed now",)


def test_what_was_trained_packed_is_repeated_packed(tmp_path: Path, calls) -> None:
    """Also where the fixed form was asked for and the model does not know it, and where the record says nothing."""
    data = prepare(tmp_path)
    for form, models in (("fixed", "boosted-trees"), ("packed", "mmf")):
        config = configured(tmp_path, data, models=models, form=form, tasks="ihm", seeds="1,2")
        run = trained(config)[models, 2]
        record = record_of(config.out, run)
        assert (record["form"], record["side_by_side"]) == ("packed", [])
        calls.clear()
        assert verify(config.out, run, config.data).same_bytes
        rewrite(config.out, run, as_before_forms_were_noted)
        verdict = verify(config.out, run, config.data)
        assert (verdict.same_bytes, verdict.elsewhere, calls) == (True, (), [])


def test_seeds_that_start_from_other_runs_start_from_those_of_their_own_seeds(tmp_path: Path, calls) -> None:
    data = prepare(tmp_path, tasks=("ihm", "drg"))
    config = configured(tmp_path, data, models="flexcare-pretrained", form="fixed", tasks="drg")
    runs = trained(config)
    run, other = runs["flexcare-pretrained", 1], runs["flexcare", 2]
    assert verify(config.out, run, config.data).same_bytes
    assert [seeds for seeds, _ in calls] == [(1, 2)] * 3
    (runs_folder(config.out) / other).rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=f"side by side with seed 2, which starts from {other}; that is no finished"):
        verify(config.out, run, config.data)
    (runs_folder(config.out) / runs["flexcare", 1]).rename(tmp_path / "away")
    with pytest.raises(UserError, match=f"{run} starts from {runs['flexcare', 1]}, which is no finished run"):
        verify(config.out, run, config.data)


def test_a_device_that_is_not_there_is_said(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    config = configured(tmp_path, prepare(tmp_path), models="mmf", tasks="ihm", seeds="1")
    run = trained(config)["mmf", 1]
    rewrite(config.out, run, lambda record: record["environment"].update(device="cuda"))
    with pytest.raises(UserError, match="torch sees no CUDA device; --device cpu is possible"):
        verify(config.out, run, config.data)
    verdict = verify(config.out, run, config.data, device="cpu")
    assert verdict.same_bytes and verdict.elsewhere == ("device: cuda then, cpu now",)
