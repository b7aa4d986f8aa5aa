"""The forms in which a model's step can be carried out, behind one face for the stop watch.

**packed**: the tokens of present modalities end to end, as models are trained on a CPU and evaluated everywhere.
**fixed**: several seeds in one step on batches of the same shapes, as models are trained on a GPU.
**alone**: the fixed form with a single seed; what several at once are compared with.
**dense**: every sequence padded to the longest of its batch, absent modalities included; the yardstick.

A runner owns a model with its optimizer. All runners of a comparison start from the same parameters and get the same
batches; dropout and the noise of gates are drawn by each on its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn

from benchmark.data.batches import LabelledBatch
from benchmark.throughput.fixed_form import Fixed
from benchmark.throughput.mixes import Mix, heads_of
from benchmark.training.portions import Portions
from benchmark.training.step import make_optimizer, train_step
from models.contract import Dimensions, ModelEntry, Staged, Supported

LEARNING_RATE = 1e-4
"""Of the measured steps; speed does not depend on it, and so few steps of it change little."""

LATER_EPOCH = 10_000
"""Beyond any first stage of a model that has stages: what is measured is its last one."""

FORMS = ("packed", "fixed", "alone", "dense")


@dataclass(frozen=True)
class Subject:
    """What is measured: a model on a mix of samples.

    Attributes:
        seed: of initial values and samples.
    """

    entry: ModelEntry
    mix: Mix
    dimensions: Dimensions
    device: torch.device
    seed: int = 0

    @property
    def position(self) -> int:
        """Of the mix's task among the model's heads."""
        return heads_of(self.mix, self.entry.multitask)[1]

    def batch(self, size: int, number: int) -> LabelledBatch:
        return self.mix.batch(self.dimensions, size, self.seed, number, self.position, self.device)

    def build(self, make: Callable[..., nn.Module], seed: int) -> nn.Module:
        """A module in its last stage, made by the entry's `build` or `dense`; its values depend on the seed alone."""
        heads, _ = heads_of(self.mix, self.entry.multitask)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            module = make(self.dimensions, heads, self.entry.config()).to(self.device)
        if isinstance(module, Staged):
            module.begin_epoch(LATER_EPOCH)
        if isinstance(module, Supported) and module.support_samples:
            batch = self.batch(module.support_samples, -1).inputs
            module.eval().remember(batch)
        return module


class Runner(Protocol):
    """One form of one model.

    Attributes:
        seeds: how many models a step trains side by side. module: one of them, on the batches that `fit` gives.
    """

    seeds: int
    module: nn.Module

    def fit(self, batch: LabelledBatch, number: int) -> Any:
        """The batch of that number as this form wants it; made beside the steps, like the loading of data."""

    def train(self, batch: Any) -> None:
        """One training step."""

    def unrecorded(self, batch: Any) -> None:
        """The same step operation by operation, for who counts them."""

    def infer(self, batch: Any) -> torch.Tensor:
        """Logits (B, C) of one of the models in eval mode."""


class Eager:
    """Packed and dense form: one model, operation after operation."""

    seeds = 1

    def __init__(self, subject: Subject, module: nn.Module, half: bool) -> None:
        self.subject, self.module, self.half = subject, module, half
        self.optimizer = make_optimizer(module, LEARNING_RATE)
        self.portions = Portions("no", half=half)

    def fit(self, batch: LabelledBatch, number: int) -> LabelledBatch:
        return batch

    def train(self, batch: LabelledBatch) -> None:
        self.module.train()
        kind, clip_norm = self.subject.mix.task.kind, self.subject.entry.clip_norm
        train_step(self.module, self.optimizer, self.portions, batch, kind, clip_norm=clip_norm)

    unrecorded = train

    def infer(self, batch: LabelledBatch) -> torch.Tensor:
        self.module.eval()
        with torch.inference_mode(), torch.autocast(self.subject.device.type, torch.bfloat16, enabled=self.half):
            return self.module(batch.inputs).logits


def make_runner(subject: Subject, form: str, dtype: torch.dtype, batch_size: int, seeds: int) -> Runner | str:
    """The runner of a form, or the reason why the model does not have it.

    Args:
        batch_size: of the steps to come. seeds: models side by side, of forms that have several.
    """
    half, entry = dtype == torch.bfloat16, subject.entry
    if form == "packed":
        return Eager(subject, subject.build(entry.build, subject.seed), half)
    if form in ("fixed", "alone"):
        if not getattr(subject.build(entry.build, subject.seed), "fixed_shapes", False):
            return "takes packed batches alone"
        return Fixed(subject, batch_size, seeds if form == "fixed" else 1, half, LEARNING_RATE)
    if form == "dense":
        if entry.dense is None:
            return "no dense reference"
        module = subject.build(entry.dense, subject.seed)
        module.load_state_dict(subject.build(entry.build, subject.seed).state_dict())
        return Eager(subject, module, half)
    raise ValueError(f"form {form!r}; allowed are {', '.join(FORMS)}")
