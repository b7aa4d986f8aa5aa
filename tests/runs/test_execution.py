"""Run folders and executors, with a training that takes no time."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path

import pandas as pd
import pytest
from harness_fakes import DYING_SEED, FAILING_SEED, config_for, fake_execute, fake_train
from safetensors import safe_open

from benchmark.files import remove_abandoned
from benchmark.runs import collect as collecting
from benchmark.runs.collect import collect
from benchmark.runs.execute import execute
from benchmark.runs.executors import Advanced, Ended, InProcess, ProcessPool, Started
from benchmark.runs.folder import finished_runs, folders, new_run
from benchmark.runs.launch import launch
from benchmark.runs.plan import make_plan

pytestmark = pytest.mark.reliability


def run(config, executor=None, execute=fake_execute):
    plan = make_plan(config, config.data, None)
    return launch(config, plan, lambda tally: nullcontext(tally.tell), executor or InProcess(execute))


def contents(out: Path) -> dict[str, bytes]:
    """Of all finished runs what must be equal between equal runs: not times, not the machine."""
    found = {}
    for folder in (folder for folder in finished_runs(out) if folder.suffix != ".failed"):
        for file in folder.iterdir():
            if file.name != "run.json":
                found[f"{folder.name}/{file.name}"] = file.read_bytes()
        record = json.loads((folder / "run.json").read_text())
        found[folder.name] = json.dumps([record["metrics"], record["job"]]).encode()
    return found


def test_a_run_folder_says_all_about_the_run(tmp_path):
    config = config_for(tmp_path, models="flexcare", tasks="ihm,phe", seeds="1")
    summary = run(config)
    (folder,) = finished_runs(config.out)
    record = json.loads((folder / "run.json").read_text())
    assert folder.name == summary.plan.jobs[0].id == record["run"]
    assert record["status"] == "done"
    assert record["job"]["options"]["experts"] == 10
    assert record["data"]["fingerprint"] == "f" * 64
    assert record["protocol"]["name"] == "quick"
    assert set(record["metrics"]) == {"ihm", "phe"}
    assert record["environment"]["packages"]["torch"]
    predictions = pd.read_parquet(folder / "predictions.parquet")
    assert list(predictions.columns) == [
        "task", "sample", "patient", "present_ehr", "present_cxr", "present_note", "y", "p",
    ]  # fmt: skip
    assert predictions["patient"].nunique() == 1, "one patient has one name in all tasks"
    assert predictions["sample"].str.fullmatch("[0-9a-f]{20}").all()
    assert not set(predictions["sample"]) & set(predictions["patient"])
    assert [len(y) for y in predictions["y"]] == [3] * 4
    assert predictions["y"][0][2] == 1.0, "columns in the order of their numbers"
    with safe_open(folder / "checkpoint.safetensors", "pt") as checkpoint:
        assert set(checkpoint.keys()) == {"weight", "tied"}


def test_names_in_predictions_depend_on_the_key_of_the_data(tmp_path):
    first = config_for(tmp_path / "a", models="medfuse", tasks="ihm", seeds="1")
    second = config_for(tmp_path / "b", models="medfuse", tasks="ihm", seeds="1")
    (second.data.path / "private" / "key.bin").write_bytes(b"x" * 32)
    names = []
    for config in (first, second):
        run(config)
        (folder,) = finished_runs(config.out)
        names.append(set(pd.read_parquet(folder / "predictions.parquet")["sample"]))
    assert not names[0] & names[1]


def test_finished_runs_are_skipped_and_failed_ones_kept_and_tried_again(tmp_path):
    config = config_for(tmp_path, models="medfuse", tasks="ihm", seeds=f"1,{FAILING_SEED},2")
    first = run(config)
    assert [result.status for result in first.results.values()] == ["done", "failed", "done"]
    failed = first.failed[0]
    folder = config.out / "runs" / f"{failed.job.id}.failed"
    record = json.loads((folder / "run.json").read_text())
    assert record["error"] == "RuntimeError: the loss exploded in two lines"
    assert "in fake_train" in record["traceback"]
    before = times_of_finished(config.out)
    second = run(config)
    assert list(second.results) == [failed.job.id], "only the failed run is tried again"
    assert times_of_finished(config.out) == before

    def mended(job, context, notify):
        return execute(job, context, notify, lambda plan, *rest: fake_train(replace(plan, seed=5), *rest))

    assert run(config, execute=mended).results[failed.job.id].status == "done"
    assert not folder.exists(), "a success takes the place of the failure"
    assert sorted(collect(config.out)["status"]) == ["done"] * 3


def test_a_failed_run_may_go_while_results_are_read(tmp_path, monkeypatch):
    config = config_for(tmp_path, models="medfuse", tasks="ihm", seeds=f"1,{FAILING_SEED}")
    run(config)
    listed = list(finished_runs(config.out))
    (failed,) = (folder for folder in listed if folder.suffix == ".failed")
    failed.rename(tmp_path / "gone")
    monkeypatch.setattr(collecting, "finished_runs", lambda out: listed)
    assert list(collect(config.out)["status"]) == ["done"]


def times_of_finished(out: Path) -> dict[str, int]:
    return {str(file): file.stat().st_mtime_ns for file in out.glob("runs/*/*") if ".failed" not in file.parent.name}


@pytest.mark.slow
def test_a_pool_gives_the_same_results_as_one_process_and_survives_a_dying_worker(tmp_path):
    pool = config_for(tmp_path / "pool", models="flexcare", tasks="ihm,phe", seeds=f"1,2,{DYING_SEED},3")
    events = []
    plan = make_plan(pool, pool.data, None)
    summary = launch(
        pool, plan, lambda tally: nullcontext(lambda event: (tally.tell(event), events.append(event))),
        ProcessPool(2, fake_execute),
    )  # fmt: skip
    assert [result.job.seed for result in summary.failed] == [DYING_SEED]
    assert "killed by signal 9" in summary.failed[0].error
    assert len(summary.results) == 4
    for kind in (Started, Ended):
        assert sum(isinstance(event, kind) for event in events) == 4
    assert any(isinstance(event, Advanced) for event in events)
    alone = config_for(tmp_path / "alone", models="flexcare", tasks="ihm,phe", seeds="1,2,3")
    run(alone)
    assert contents(pool.out) == contents(alone.out)


def test_an_interrupted_run_leaves_nothing_and_a_second_finisher_is_dropped(tmp_path):
    with pytest.raises(KeyboardInterrupt), new_run(tmp_path, "job"):
        raise KeyboardInterrupt
    assert not list((tmp_path / "runs").iterdir())
    with new_run(tmp_path, "job") as outer:
        (outer / "run.json").write_text("slow")
        with new_run(tmp_path, "job") as inner:
            (inner / "run.json").write_text("fast")
    assert [folder.name for folder in (tmp_path / "runs").iterdir()] == ["job"]
    assert (tmp_path / "runs" / "job" / "run.json").read_text() == "fast"


def test_what_a_killed_process_left_is_removed_and_what_a_living_one_writes_is_not(tmp_path):
    code = (
        "import sys, time; from pathlib import Path; from benchmark.files import replacing\n"
        "from benchmark.runs.folder import new_run\n"
        "with new_run(Path(sys.argv[1]), 'job') as folder, replacing(Path(sys.argv[1], 'tables', 'a.csv')):\n"
        "    (folder / 'run.json').write_text('{}'); print('in', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE)
    process.stdout.readline()
    assert [remove_abandoned(folder) for folder in folders(tmp_path)] == [0, 0, 0]
    assert not list(finished_runs(tmp_path)), "a folder that is still being written is not a run"
    process.kill()
    process.wait()
    process.stdout.close()
    of_another = tmp_path / "tables" / f".unfinished-{socket.gethostname()}-{process.pid}-1-abc"  # a machine "NAME-PID"
    of_another.touch()
    assert sum(remove_abandoned(folder) for folder in folders(tmp_path)) == 2
    assert not list((tmp_path / "runs").iterdir()) and list((tmp_path / "tables").iterdir()) == [of_another]


KILLED = """
import sys
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from harness_fakes import config_for, slow_fake_train
from benchmark.runs.execute import execute
from benchmark.runs.executors import ProcessPool
from benchmark.runs.launch import launch
from benchmark.runs.plan import make_plan

