"""Several seeds of a model side by side with their batches, on any device."""

from __future__ import annotations

import torch
from prepared_data import ENCODER, NOTE_WIDTH

from benchmark.data.dataset import PreparedData
from benchmark.data.fixed import FixedSource
from benchmark.data.residency import DeviceStores
from benchmark.registry import models
from benchmark.training import TrainingPlan
from benchmark.training.learn import make_ready
from benchmark.training.stacked import Objective, SeedStack
from models.contract import Dimensions

SEEDS = (40, 42)
SIZES = {"width": 8, "layers": 2, "note_features": NOTE_WIDTH, "film": 32, "patch": 16, "hours": 24, "note_tokens": 8}


def make_plan(model: str, seed: int, task: str, **changes: object) -> TrainingPlan:
    """Of one epoch, on three tasks if the model takes several."""
    entry = models()[model]
    settings = {
        "config": entry.config(),
        "dimensions": Dimensions(**SIZES, dropout=0.1),
        "tasks": ("ihm", "los", "dia") if entry.multitask else (task,),
        "batch_size": 8,
        "epochs": 1,
        "learning_rate": 3e-3,
        "task_weights": {},
        "halve_learning_rate": False,
        "augmentation": "mild",
        "encoder": ENCODER,
    }
    return TrainingPlan(model=model, seed=seed, **(settings | changes))


def make_stack(
    model: str,
    task: str,
    data: PreparedData,
    device: torch.device = torch.device("cpu"),
    budget: int | None = None,
    **changes: object,
) -> tuple[SeedStack, FixedSource, Objective]:
    """Two seeds of a model before their first step, batches of a task for them, and what a step minimises.

    Args:
        budget: as of `DeviceStores`. changes: of the plans.
    """
    plans = [make_plan(model, seed, task, **changes) for seed in SEEDS]
    ready = [make_ready(plan, data, {name: data.task(name) for name in plan.tasks}, device) for plan in plans]
    stack = SeedStack([each.model for each in ready], models()[model].clip_norm, ready[0].schedule.half)
    source = FixedSource(
        ready[0].training[task], SEEDS, plans[0].batch_size, DeviceStores(data, ENCODER, device, budget=budget)
    )
    kind = source.source.task.task.kind
    return stack, source, Objective(kind, 0.5, getattr(ready[0].model, "aux_weights", {}))
