"""What a trained model loses when a modality is hidden from a growing share of the test samples that own it.

Nothing is trained again. Samples of a modality alone keep it, since nothing would be left of them. Which samples lose
it first depends on the data alone, so that all models lose the same ones, and those of a smaller share are among those
of a larger one.

Legend: n samples, C classes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from benchmark.data.batches import BatchSource
from benchmark.random import stream
from benchmark.training import Restored
from benchmark.training.predict import predict
from models.contract import MODALITIES

SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True)
class Hidden:
    """Predictions of a task's test samples while a modality is hidden.

    Attributes:
        share: of the samples that could lose it, which are `owners`. hidden: how many did.
        probability: (n, C), in the order of the source.
    """

    task: str
    modality: str
    share: float
    owners: int
    hidden: int
    probability: np.ndarray


def losing_order(source: BatchSource, modality: str) -> np.ndarray:
    """Positions of the samples that own a modality and another one, in the order in which they lose it."""
    m = MODALITIES.index(modality)
    owners = np.flatnonzero(source.present[:, m] & (source.present.sum(1) > 1))
    draw = stream(0, "hidden modality", source.task.task.name, modality)
    place = draw.random(len(source))  # one number a sample of the partition, whoever owns what
    return owners[np.argsort(place[owners], kind="stable")]


def sweep(restored: Restored, task: str, shares: tuple[float, ...] = SHARES) -> Iterator[Hidden]:
    """Hides one modality after the other; those that no sample can lose or the model cannot do without are left out."""
    source = restored.tests[task]
    whole = _probability(restored, source)
    for modality in MODALITIES:
        order = losing_order(source, modality)
        if not len(order) or modality in getattr(restored.model, "requires", ()):
            continue
        bare: np.ndarray | None = None
        for share in shares:
            lost = order[: round(share * len(order))]
            found = whole
            if len(lost) and restored.couples_samples:
                found = _probability(restored, source.hiding(modality, lost))
            elif len(lost):
                # A sample has the same prediction whoever else lost something: one pass serves all shares.
                bare = _probability(restored, source.hiding(modality, order)) if bare is None else bare
                found = whole.copy()
                found[lost] = bare[lost]
            yield Hidden(task, modality, share, len(order), len(lost), found)


def _probability(restored: Restored, source: BatchSource) -> np.ndarray:
    return predict(restored.model, source, restored.couples_samples, restored.batch_size).probability
