"""Made-up samples of the shapes that the paper's tasks have. All of them are SIMULATED; none looks like a patient.

What a step costs depends on which modalities a sample owns and on how long its sequences are, not on what stands in
them. Missing rates and numbers of samples are those of the paper's Table 2, modalities missing independently of one
another. Lengths are assumed, for the paper prints none: hours in the ICU with median 47 and mean 83, note tokens with
median 101 and mean 128, both lognormal and cut at what a model takes; IHM reads 48 hours. Contents are random numbers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from benchmark.data.batches import LabelledBatch, Labels
from benchmark.errors import UserError
from benchmark.published import published_cohort
from benchmark.random import stream
from benchmark.suggest import unknown
from benchmark.tasks import TASKS
from benchmark.tasks.record import Task
from models.contract import MODALITIES, Batch, Dimensions, Films, Head, Layout, Packed
from models.layout import on_device

TRAINING_SHARE = 0.7
"""Of a task's samples; the paper splits patients 7:1:2."""

VALIDATION_SHARE = 0.1
TEST_SHARE = 0.2

KNOWN, POSITIVE = 0.25, 0.15
"""Shares of a multilabel task's entries that are known, if its labels are masked, and of positive ones."""


@dataclass(frozen=True)
class Lengths:
    """Lengths of sequences, lognormal; all the same where mean and median are equal."""

    median: float
    mean: float

    def draw(self, rng: np.random.Generator, count: int, most: int) -> np.ndarray:
        """(count,) int64 from 1 to `most`."""
        spread = math.sqrt(2 * math.log(self.mean / self.median))
        lengths = np.exp(rng.normal(math.log(self.median), spread, count))
        return np.clip(np.rint(lengths), 1, most).astype(np.int64)


HOURS, TOKENS = Lengths(47, 83), Lengths(101, 128)
COURSES, DRG_CLASSES = Lengths(300, 400), 769
FIXED_HOURS = {"ihm": Lengths(48, 48)}


