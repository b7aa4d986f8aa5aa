"""What can go wrong while a model is trained."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from benchmark.errors import UserError

if TYPE_CHECKING:
    from benchmark.data.batches import BatchSource


class Diverged(UserError):
    """A loss became infinite or not a number.

    Attributes:
        samples: numbers, in the prepared data set, of the samples of the batch; empty where there was no batch.
    """

    def __init__(self, message: str, samples: Sequence[int] = ()) -> None:
        super().__init__(message)
        self.samples = tuple(samples)


def broken_inputs(source: BatchSource, samples: Sequence[int]) -> list[str]:
    """Modalities with values that are not finite among the stored inputs of samples, given by their numbers."""
    chosen = np.flatnonzero(np.isin(source.samples.sample, samples))
    inputs = source.batch(chosen).inputs
    stored = {"ehr": inputs.ehr and inputs.ehr.values, "note": inputs.note and inputs.note.values}
    return [name for name, values in stored.items() if values is not None and not torch.isfinite(values).all()]
