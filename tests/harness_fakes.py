"""A data set without contents, a training that takes no time, and ready-made run folders, for tests of the harness."""

from __future__ import annotations

import functools
import json
import os
import signal
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from benchmark.config import RunConfig, resolve
from benchmark.runs.execute import execute
from benchmark.tasks import TASKS
from benchmark.training import EpochReport, Trained

FAILING_SEED, DYING_SEED = 13, 99


def write_data(folder: Path, fingerprint: str = "f" * 64, simulated: bool = True) -> Path:
    """A folder that looks like a prepared data set to the runner; it has no notes and no DRG."""
    tasks = {
        name: {"classes": list(task.classes or ()), "samples": {"train": 100 * (i + 1), "val": 10, "test": 20}}
        for i, (name, task) in enumerate(TASKS.items())
        if name != "drg"
    }
    manifest = {
        "format": 1,
        "name": "toy cohort",
        "fingerprint": fingerprint,
        "simulated": simulated,
        "modalities": {"ehr": True, "cxr": True, "note": False},
        "tasks": tasks,
        "impossible": {"drg": "there are no notes"},
    }
    (folder / "private").mkdir(parents=True)
    (folder / "private" / "key.bin").write_bytes(bytes(range(32)))
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def fake_train(plan, data, device, notify, bookmark=None) -> Trained:
    """Answers at once with numbers that depend on the plan alone; some seeds end badly."""
    for epoch in range(1, plan.epochs + 1):
        for task in plan.tasks:
            notify(EpochReport(epoch, plan.epochs, task, 1.0 / epoch, 1.1 / epoch, 0.0))
        if plan.seed == DYING_SEED:
            os.kill(os.getpid(), signal.SIGKILL)
    if plan.seed == FAILING_SEED:
        raise RuntimeError("the loss exploded\nin two lines")
    random = np.random.default_rng([plan.seed, *plan.model.encode()])
    metrics = {task: {name: float(random.random()) for name in TASKS[task].metrics} for task in plan.tasks}
    frame = pd.DataFrame({"sample": [7, 8], "patient": [1, 1], "present_ehr": True, "present_cxr": [True, False]})
    frame = frame.assign(present_note=False, y0=[0.0, 1.0], y1=np.nan, y10=[1.0, 0.0], p0=random.random(2))
    history = pd.DataFrame({"epoch": [1], "task": plan.tasks[0], "train_loss": [1.0]})
    state = {"weight": torch.tensor(random.random(3)), "tied": torch.zeros(2)}
    info = {"parameters": 5, "ceiling": {task: dict.fromkeys(metrics[task], 0.99) for task in plan.tasks}}
    return Trained(metrics, dict.fromkeys(plan.tasks, frame), history, state, info)


def slow_fake_train(plan, data, device, notify, bookmark=None) -> Trained:
    time.sleep(0.5)
    return fake_train(plan, data, device, notify)


def last_to_end(flag: Path, seed: int, plan, data, device, notify, bookmark=None) -> Trained:
    """The first training of `seed` goes on until some later one, of a model that starts from another, has begun."""
    if plan.initial is not None:
        flag.touch()
    elif plan.seed == seed:
        deadline = time.monotonic() + 60
        while not flag.exists():
            assert time.monotonic() < deadline, "nothing begins before all first trainings are over"
            time.sleep(0.05)
    return fake_train(plan, data, device, notify)


fake_execute = functools.partial(execute, train=fake_train)


def config_for(tmp_path: Path, **options) -> RunConfig:
    """A run configuration on the toy data set; made when there is none."""
    data = tmp_path / "data"
    if not data.is_dir():
        write_data(data)
    given = {"data": str(data), "protocol": "quick", "out": str(tmp_path / "out"), "device": "cpu", "workers": 1}
    return resolve({**given, **options})


def sleeping_execute(job, context, notify=None):
    """Says that it is at work, and never ends."""
    (context.out.parent / "asleep").touch()
    time.sleep(600)
