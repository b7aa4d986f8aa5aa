"""Whatever executes jobs, their results are the same; extras that are not installed are skipped."""

from __future__ import annotations

import glob
import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import pytest
from harness_fakes import DYING_SEED, config_for, fake_execute
from tuning_data import configured, prepare

from benchmark.errors import UserError
from benchmark.runs.executors import Advanced, InProcess, ProcessPool, Started
from benchmark.runs.folder import finished_runs
from benchmark.runs.gpus import PROCESS, Gpu, packed
from benchmark.runs.launch import launch
from benchmark.runs.on_ray import RayExecutor
from benchmark.runs.on_slurm import SlurmExecutor, log_folder
from benchmark.runs.plan import make_plan

GB = 2**30


def run(config, executor):
    plan = make_plan(config, config.data, None)
    return launch(config, plan, lambda tally: nullcontext(tally.tell), executor)


def run_and_hear(config, executor):
    """The summary, and all events."""
    events = []

    def watch(tally):
        return nullcontext(lambda event: (tally.tell(event), events.append(event)))

    return launch(config, make_plan(config, config.data, None), watch, executor), events


def last_epochs(events) -> dict[int, int]:
    """Of each job's seed, the epoch that was told last."""
    return {event.job.seed: event.report.epoch for event in events if isinstance(event, Advanced)}


def contents(out: Path) -> dict[str, bytes]:
    """Of all finished runs what must be equal between equal runs: not times, not the machine."""
    found = {}
    for folder in (folder for folder in finished_runs(out) if folder.suffix != ".failed"):
        for name in ("predictions.parquet", "checkpoint.safetensors"):
            found[f"{folder.name}/{name}"] = (folder / name).read_bytes()
        record = json.loads((folder / "run.json").read_text())
        found[folder.name] = json.dumps([record["metrics"], record["job"]]).encode()
    return found


def real_runs(tmp_path: Path, executor, name: str) -> dict[str, bytes]:
    (tmp_path / name).mkdir()
    data = tmp_path / "data" if (tmp_path / "data").exists() else prepare(tmp_path)
    config = configured(tmp_path / name, data, models="flexcare,mt", tasks="ihm,dia", seeds="1")
    summary = run(config, executor)
    assert [result.status for result in summary.results.values()] == ["done"] * 3
    return contents(config.out)


def test_jobs_are_packed_on_devices_by_memory_and_unknown_ones_have_a_device_alone(tmp_path):
    config = config_for(tmp_path, models="flexcare,mt", tasks="ihm", seeds="1,2,3")
    jobs = make_plan(config, config.data, None).jobs
    memory = {"flexcare": None, "mt": 3 * GB - PROCESS}
    gpus = [Gpu("0", 10 * GB), Gpu("1", 10 * GB)]
    choose = packed(gpus, lambda job: memory[job.model], most=8)
    order = [job for job in jobs if job.model == "flexcare"][:1] + [job for job in jobs if job.model == "mt"] * 2
    at_work, placed = [], []
    while order and (choice := choose(order, at_work)):
        number, place = choice
        at_work.append((order.pop(number), place))
        placed.append((at_work[-1][0].model, dict(place.variables)["CUDA_VISIBLE_DEVICES"]))
    assert placed == [("flexcare", "0"), ("mt", "1"), ("mt", "1"), ("mt", "1")], "9 of 10 GB are given out"
    huge = packed(gpus, lambda job: 50 * GB, most=8)
    assert huge(jobs, []) == (0, gpus[0].place), "a job too large for every device is tried alone"
    assert packed(gpus, lambda job: 0, most=1)(jobs, [(jobs[0], gpus[0].place), (jobs[1], gpus[1].place)]) is None


def device_execute(job, context, notify):
    """As `fake_execute`, and leaves a note of the device that its process sees."""
    seen = context.out.parent / "seen"
    seen.mkdir(exist_ok=True)
    (seen / str(job.seed)).write_text(f"{os.environ['CUDA_VISIBLE_DEVICES']} {os.getpid()}")
    return fake_execute(job, context, notify)


def test_processes_of_the_pool_see_their_own_device_and_are_used_again(tmp_path):
    config = config_for(tmp_path, models="medfuse", tasks="ihm", seeds="1,2,3,4,5,6")
    choose = packed([Gpu("3", 8 * GB), Gpu("5", 8 * GB)], lambda job: None, most=4)
    assert not run(config, ProcessPool(choose, device_execute)).failed
    seen = [file.read_text().split() for file in (tmp_path / "seen").iterdir()]
    assert {device for device, _ in seen} == {"3", "5"}
    assert len({process for _, process in seen}) == 2


