"""The paper's work at the paper's size, planned without its data.

Jobs are those behind the published tables, numbers of samples those of Table 2, and speeds are measured on made-up
samples of the same shapes.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from benchmark.config import RunConfig
from benchmark.errors import UserError
from benchmark.files import remove_abandoned
from benchmark.manifest import DataInfo
from benchmark.published import published
from benchmark.runs.calibrate import Extent, Progress, measured_speeds, stored_speeds
from benchmark.runs.companies import companies
from benchmark.runs.folder import unfinished_folder
from benchmark.runs.job import Job
from benchmark.runs.launch import context_of, processes_here
from benchmark.runs.outlook import Outlook, outlook_of
from benchmark.runs.plan import Encoder, Plan, make_plan
from benchmark.tasks import TASKS
from benchmark.throughput.made_up import ENCODER, NOTE_FEATURES, write_made_up
from benchmark.throughput.mixes import TEST_SHARE, TRAINING_SHARE, VALIDATION_SHARE, Mix, extension_mix, mixes
from models.contract import Dimensions

EXTENT = {"cpu": Extent(steps=2, samples=32), "cuda": Extent(steps=12, samples=256)}
"""What is timed of each kind of job and task; a step of this size takes seconds on a CPU."""

BASIS = (
    "Rests on: numbers of samples and missing rates of the paper's Table 2, patients divided 7:1:2; assumed lengths of "
    "series and notes, and for DRG assumed missing rates (docs/grids.md); steps and predictions timed on made-up "
    "samples. Not in it: note embeddings, what reading larger files from the disk takes, memory of the data themselves."
)
"""For readers of a plan."""


def paper_plan(config: RunConfig) -> Plan:
    """The runs behind the paper's Tables 3 to 5 that are of the models and tasks of `config`, with its seeds.

    Raises:
        UserError: there are none.
    """
    data = _data(config.out)
    encoder = Encoder(ENCODER, config.protocol.note_encoder, NOTE_FEATURES)
    jobs: dict[str, Job] = {}
    for request in _requests(config):
        jobs |= {job.id: job for job in make_plan(request, data, encoder).jobs}
    if not jobs:
        names = f"{', '.join(config.models)} on {', '.join(config.tasks)}"
        raise UserError(f"paper_size: {names} is not in the paper's Tables 3, 4 and 5")
    return Plan(tuple(jobs.values()), data, config.protocol, encoder)


def paper_outlook(config: RunConfig, plan: Plan, progress: Progress | None = None) -> Outlook | None:
    """Times what was not timed on this device before, and draws up the plan."""
    context = context_of(config, plan)
    processes = processes_here(config, plan.jobs, context)
    speeds, extent = stored_speeds(context, processes), EXTENT[context.device]
    if any(speeds.of(company, context.form) is None for company in companies(plan.jobs, context)):
        remove_abandoned(config.out)
        folder = unfinished_folder(config.out)
        try:
            write_samples(folder, plan.jobs, extent)
            made_up = replace(context, data=folder)
            speeds = measured_speeds(plan.jobs, made_up, plan.data.samples, processes, progress, extent)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    return outlook_of(config, plan, plan.jobs, context, speeds)


def _requests(config: RunConfig) -> Iterator[RunConfig]:
    """One for each table and share of labels."""
    main = tuple(name for name in config.tasks if TASKS[name].in_table3)
    parts = [(published(name)["model"].unique(), main, 1.0) for name in ("table3", "table4")]
    extension = published("table5")
    tasks = tuple(name for name in config.tasks if name in set(extension["task"]))
    parts += [(part["model"].unique(), tasks, share) for share, part in extension.groupby("label_fraction")]
    for models, tasks, share in parts:
        chosen = tuple(name for name in config.models if name in models)
        if chosen and tasks:
            yield replace(config, models=chosen, tasks=tasks, label_fraction=float(share))


def _data(out: Path) -> DataInfo:
    shares = {"train": TRAINING_SHARE, "val": VALIDATION_SHARE, "test": TEST_SHARE}
    return DataInfo(
        path=out,
        name="samples of the numbers of the paper's Table 2",
        fingerprint="table 2 of the paper",
        simulated=True,
        modalities={"ehr": True, "cxr": True, "note": True},
        samples={
            name: {part: round(share * mix.samples) for part, share in shares.items()} for name, mix in _mixes().items()
        },
        impossible={},
    )


def _mixes() -> dict[str, Mix]:
    return {**mixes(), "drg": extension_mix()}


def write_samples(folder: Path, jobs: Sequence[Job], extent: Extent) -> None:
    """A prepared data set of made-up samples: of each task that the jobs have, as many as `extent` says."""
    dimensions = Dimensions(**jobs[0].dimensions)
    counts = {"train": extent.steps * jobs[0].batch_size, "val": extent.samples, "test": extent.samples}
    tasks = {task for job in jobs for task in job.tasks}
    chosen = {name: mix for name, mix in _mixes().items() if name in tasks}
    write_made_up(folder, chosen, counts, dimensions)
