"""Running jobs of which nothing is heard are told of, whatever carries them out."""

from __future__ import annotations

import io
import os
import threading
import time
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from harness_fakes import config_for, slow_fake_train
from rich.console import Console

from benchmark.runs.display import watching
from benchmark.runs.execute import RunResult, execute
from benchmark.runs.executors import Advanced, Deferred, Ended, InProcess, Stalled, Started
from benchmark.runs.folder import course_file
from benchmark.runs.job import Job
from benchmark.runs.launch import launch
from benchmark.runs.plan import make_plan
from benchmark.runs.tally import Tally
from benchmark.runs.watchdog import _Ears, watchdog
from benchmark.training import EpochReport

pytestmark = pytest.mark.reliability

HOUR = 3600.0


@pytest.fixture
def job(tmp_path: Path) -> Job:
    config = config_for(tmp_path, models="medfuse", tasks="ihm", seeds="1")
    return make_plan(config, config.data, None).jobs[0]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1e9]
    monkeypatch.setattr(time, "time", lambda: now[0])
    return now


def test_silence_counts_from_the_last_sign_of_life_and_is_told_once_a_while(
    job: Job, tmp_path: Path, clock: list[float]
) -> None:
    ears = _Ears(tmp_path, 3 * HOUR)

    def told_after(hours: float) -> list[float]:
        clock[0] += hours * HOUR
        return [event.seconds / HOUR for event in ears.silent()]

    assert told_after(9) == [], "no job runs"
    ears.hear(Started(job))
    assert told_after(2.9) == []
    ears.hear(Advanced(job, EpochReport(1, 8, "ihm", 0.5, 0.6, 1.0)))
    assert told_after(2.9) == []
    assert (told_after(0.2), told_after(2.9), told_after(0.2)) == ([3.1], [], [6.2])
    kept = course_file(tmp_path, job.id)
    kept.parent.mkdir(parents=True)
    kept.touch()
    os.utime(kept, (clock[0], clock[0]))
    assert (told_after(2.9), told_after(0.2)) == ([], [3.1]), "as under SLURM, where epochs are kept and not reported"
    ears.hear(Stalled(job, 1.0))
    assert told_after(4) == [7.1], "what is told of silence is no sign of life"
    ears.hear(Deferred(job))
    assert told_after(9) == []
    ears.hear(Started(job))
    ears.hear(Ended(RunResult(job, "done")))
    assert told_after(9) == []


def test_the_runner_tells_of_a_silent_job_and_lets_it_go_on(tmp_path: Path) -> None:
    config = config_for(tmp_path, models="medfuse", tasks="ihm", seeds="1", stall_after=0.2 / 60)
    heard: list[tuple[object, str]] = []

    def tell(event: object) -> None:
        heard.append((event, threading.current_thread().name))

    plan = make_plan(config, config.data, None)
    summary = launch(config, plan, lambda tally: nullcontext(tell), InProcess(partial(execute, train=slow_fake_train)))
    stalled = [thread for event, thread in heard if isinstance(event, Stalled)]
    assert set(stalled) == {"watchdog"} and isinstance(heard[-1][0], Ended)
    assert heard[-1][0].result.status == "done" and not summary.failed
    assert "watchdog" not in {thread.name for thread in threading.enumerate()}


def test_a_short_job_is_not_told_of_and_what_fails_ends_the_watch(job: Job, tmp_path: Path) -> None:
    told: list[object] = []
    with pytest.raises(KeyboardInterrupt), watchdog(told.append, tmp_path, HOUR) as tell:
        tell(Started(job))
        raise KeyboardInterrupt
    assert told == [Started(job)] and "watchdog" not in {thread.name for thread in threading.enumerate()}


@pytest.mark.parametrize("terminal", [False, True])
def test_the_user_sees_it(job: Job, terminal: bool) -> None:
    console = Console(file=io.StringIO(), width=120, force_terminal=terminal, color_system=None)
    tally = Tally([job], frozenset(), {"ihm": {"train": 100}})
    with watching(tally, console, {"medfuse": "MedFuse", "ihm": "IHM"}, {"ihm": "auroc"}) as tell:
        tell(Stalled(replace(job, seed=7), 2 * HOUR))
    assert "MedFuse, IHM, seed 7: nothing heard for 2 h 0 min; is it stuck?" in console.file.getvalue()
