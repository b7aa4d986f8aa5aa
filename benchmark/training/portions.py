"""Batches that do not fit into memory, computed in parts whose gradients are added up.

For a model whose samples do not meet in training (`ModelEntry.divisible`), loss and gradient of a batch are the sums of
its samples' shares, so that parts give the same step, up to rounding and to which random numbers fall on which sample
(dropout is drawn part by part). A term over all samples of a batch jointly, such as FlexCare's balance of experts, has
no such shares; such models stop.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor, nn

from benchmark.data.batches import LabelledBatch, Labels
from benchmark.errors import UserError
from benchmark.training.losses import prediction_loss, total_loss
from models.contract import Batch, Films, Layout, Output, Packed

_CPU_SIGNS = ("can't allocate memory", "not enough memory")
"""What torch says on the CPU, where running out of memory has no type of its own."""


@dataclass
class Portions:
    """Computes the gradients of batches, in as many parts as memory asks for.

    Attributes:
        divisible: whether the model allows parts. half: models run under autocast to bfloat16.
        parts: of each batch; doubled whenever memory does not suffice, and kept from then on.
    """

    divisible: bool
    parts: int = 1
    half: bool = False

    def backward(
        self,
        model: nn.Module,
        kind: str,
        batch: LabelledBatch,
        aux_weights: Mapping[str, float],
        task_weight: float,
    ) -> Tensor:
        """Leaves the gradient of the batch's total loss in the parameters, whatever was there before; gives the loss.

        Raises:
            UserError: memory does not suffice, and the batch cannot be cut further.
        """
        while True:
            model.zero_grad(set_to_none=True)
            try:
                return self._sum(model, kind, batch, aux_weights, task_weight)
            except (RuntimeError, MemoryError) as fault:
                if not out_of_memory(fault):
                    raise
                self._cut(batch.inputs.size, batch.inputs.device)
            if batch.inputs.device.type == "cuda":  # here, where no traceback holds tensors any more
                torch.cuda.empty_cache()

    def _sum(
        self,
        model: nn.Module,
        kind: str,
        batch: LabelledBatch,
        aux_weights: Mapping[str, float],
        task_weight: float,
    ) -> Tensor:
        if self.parts == 1:
            loss = total_loss(kind, self._output(model, batch), batch.labels, aux_weights, task_weight)
            loss.backward()
            return loss.detach()
        entries, total = batch.labels.known.sum().clamp(min=1), 0.0
        for part in cut(batch, self.parts):
            output = self._output(model, part)
            loss = prediction_loss(kind, output, part.labels) * (part.labels.known.sum() / entries)
            for name, value in output.aux.items():
                loss = loss + aux_weights[name] * value * (part.inputs.size / batch.inputs.size)
            loss = task_weight * loss
            loss.backward()
            total = total + loss.detach()
        return total

    def _output(self, model: nn.Module, batch: LabelledBatch) -> Output:
        with torch.autocast(batch.inputs.device.type, torch.bfloat16, enabled=self.half):
            return model(batch.inputs)

    def _cut(self, size: int, device: torch.device) -> None:
        where = f"out of memory on {device.type} with a batch of {size} samples"
        if not self.divisible:
            raise UserError(
                f"{where}; the samples of a batch meet in the training of this model, so that it cannot be computed in "
                "parts: lower training.batch_size or the dimensions of the protocol"
            )
        if self.parts >= size:
            raise UserError(f"{where}, one sample at a time; lower the dimensions of the protocol, or use the CPU")
        self.parts = min(2 * self.parts, size)
        warnings.warn(f"{where}; batches are computed in {self.parts} parts, with the same step", stacklevel=2)


def out_of_memory(fault: Exception) -> bool:
    """Whether memory did not suffice, on the GPU or the CPU."""
    known = isinstance(fault, torch.OutOfMemoryError | MemoryError)
    return known or any(sign in str(fault) for sign in _CPU_SIGNS)


def cut(batch: LabelledBatch, parts: int) -> Iterator[LabelledBatch]:
    """The batch in `parts` pieces of nearly equal size, in its order."""
    size = batch.inputs.size
    bounds = [size * part // parts for part in range(parts + 1)]
    for start, stop in pairwise(bounds):
        if stop > start:
            rows = slice(start, stop)
            labels = Labels(batch.labels.y[rows], batch.labels.known[rows])
            yield LabelledBatch(_inputs(batch.inputs, start, stop), labels)


def _inputs(batch: Batch, start: int, stop: int) -> Batch:
    return replace(
        batch,
        ehr=_sequences(batch.ehr, start, stop),
        cxr=_films(batch.cxr, start, stop),
        note=_sequences(batch.note, start, stop),
        present=batch.present[start:stop],
        sample=batch.sample[start:stop],
    )


def _own(rows: tuple[int, ...], start: int, stop: int) -> slice:
    """Places of the rows from `start` to `stop`; batches list rows in ascending order."""
    places = [place for place, row in enumerate(rows) if start <= row < stop]
    return slice(places[0], places[-1] + 1) if places else slice(0, 0)


def _sequences(packed: Packed | None, start: int, stop: int) -> Packed | None:
    if packed is None:
        return None
    own = _own(packed.layout.rows, start, stop)
    lengths = packed.layout.lengths[own]
    if not lengths:
        return None
    first = packed.layout.offsets[own.start]
    values = packed.values[first : first + sum(lengths)]
    return Packed(values, Layout(lengths, tuple(row - start for row in packed.layout.rows[own])))


def _films(films: Films | None, start: int, stop: int) -> Films | None:
    if films is None:
        return None
    own = _own(films.rows, start, stop)
    if own.start == own.stop:
        return None
    return Films(films.pixels[own], tuple(row - start for row in films.rows[own]))
