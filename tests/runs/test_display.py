"""What a user sees of a running grid."""

from __future__ import annotations

import io

import pytest
from harness_fakes import config_for
from rich.console import Console

from benchmark.runs.display import watching
from benchmark.runs.execute import RunResult
from benchmark.runs.executors import Advanced, Ended, Started
from benchmark.runs.plan import make_plan
from benchmark.runs.tally import Tally
from benchmark.training import EpochReport

TITLES = {
    "medfuse": "MedFuse",
    "flexcare": "FlexCare",
    "ihm": "IHM",
    "phe": "PHE",
    "auroc": "AUROC",
    "macro_auroc": "ma",
}
MAIN = {"ihm": "auroc", "phe": "macro_auroc"}


@pytest.fixture
def tally(tmp_path):
    """Six runs, one of MedFuse on PHE finished before; the clock stands at 10 seconds."""
    config = config_for(tmp_path, models="medfuse,flexcare", tasks="ihm,phe", seeds="1,2")
    plan = make_plan(config, config.data, None)
    time = [0.0]
    (before,) = [job for job in plan.jobs if (job.model, job.tasks, job.seed) == ("medfuse", ("phe",), 2)]
    tally = Tally(plan.jobs, frozenset({before.id}), config.data.samples, lambda: time[0])
    tally.test_time = time
    time[0] = 10.0
    return tally


def test_time_left_follows_the_share_of_the_work_done(tally):
    assert tally.seconds_left() is None
    waiting = [job for job in tally.jobs if job.id not in tally.done_before]
    job = waiting[0]
    tally.tell(Started(job))
    tally.tell(Advanced(job, EpochReport(1, 2, "ihm", 0.5, 0.6, 1.0)))
    costs = [entry.cost({"ihm": {"train": 100}, "phe": {"train": 400}}) for entry in waiting]
    assert tally.seconds_left() == pytest.approx(10 * (sum(costs) - costs[0] / 2) / (costs[0] / 2))
    tally.test_time[0] = 21.0  # more than 10 s since the first news, which began with a start of 10 s
    tally.tell(Advanced(job, EpochReport(2, 2, "ihm", 0.5, 0.6, 1.0)))
    assert tally.seconds_left() == pytest.approx(11 * (sum(costs) - costs[0]) / (costs[0] / 2))


def test_the_grid_counts_a_multitask_run_under_each_of_its_tasks(tally):
    flexcare = [job for job in tally.jobs if job.model == "flexcare" and job.id not in tally.done_before]
    tally.tell(Started(flexcare[0]))
    grid = tally.grid()
    assert {cell.running for cell in grid["flexcare"].values()} == {1}
    tally.tell(Ended(RunResult(flexcare[0], "failed", error="no")))
    assert {(cell.failed, cell.running) for cell in tally.grid()["flexcare"].values()} == {(1, 0)}
    assert tally.failed == 1


def test_plain_lines_are_one_a_run(tally):
    console = Console(file=io.StringIO(), width=60)
    done, failed = (job for job in tally.jobs if job.model == "medfuse" and job.seed == 1)
    with watching(tally, console, TITLES, MAIN) as tell:
        tell(Started(done))
        tell(Advanced(done, EpochReport(1, 8, "phe", 0.5, 0.6, 1.0)))
        tell(Ended(RunResult(done, "done", {"phe": {"macro_auroc": 0.71234}}, 12.0)))
        tell(Ended(RunResult(failed, "failed", error="RuntimeError: [odd] text\nand more")))
    lines = console.file.getvalue().splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("[2/6] MedFuse, PHE, seed 1: PHE ma .7123 (12 s; about ")
    assert lines[1] == "[3/6] MedFuse, IHM, seed 1: FAILED, RuntimeError: [odd] text and more"


def test_a_long_run_is_not_silent_for_ever(tally):
    console = Console(file=io.StringIO(), width=60)
    job = next(job for job in tally.jobs if job.model == "flexcare")
    assert job.tasks == ("ihm", "phe")
    with watching(tally, console, TITLES, MAIN) as tell:
        tell(Started(job))
        for epoch in range(1, 9):
            tally.test_time[0] += 12
            for task in job.tasks:
                tell(Advanced(job, EpochReport(epoch, 8, task, 0.5, 0.6, 1.0)))
    lines = console.file.getvalue().splitlines()
    assert len(lines) == 2, "96 seconds, a line each 30 at most, and an epoch takes 12"
    assert lines[0].startswith("FlexCare, 2 tasks, seed 1: epoch 3/8, PHE loss 0.5000, validation 0.6000; about ")
    assert "epoch 6/8" in lines[1]


def test_the_live_display_shows_grid_losses_and_time(tally):
    console = Console(file=io.StringIO(), width=100, force_terminal=True, color_system=None)
    (job,) = [job for job in tally.jobs if (job.model, job.tasks, job.seed) == ("medfuse", ("phe",), 1)]
    with watching(tally, console, TITLES, MAIN) as tell:
        tell(Started(job))
        tell(Advanced(job, EpochReport(3, 8, "phe", 0.5, 0.25, 1.0)))
    shown = console.file.getvalue()
    for part in ("MedFuse", "1/2", "1/2 +1", "3/8", "0.5000", "0.2500", "1 of 6 runs", "10 s gone"):
        assert part in shown
