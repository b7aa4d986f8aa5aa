"""The jobs of a request, worked out before anything runs."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Any

from benchmark import registry
from benchmark.code_version import code_version
from benchmark.config import RunConfig
from benchmark.manifest import DataInfo
from benchmark.protocols.schema import ModelTraining, Protocol
from benchmark.runs.job import Job, digest
from benchmark.tasks import TASKS
from models.contract import Dimensions


@dataclass(frozen=True)
class Encoder:
    """The frozen note encoder: key of its embeddings, name as in captions, width of a token."""

    key: str
    name: str
    width: int


@dataclass(frozen=True)
class Plan:
    """Jobs that belong to one comparison.

    Attributes:
        jobs: longest first. data: what they run on. protocol, encoder: under which rules.
    """

    jobs: tuple[Job, ...]
    data: DataInfo
    protocol: Protocol
    encoder: Encoder | None

    @property
    def group(self) -> str:
        """Hash of what all runs of a table share: data, protocol, encoder, code; not seeds or models' options."""
        return group_of(self.data.fingerprint, self.protocol, self.encoder, code_version())


def group_of(data: str, protocol: Protocol, encoder: Encoder | None, code: str) -> str:
    shared = protocol.model_dump(mode="json", include={"name", "dimensions", "training"})
    return digest({"data": data, "protocol": shared, "encoder": encoder.key if encoder else None, "code": code})


def make_plan(config: RunConfig, data: DataInfo, encoder: Encoder | None) -> Plan:
    """All jobs of `config`: one a seed for a multitask model, one a seed and task for the others.

    Jobs that others start from are among them, asked for or not.
    """
    jobs = {}
    for name in config.models:
        for tasks in task_sets(name, config.tasks):
            for seed in config.seeds:
                source = _source_job(config, name, seed, data, encoder)
                job = make_job(config, name, tasks, seed, data, encoder, source)
                jobs |= {one.id: one for one in (source, job) if one is not None}
    # Stable: equal jobs keep the order of the table.
    ordered = sorted(jobs.values(), key=lambda job: -job.cost(data.samples))
    return Plan(tuple(ordered), data, config.protocol, encoder)


def task_sets(name: str, tasks: tuple[str, ...]) -> list[tuple[str, ...]]:
    """Which tasks a model is trained on together, one set a job and seed.

    A pretrained model is for tasks that its first training does not know.
    """
    entry = registry.get(name)
    if entry.pretrained_on is not None:
        tasks = tuple(task for task in tasks if not TASKS[task].in_table3)
    if not tasks:
        return []
    return [tasks] if entry.multitask else [(task,) for task in tasks]


def first_tasks(data: DataInfo) -> tuple[str, ...]:
    """What a model learns before it is carried to another task: the main comparison's tasks that the data allow."""
    return tuple(name for name, task in TASKS.items() if task.in_table3 and name in data.samples)


def _source_job(config: RunConfig, name: str, seed: int, data: DataInfo, encoder: Encoder | None) -> Job | None:
    source = registry.get(name).pretrained_on
    if source is None or not task_sets(name, config.tasks):
        return None
    whole = dataclasses.replace(config, label_fraction=1.0, trace=False)
    return make_job(whole, source, first_tasks(data), seed, data, encoder)


def make_job(
    config: RunConfig,
    name: str,
    tasks: tuple[str, ...],
    seed: int,
    data: DataInfo,
    encoder: Encoder | None,
    source: Job | None = None,
) -> Job:
    """The job that trains model `name` on `tasks` with `seed`, with only those settings that reach it.

    It starts from the final state of `source`, if there is one.
    """
    entry, training = registry.get(name), config.protocol.training
    own = config.protocol.training_of.get(name, ModelTraining())
    together = entry.multitask and len(tasks) > 1
    epochs = training.epochs.multitask if together else training.epochs.singletask
    halve = training.halve_learning_rate and together
    epochs = own.epochs or epochs
    dimensions = config.protocol.dimensions.model_dump()
    if encoder:
        dimensions["note_features"] = encoder.width
    if own.dropout is not None:
        dimensions["dropout"] = own.dropout
    weights = {**training.task_weights, **own.task_weights}
    return Job(
        model=name,
        options=_plain(dataclasses.asdict(config.model_options[name])),
        dimensions=dataclasses.asdict(Dimensions(**dimensions)),
        tasks=tasks,
        seed=seed,
        batch_size=training.batch_size,
        epochs=epochs,
        learning_rate=own.learning_rate or training.learning_rate,
        task_weights={task: weights[task] if together else 1.0 for task in tasks},
        task_rates={task: rate for task, rate in own.task_rates.items() if together and task in tasks and rate != 1},
        halve_learning_rate=halve if own.halve_learning_rate is None else own.halve_learning_rate,
        augmentation=training.augmentation,
        encoder=encoder.key if encoder else None,
        data=data.fingerprint,
        code=code_version(),
        plugin=registry.plugin_version(name),
        label_fraction=config.label_fraction,
        note_dropout=min(own.note_dropout, epochs) if encoder and not entry.fits else 0,
        precision="float32" if entry.fits else training.precision,
        redraw_hours=training.redraw_hours and any(TASKS[task].label_at for task in tasks),
        initial=source.id if source else None,
        initial_variant=source.variant if source else None,
        trace=config.trace and together,
    )


def _plain(value: Any) -> Any:
    """`value` as JSON would give it back, so that a job read from a file equals the job that was written."""
    return json.loads(json.dumps(value))