@dataclass(frozen=True)
class Mix:
    """What the samples of a task own.

    Attributes:
        samples: of the whole cohort. missing: share of samples without each modality, in their order.
        hours, tokens: lengths of series and notes.
    """

    task: Task
    samples: int
    missing: tuple[float, ...]
    hours: Lengths
    tokens: Lengths

    @property
    def head(self) -> Head:
        return Head(len(self.task.classes or ("",)), self.task.kind, self.task.primary)

    def steps_an_epoch(self, batch_size: int) -> int:
        """Full batches of the training samples; one of all of them where they fill none.

        >>> [mix.steps_an_epoch(32) for mix in mixes().values()]
        [575, 1301, 1296, 1308, 1218, 2900]
        """
        return max(1, int(self.samples * TRAINING_SHARE) // batch_size)

    def batch(
        self,
        dimensions: Dimensions,
        size: int,
        seed: int,
        number: int,
        position: int = 0,
        device: torch.device = torch.device("cpu"),
    ) -> LabelledBatch:
        """Batch `number` of `size` samples; on a kind of device the same whenever seed, number and sizes are.

        Args:
            position: of the task among the model's heads.
        """
        rng, d = stream(seed, "mix", self.task.name, number), dimensions
        present, hours, tokens = self.shapes(rng, size, d)
        owners = [np.flatnonzero(column) for column in present.T]
        contents = torch.Generator(device).manual_seed(int(rng.integers(2**63)))
        pixels = torch.rand(len(owners[1]), d.film, d.film, generator=contents, device=device)
        inputs = Batch(
            ehr=_packed(contents, device, hours, owners[0], d.series_features),
            cxr=Films(pixels, tuple(owners[1].tolist())) if len(pixels) else None,
            note=_packed(contents, device, tokens, owners[2], d.note_features),
            present=on_device(present, device),
            task=position,
            sample=torch.arange(number * size, (number + 1) * size, device=device),
        )
        y, known = self.labels(rng, size)
        return LabelledBatch(inputs, Labels(on_device(y, device), on_device(known, device)))

    def lengths(self, dimensions: Dimensions, size: int, seed: int) -> np.ndarray:
        """(size, M) tokens of each modality of made-up samples, 0 where absent."""
        present, hours, tokens = self.shapes(stream(seed, "mix", self.task.name, -1), size, dimensions)
        lengths = present * (dimensions.film // dimensions.patch) ** 2
        lengths[present[:, 0], 0], lengths[present[:, 2], 2] = hours, tokens
        return lengths

    def shapes(
        self, rng: np.random.Generator, size: int, dimensions: Dimensions
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Who owns what (size, M), and the lengths of the series and notes that are owned."""
        present = self._present(rng, size)
        hours = self.hours.draw(rng, int(present[:, 0].sum()), dimensions.hours)
        tokens = self.tokens.draw(rng, int(present[:, 2].sum()), dimensions.note_tokens)
        return present, hours, tokens

    def _present(self, rng: np.random.Generator, size: int) -> np.ndarray:
        """(size, M) bool; who would own nothing owns the task's primary modality."""
        present = rng.random((size, len(MODALITIES))) >= np.array(self.missing)
        present[~present.any(1), MODALITIES.index(self.task.primary)] = True
        return present

    def labels(self, rng: np.random.Generator, size: int) -> tuple[np.ndarray, np.ndarray]:
        """Labels y (size,) int64 of a multiclass task, otherwise (size, C) float32; and which of them are known."""
        classes = self.head.classes
        if self.task.kind == "multiclass":
            y, known = rng.integers(0, classes, size), np.ones(size, bool)
        else:
            y = (rng.random((size, classes)) < POSITIVE).astype(np.float32)
            masked = self.task.kind == "multilabel" and self.task.primary == "cxr"
            known = rng.random(y.shape) < KNOWN if masked else np.ones(y.shape, bool)
            y *= known
        return y, known


def mixes(names: Iterable[str] | None = None) -> dict[str, Mix]:
    """The mixes of the tasks `names`, by default of all that the paper's main table has, in its order.

    Raises:
        UserError: a name is none of these.
    """
    allowed = [task.name for task in TASKS.values() if task.in_table3]
    chosen = allowed if names is None else list(names)
    for name in chosen:
        if name not in allowed:
            raise UserError(unknown("task", name, allowed))
    cohort = published_cohort()
    return {
        name: Mix(
            task=TASKS[name],
            samples=cohort[name]["samples"],
            missing=tuple(cohort[name][modality] / 100 for modality in MODALITIES),
            hours=FIXED_HOURS.get(name, HOURS),
            tokens=TOKENS,
        )
        for name in allowed
        if name in chosen
    }


def extension_mix() -> Mix:
    """The mix of DRG. Table 2 prints its samples, all with notes; all else is assumed: series and films as rare as
    series among those of DIA and films among those of PHE, hospital courses of median 300 and mean 400 tokens, and as
    many classes as the authors' data have."""
    cohort, task = published_cohort(), TASKS["drg"]
    return Mix(
        task=replace(task, classes=tuple(f"{number:03}" for number in range(DRG_CLASSES))),
        samples=cohort["drg"]["samples"],
        missing=(cohort["dia"]["ehr"] / 100, cohort["phe"]["cxr"] / 100, 0.0),
        hours=HOURS,
        tokens=COURSES,
    )


def heads_of(mix: Mix, multitask: bool) -> tuple[Sequence[Head], int]:
    """The heads that a model has when it is trained on a mix, and the position of the mix's task among them."""
    if not multitask:
        return [mix.head], 0
    every = mixes()
    return [each.head for each in every.values()], list(every).index(mix.task.name)


def _packed(
    contents: torch.Generator, device: torch.device, lengths: np.ndarray, rows: np.ndarray, features: int
) -> Packed | None:
    if not len(rows):
        return None
    values = torch.randn(int(lengths.sum()), features, generator=contents, device=device)
    return Packed(values, Layout(tuple(lengths.tolist()), tuple(rows.tolist())))
