"""From stores to batches: gathers the samples of a batch, present modalities only, packed."""

from __future__ import annotations

from collections.abc import Iterator
from copy import copy
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from benchmark.data.augmentation import AUGMENTATIONS, DRAWS, augment, crop
from benchmark.data.dataset import PreparedData, Samples, TaskData
from benchmark.data.redraw import Redraw
from benchmark.data.shrunk import shrunk_films
from benchmark.data.stores import RaggedStore
from benchmark.errors import UserError
from benchmark.random import stream
from models.contract import MODALITIES, Batch, Dimensions, Films, Layout, Packed
from models.layout import on_device


@dataclass(frozen=True)
class Labels:
    """What a batch is scored against; models never see it.

    Attributes:
        y: (B, C) float for binary and multilabel tasks, (B,) int64 for multiclass; 0 where masked.
        known: y's shape, bool, False where the label is masked.
    """

    y: Tensor
    known: Tensor


@dataclass(frozen=True)
class LabelledBatch:
    inputs: Batch
    labels: Labels


class BatchSource:
    """Batches of one task and partition.

    Args:
        data, task, partition: what to read. encoder: key of the note encoder, None if the data set has no notes.
        dimensions: lengths and film side that the models were built for.
        head: position of the task among the model's heads. device: where batches go.
        augmentation: name in `AUGMENTATIONS`; applied by `epoch` only.
        redraw: draws the hours of samples anew for each epoch; None: they stay as they are.
        note_dropout: number of draws of the note encoder's dropout that the epochs read in turn, used by `epoch` only;
            0: without dropout.
    """

    def __init__(
        self,
        data: PreparedData,
        task: TaskData,
        partition: str,
        dimensions: Dimensions,
        encoder: str | None,
        head: int,
        device: torch.device,
        augmentation: str = "none",
        redraw: Redraw | None = None,
        note_dropout: int = 0,
    ) -> None:
        self.samples: Samples = task.partitions[partition]
        self.stored = self.samples
        self.redraw = redraw
        self.task, self.head, self.device, self.dimensions = task, head, device, dimensions
        self.settings = AUGMENTATIONS[augmentation]
        self.data = data
        self.encoder, self.note_dropout = encoder, note_dropout if encoder else 0
        self.notes: RaggedStore | None = data.notes(encoder) if encoder else None
        self.hidden = np.zeros((len(self.samples), len(MODALITIES)), dtype=bool)
        self.present = self.presence(self.samples)  # (n, M)
        self._require_content()

    def __len__(self) -> int:
        return len(self.samples)

    def hiding(self, modality: str, chosen: np.ndarray) -> BatchSource:
        """The same samples, those at positions `chosen` without `modality`, as if they had never had it.

        Raises:
            ValueError: one of them has no other modality.
        """
        other = copy(self)
        other.hidden = self.hidden.copy()
        other.hidden[chosen, MODALITIES.index(modality)] = True
        other.present = other.presence(other.samples)
        other._require_content()
        return other

    def undrawn(self) -> BatchSource:
        """The same samples with their hours as stored, whatever the last epoch has drawn."""
        other = copy(self)
        other.samples = self.stored
        other.present = other.presence(other.samples)
        return other

    def epoch(self, seed: int, number: int, batch_size: int) -> Iterator[LabelledBatch]:
        """Shuffled training batches of one epoch; order and augmentation depend on (seed, task, epoch, sample) alone,
        the noise of notes on (epoch, text) alone: it is the same for all seeds.

        The last partial batch is left out, as the authors do, unless it is the only one, and so is a batch without any
        known label, from which there is nothing to learn.

        Raises:
            UserError: no training sample has a known label.
        """
        self.require_labels()
        self.samples = self.drawn(seed, number)
        self.present = self.presence(self.samples)
        order, draws = self.order(seed, number), self.draws(seed, number)
        note_draw = self.note_draw(number)
        notes = None if note_draw is None else self.data.notes(self.encoder, note_draw)
        for start in range(0, self.samples_an_epoch(batch_size), batch_size):
            chosen = order[start : start + batch_size]
            if np.isfinite(self.samples.labels[chosen]).any():
                yield self.batch(chosen, draws, notes)

    def drawn(self, seed: int, number: int) -> Samples:
        """The samples in an epoch, their hours drawn anew if they are to be."""
        return self.samples if self.redraw is None else self.redraw(self.samples, seed, number)

    def order(self, seed: int, number: int) -> np.ndarray:
        """(n,) the samples' positions in the order of an epoch."""
        return stream(seed, "order", self.task.task.name, number).permutation(len(self))

    def draws(self, seed: int, number: int) -> np.ndarray | None:
        """(n, DRAWS) uniform numbers of each sample's film in an epoch; None without augmentation."""
        if self.settings is None:
            return None
        return stream(seed, "augmentation", self.task.task.name, number).random((len(self), DRAWS))

    def note_draw(self, number: int) -> int | None:
        """Which draw of the note encoder's dropout an epoch reads; None: the embeddings without dropout."""
        return (number - 1) % self.note_dropout if self.note_dropout else None

    def require_labels(self) -> None:
        """Raises a UserError if no sample has a known label."""
        if not np.isfinite(self.samples.labels).any():
            raise UserError(f"task {self.task.task.name} of {self.data.name}: no training sample has a known label")

    def samples_an_epoch(self, batch_size: int) -> int:
        """Number of samples in the batches of `epoch`."""
        return len(self) // batch_size * batch_size or len(self)

    def batch(
        self, chosen: np.ndarray, draws: np.ndarray | None = None, notes: RaggedStore | None = None
    ) -> LabelledBatch:
        """The samples at positions `chosen` of the partition.

        Args:
            draws: (n, DRAWS), switches augmentation on. notes: embeddings of texts that are read instead of the usual.
        """
        present = self.present[chosen]
        inputs = Batch(
            ehr=self._series(chosen, np.flatnonzero(present[:, 0])),
            cxr=self._films(chosen, np.flatnonzero(present[:, 1]), draws),
            note=self._notes(chosen, np.flatnonzero(present[:, 2]), self.notes if notes is None else notes),
            present=on_device(present, self.device),
            task=self.head,
            sample=on_device(self.samples.sample[chosen], self.device),
        )
        return LabelledBatch(inputs, self.labels(chosen))

    def labels(self, chosen: np.ndarray) -> Labels:
        y, known = self.targets(self.samples.labels[chosen])
        return Labels(on_device(y, self.device), on_device(known, self.device))

    def targets(self, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(..., C) labels as samples have them -> `y` and `known` as `Labels` has them."""
        known = ~np.isnan(labels)
        y = np.where(known, labels, 0.0)
        if self.task.task.kind == "multiclass":
            y, known = y[..., 0].astype(np.int64), known[..., 0]
        return y, known

    def presence(self, samples: Samples) -> np.ndarray:
        """(n, M) bool, which modalities the samples own. `samples` are this source's, perhaps at other hours."""
        note = samples.note >= 0
        if self.notes is None:
            note = np.zeros(len(samples), bool)
        else:
            note &= self.notes.lengths[np.maximum(samples.note, 0)] > 0 if len(self.notes.lengths) else False
        series = (samples.series >= 0) & (samples.hours > 0)
        return np.stack([series, samples.film >= 0, note], axis=1) & ~self.hidden

    def _require_content(self) -> None:
        if not self.present.any(1).all():
            orphan = self.samples.sample[~self.present.any(1)][0]
            raise ValueError(f"task {self.task.task.name}: sample {orphan} has none of the three modalities")

    def _series(self, chosen: np.ndarray, rows: np.ndarray) -> Packed | None:
        if not len(rows):
            return None
        picked = chosen[rows]
        stops = self.samples.hours[picked].astype(np.int64)
        starts = np.maximum(stops - self.dimensions.hours, 0)  # the last hours are kept; position 0 is then not hour 0
        values, lengths = self.data.series.gather(self.samples.series[picked], starts, stops)
        tails = self.samples.tail[picked]
        cut = tails >= 0
        if cut.any():
            values[np.cumsum(lengths)[cut] - 1] = self.data.tails[tails[cut]]
        return self._packed(values, lengths, rows)

    def _notes(self, chosen: np.ndarray, rows: np.ndarray, store: RaggedStore | None) -> Packed | None:
        if not len(rows):
            return None
        picked = self.samples.note[chosen[rows]]
        stops = np.minimum(self.notes.lengths[picked], self.dimensions.note_tokens)
        values, lengths = store.gather(picked, np.zeros_like(stops), stops)
        return self._packed(values, lengths, rows)

    def _films(self, chosen: np.ndarray, rows: np.ndarray, draws: np.ndarray | None) -> Films | None:
        if not len(rows):
            return None
        picked, side = chosen[rows], self.dimensions.film
        films = self.samples.film[picked]
        unaltered = draws is None or self.settings is None
        if unaltered and self.device.type == "cpu" and (shrunk := shrunk_films(self.data.films_file, side)):
            return Films(shrunk.take(films), tuple(rows.tolist()))
        stored = on_device(self.data.films[films], self.device)
        pixels = crop(stored, side) if unaltered else augment(stored, side, self.settings, draws[picked])
        return Films(pixels, tuple(rows.tolist()))

    def _packed(self, values: np.ndarray, lengths: np.ndarray, rows: np.ndarray) -> Packed:
        tokens = on_device(values, self.device).to(torch.float32)
        return Packed(tokens, Layout(tuple(lengths.tolist()), tuple(rows.tolist())))
