"""Two calls of the runner on one folder: they share the work, and neither does what the other does."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import pytest
from harness_fakes import config_for, fake_train

from benchmark.locks import acquire, holding
from benchmark.runs.execute import execute
from benchmark.runs.executors import Deferred, Ended, InProcess
from benchmark.runs.folder import finished_runs, lock_file
from benchmark.runs.launch import launch
from benchmark.runs.plan import make_plan

pytestmark = pytest.mark.reliability


def start(config, train, events: list) -> threading.Thread:
    def work() -> None:
        def tell(event) -> None:
            events.append(event)

        executor = InProcess(partial(execute, train=train, data=object()))
        launch(config, make_plan(config, config.data, None), lambda tally: nullcontext(tell), executor)

    thread = threading.Thread(target=work)
    thread.start()
    return thread


def statuses(events: list) -> list[str]:
    return sorted(event.result.status for event in events if isinstance(event, Ended))


def test_each_job_is_done_once_and_both_calls_end_with_all_of_them(tmp_path: Path) -> None:
    config = config_for(tmp_path, models="medfuse", tasks="ihm", seeds="1,2,3,4")
    trained, both = [], ([], [])

    def train(plan, *rest):
        trained.append(plan.seed)
        time.sleep(0.1)
        return fake_train(plan, *rest)

    threads = [start(config, train, events) for events in both]
    for thread in threads:
        thread.join(60)
    assert sorted(trained) == [1, 2, 3, 4]
    assert len(list(finished_runs(config.out))) == 4
    for events in both:
        assert len(statuses(events)) == 4, "each call has an end of every job"
        assert set(statuses(events)) <= {"done", "skipped"}
    assert sum(statuses(events).count("done") for events in both) == 4
    assert any(isinstance(event, Deferred) for events in both for event in events)
    assert not list((config.out / "unfinished").iterdir())


def test_a_job_whose_other_process_fails_is_taken_over(tmp_path: Path) -> None:
    config = config_for(tmp_path, models="medfuse", tasks="ihm", seeds="1")
    begun, events = threading.Event(), ([], [])

    def failing(plan, *rest):
        begun.set()
        time.sleep(0.3)
        raise RuntimeError("no luck")

    first = start(config, failing, events[0])
    begun.wait(10)
    second = start(config, fake_train, events[1])
    first.join(60)
    second.join(60)
    assert (statuses(events[0]), statuses(events[1])) == (["failed"], ["done"])
    (folder,) = finished_runs(config.out)
    assert json.loads((folder / "run.json").read_text())["status"] == "done"


HOLDER = """
import sys, time
from pathlib import Path
from benchmark.locks import acquire
acquire(Path(sys.argv[1])); print("held", flush=True); time.sleep(60)
"""


def test_the_lock_of_a_killed_process_is_free(tmp_path: Path) -> None:
    file = lock_file(tmp_path, "job")
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(file)], stdout=subprocess.PIPE)
    process.stdout.readline()
    assert acquire(file) is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert file.exists(), "a killed process tidies nothing up"
    with holding(file, wait=False) as mine:
        assert mine
        with holding(file, wait=False) as again:
            assert not again
    assert not file.exists()


def test_a_lock_that_was_removed_while_it_was_waited_for_is_made_anew(tmp_path: Path) -> None:
    file, got = tmp_path / "lock", []
    first = acquire(file)
    waiter = threading.Thread(target=lambda: got.append(acquire(file, wait=True)))
    waiter.start()
    time.sleep(0.2)
    file.unlink()
    os.close(first)
    waiter.join(10)
    assert os.path.samestat(os.fstat(got[0]), os.stat(file))
    os.close(got[0])
