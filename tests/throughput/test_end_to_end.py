"""Files of a whole step, where batches are made on another device."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from benchmark.data.batches import LabelledBatch, Labels
from benchmark.registry import models
from benchmark.throughput.end_to_end import _Files
from benchmark.throughput.forms import Subject
from benchmark.throughput.mixes import mixes
from models.contract import Dimensions

SIZES = Dimensions(width=8, layers=1, hours=6, note_features=4, note_tokens=5, film=32, patch=16)


class Elsewhere(Tensor):
    """Like a tensor of a GPU it has no numbers for numpy."""

    def numpy(self) -> None:
        raise TypeError("can't convert a tensor of another device to numpy; use Tensor.cpu()")

    def cpu(self) -> Tensor:
        return self.as_subclass(Tensor)


class Far(Subject):
    def batch(self, size: int, number: int) -> LabelledBatch:
        near = super().batch(size, number)
        return LabelledBatch(
            near.inputs, Labels(near.labels.y.as_subclass(Elsewhere), near.labels.known.as_subclass(Elsewhere))
        )


def test_labels_are_stored_from_any_device(tmp_path: Path) -> None:
    files = _Files(tmp_path, Far(models()["mmf"], mixes(["ihm"])["ihm"], SIZES, torch.device("cpu")), 3, 1)
    files.write(50)
    stored = pd.read_parquet(tmp_path / "samples" / "ihm.parquet")
    assert stored["y0"].tolist() == files.y.flatten().tolist()