@pytest.mark.slow
def test_slurm_gives_the_same_results_bit_by_bit_and_a_killed_job_costs_itself_alone(tmp_path):
    pytest.importorskip("submitit", reason="the extra [slurm] is not installed")
    alone = real_runs(tmp_path, InProcess(), "alone")
    assert real_runs(tmp_path, SlurmExecutor(cluster="local", wait=0.2), "slurm") == alone
    config = config_for(tmp_path / "fake", models="medfuse", tasks="ihm", seeds=f"1,{DYING_SEED},2")
    summary, events = run_and_hear(config, SlurmExecutor(cluster="local", execute=fake_execute, wait=0.2))
    assert last_epochs(events).items() >= {1: 3, 2: 3}.items()
    assert not list(log_folder(config.out).glob("*.epoch.json"))
    assert [result.job.seed for result in summary.failed] == [DYING_SEED]
    assert "did not end well" in summary.failed[0].error


@pytest.mark.slow
def test_ray_gives_the_same_results_bit_by_bit_and_a_killed_worker_costs_its_job_alone(tmp_path):
    pytest.importorskip("ray", reason="the extra [ray] is not installed")
    alone = real_runs(tmp_path, InProcess(), "alone")
    assert real_runs(tmp_path, RayExecutor(workers=2), "ray") == alone
    config = config_for(tmp_path / "fake", models="medfuse", tasks="ihm", seeds=f"1,{DYING_SEED},2")
    summary, events = run_and_hear(config, RayExecutor(workers=1, execute=fake_execute))
    assert last_epochs(events).items() >= {1: 3, 2: 3}.items()
    assert [result.job.seed for result in summary.failed] == [DYING_SEED]
    assert "the Ray worker of the job died" in summary.failed[0].error
    assert sum(isinstance(event, Started) for event in events) == 3
    assert _ray_is_gone()


INTERRUPTED = """
import sys
from functools import partial
from contextlib import nullcontext
from pathlib import Path
from harness_fakes import config_for, sleeping_execute
from benchmark.runs.launch import launch
from benchmark.runs.on_ray import RayExecutor
from benchmark.runs.plan import make_plan

if __name__ == "__main__":
    config = config_for(Path(sys.argv[1]), models="medfuse", tasks="ihm", seeds="1,2")
    executor = RayExecutor(workers=1, execute=sleeping_execute)
    tell = lambda event: print(type(event).__name__, flush=True)
    launch(config, make_plan(config, config.data, None), lambda tally: nullcontext(tell), executor)
"""


@pytest.mark.slow
def test_an_interrupted_ray_listens_on_loopback_alone_and_leaves_no_process(tmp_path):
    pytest.importorskip("ray", reason="the extra [ray] is not installed")
    (tmp_path / "interrupted.py").write_text(INTERRUPTED)
    paths = os.pathsep.join([str(Path(__file__).parent.parent), *sys.path])
    process = subprocess.Popen(
        [sys.executable, str(tmp_path / "interrupted.py"), str(tmp_path)],
        env={**os.environ, "PYTHONPATH": paths},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "Started\n"
    while not (tmp_path / "asleep").exists():
        time.sleep(0.1)
    assert _ray_processes()
    addresses = {address for address, command in _listening() if "ray" in command}
    assert addresses
    assert addresses <= {"0100007F", "0" * 24 + "01000000", "0000000000000000FFFF00000100007F"}, "not loopback"
    process.send_signal(signal.SIGINT)
    process.wait(60)
    process.stdout.close()
    assert _ray_is_gone()


def test_an_extra_that_is_not_installed_is_named(tmp_path, monkeypatch):
    config = config_for(tmp_path, models="medfuse", tasks="ihm", seeds="1")
    for name, executor in (("ray", RayExecutor()), ("slurm", SlurmExecutor())):
        monkeypatch.setitem(sys.modules, {"ray": "ray", "slurm": "submitit"}[name], None)
        with pytest.raises(UserError, match=rf"executor '{name}' needs the extra \[{name}\]"):
            run(config, executor)


def _ray_is_gone() -> bool:
    """Whether all of Ray's processes have ended, or do so soon: idle workers end when they miss their raylet."""
    deadline = time.monotonic() + 20
    while _ray_processes() and time.monotonic() < deadline:
        time.sleep(0.2)
    return not _ray_processes()


def _ray_processes() -> list[str]:
    """Commands of Ray's own processes on this machine."""
    found = []
    for file in glob.glob("/proc/[0-9]*/cmdline"):
        try:
            command = Path(file).read_text().replace("\0", " ")
        except OSError:
            continue
        if re.search(r"ray::|/raylet|gcs_server|ray/_private|ray/dashboard", command):
            found.append(command)
    return found


def _listening() -> list[tuple[str, str]]:
    """Local address (hexadecimal, as the kernel writes it) and command of every listening TCP socket."""
    addresses = {}
    for family in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{family}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A":
                addresses[fields[9]] = fields[1].split(":")[0]
    found = []
    for link in glob.glob("/proc/[0-9]*/fd/*"):
        try:
            socket = re.fullmatch(r"socket:\[(\d+)\]", os.readlink(link))
            command = Path(link).parent.parent.joinpath("cmdline").read_text()
        except OSError:
            continue
        if socket and socket[1] in addresses:
            found.append((addresses[socket[1]], command.replace("\0", " ")))
    return found