if __name__ == "__main__":
    config = config_for(Path(sys.argv[1]), models="medfuse", tasks="ihm", seeds="1,2,3,4,5,6")
    executor = ProcessPool(2, partial(execute, train=slow_fake_train))
    launch(config, make_plan(config, config.data, None), lambda tally: nullcontext(tally.tell), executor)
"""


@pytest.mark.slow
def test_kill_9_of_the_command_ends_its_workers_and_costs_only_unfinished_runs(tmp_path):
    script = tmp_path / "killed.py"
    script.write_text(KILLED)
    paths = os.pathsep.join([str(Path(__file__).parent.parent), *sys.path])
    process = subprocess.Popen(
        [sys.executable, str(script), str(tmp_path)], env={**os.environ, "PYTHONPATH": paths}, start_new_session=True
    )
    out = tmp_path / "out"
    assert _within(120, lambda: list(finished_runs(out)))
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert _within(30, lambda: not _living(process.pid)), "workers outlive the command"
    kept = {folder.name for folder in finished_runs(out)}
    config = config_for(tmp_path, models="medfuse", tasks="ihm", seeds="1,2,3,4,5,6")
    summary = run(config)
    assert summary.done_before == kept
    undisturbed = config_for(tmp_path / "undisturbed", models="medfuse", tasks="ihm", seeds="1,2,3,4,5,6")
    run(undisturbed)
    assert contents(out) == contents(undisturbed.out)
    assert len(list((out / "runs").iterdir())) == 6


def _within(seconds: float, holds) -> bool:
    deadline = time.monotonic() + seconds
    while not (met := holds()) and time.monotonic() < deadline:
        time.sleep(0.02)
    return bool(met)


def _living(session: int) -> list[int]:
    """Processes of a session that have not ended."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            after_name = stat.read_text().rsplit(")", 1)[1].split()
        except (OSError, IndexError):
            continue
        if int(after_name[3]) == session and after_name[0] != "Z":
            found.append(int(stat.parent.name))
    return found


def test_deterministic_algorithms_are_asked_of_torch_for_the_jobs_alone_and_noted(tmp_path):
    import torch

    seen = []

    def train(plan, *rest, **options):
        seen.append(torch.are_deterministic_algorithms_enabled())
        return fake_train(plan, *rest, **options)

    for wanted in (True, False):
        config = config_for(tmp_path / str(wanted), models="medfuse", tasks="ihm", seeds="1", deterministic=wanted)
        run(config, execute=partial(execute, train=train))
        (folder,) = finished_runs(config.out)
        assert json.loads((folder / "run.json").read_text())["environment"]["deterministic"] is wanted
    assert seen == [True, False] and not torch.are_deterministic_algorithms_enabled()
