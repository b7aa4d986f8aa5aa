"""A job: one training run, described completely by a frozen value whose hash is its name."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any


@dataclass(frozen=True)
class Job:
    """Everything that can influence the numbers of one run, and nothing else.

    Attributes:
        model: registry name. options: the model's complete own configuration. dimensions: the shared sizes.
        tasks: trained together, in this order. seed: of this run.
        batch_size, epochs, learning_rate, task_weights, halve_learning_rate, augmentation: as they hold for this model.
        label_fraction: share of the training samples that is used.
        redraw_hours: draw the hours of training samples anew in each epoch.
        note_dropout: number of draws of the note encoder's own dropout that training reads in turn; 0: none.
        initial: id of the job whose final state this one starts from; None: from random values. initial_variant: the
            `variant` of that job, which is the same for all seeds.
        task_rates: factors of single tasks on the learning rate.
        precision: of the products in training steps.
        encoder: key of the note encoder; None if the data have no notes.
        data: fingerprint of the prepared data set.
        trace: score all test sets after each task's part of each epoch. The one attribute without influence on the
            other numbers: a traced run has more files.
        code: version of the code that determines results. plugin: version of a third-party model's own code.
    """

    model: str
    options: Mapping[str, Any]
    dimensions: Mapping[str, Any]
    tasks: tuple[str, ...]
    seed: int
    batch_size: int
    epochs: int
    learning_rate: float
    task_weights: Mapping[str, float]
    halve_learning_rate: bool
    augmentation: str
    encoder: str | None
    data: str
    code: str
    plugin: str | None = None
    label_fraction: float = 1.0
    initial: str | None = None
    initial_variant: str | None = None
    redraw_hours: bool = False
    note_dropout: int = 0
    task_rates: Mapping[str, float] = field(default_factory=dict)
    precision: str = "float32"
    trace: bool = False

    @cached_property
    def hash(self) -> str:
        return digest(asdict(self))

    @property
    def id(self) -> str:
        """Name of the run's folder: readable in front, unique at the end."""
        tasks = "-".join(self.tasks) if len(self.tasks) < 3 else f"{len(self.tasks)}tasks"
        share = "" if self.label_fraction == 1 else f"-{100 * self.label_fraction:g}pc"
        return f"{self.model}-{tasks}{share}-s{self.seed}-{self.hash}"

    @property
    def variant(self) -> str:
        """Hash of what the seeds of one table cell have in common."""
        return digest({**asdict(self), "seed": None, "trace": None, "initial": None})

    def cost(self, samples: Mapping[str, Mapping[str, int]]) -> int:
        """Rough relative duration: samples seen in training."""
        return round(self.epochs * self.label_fraction * sum(samples[task]["train"] for task in self.tasks))


def job_of(record: Mapping[str, Any]) -> Job:
    """The job that a run.json describes."""
    return Job(**{**record, "tasks": tuple(record["tasks"])})


def digest(value: Any) -> str:
    """Twelve hexadecimal digits that stand for a JSON-like value; the order of keys does not count."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, default=list)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
