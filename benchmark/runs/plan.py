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
from benchmark.protocols.schema import Protocol
from benchmark.runs.job import Job, digest
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
    """All jobs of `config`: one a seed for a multitask model, one a seed and task for the others."""
    jobs = [
        make_job(config, name, tasks, seed, data, encoder)
        for name in config.models
        for tasks in ([config.tasks] if registry.get(name).multitask else [(task,) for task in config.tasks])
        for seed in config.seeds
    ]
    ordered = sorted(jobs, key=lambda job: -job.cost(data.samples))  # stable: equal jobs keep the order of the table
    return Plan(tuple(ordered), data, config.protocol, encoder)


def make_job(
    config: RunConfig, name: str, tasks: tuple[str, ...], seed: int, data: DataInfo, encoder: Encoder | None
) -> Job:
    """The job that trains model `name` on `tasks` with `seed`, with only those settings that reach it."""
    entry, training = registry.get(name), config.protocol.training
    together = entry.multitask and len(tasks) > 1
    dimensions = config.protocol.dimensions.model_dump()
    if encoder:
        dimensions["note_features"] = encoder.width
    return Job(
        model=name,
        options=_plain(dataclasses.asdict(config.model_options[name])),
        dimensions=dataclasses.asdict(Dimensions(**dimensions)),
        tasks=tasks,
        seed=seed,
        batch_size=training.batch_size,
        epochs=training.epochs.multitask if entry.multitask else training.epochs.singletask,
        learning_rate=training.learning_rate,
        task_weights={task: training.task_weights[task] if together else 1.0 for task in tasks},
        halve_learning_rate=training.halve_learning_rate and together,
        augmentation=training.augmentation,
        encoder=encoder.key if encoder else None,
        data=data.fingerprint,
        code=code_version(),
        plugin=registry.plugin_version(name),
        label_fraction=config.label_fraction,
    )


def _plain(value: Any) -> Any:
    """`value` as JSON would give it back, so that a job read from a file equals the job that was written."""
    return json.loads(json.dumps(value))
