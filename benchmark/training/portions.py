"""Batches that do not fit into memory, computed in parts.

How depends on the model (`ModelEntry.divisible`). Where samples do not meet in training, loss and gradient of a batch
are the sums of its samples' shares, so that gradients of parts are added up. Where they do meet, as in FlexCare's
balance of experts and M3Care's graph, the model computes its large stages part by part, and twice
(`models/parts.py`). Either way the step is that of the whole batch, up to rounding and to which random numbers fall on
which sample (dropout is drawn part by part). Other models stop.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from benchmark.data.batches import LabelledBatch, Labels
from benchmark.errors import UserError
from benchmark.training.losses import prediction_loss, total_loss
from models.contract import Divisible, Output
from models.parts import in_parts, of_samples, spans_of

_SIGNS = (
    *("can't allocate memory", "not enough memory"),  # on the CPU
    *("CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED"),  # of CUDA's own needs
)
"""What torch says where running out of memory has no type of its own: only its own allocator on a GPU has one."""


@dataclass
class Portions:
    """Computes the gradients of batches, in as many parts as memory asks for.

    Attributes:
        divisible: how the model allows parts, as in `ModelEntry`. half: models run under autocast to bfloat16.
        parts: of each batch; doubled whenever memory does not suffice, and kept from then on.
    """

    divisible: Divisible
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
        buffers = list(model.buffers())
        before = [buffer.clone() for buffer in buffers]  # running statistics count a batch once, however often tried
        while True:
            model.zero_grad(set_to_none=True)
            try:
                return self._sum(model, kind, batch, aux_weights, task_weight)
            except (RuntimeError, MemoryError) as fault:
                if not out_of_memory(fault):
                    raise
                self._cut(batch.inputs.size, batch.inputs.device)
            for buffer, value in zip(buffers, before, strict=True):
                buffer.copy_(value)
            free_unused(batch.inputs.device)  # here, where no traceback holds tensors any more

    def _sum(
        self,
        model: nn.Module,
        kind: str,
        batch: LabelledBatch,
        aux_weights: Mapping[str, float],
        task_weight: float,
    ) -> Tensor:
        if self.parts == 1 or self.divisible == "stages":
            with in_parts(self.parts):
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
        if self.divisible == "no":
            raise UserError(
                f"{_where(size, device)}; this model does not say how a batch of it is computed in parts (`divisible` "
                "of its entry): lower training.batch_size or the dimensions of the protocol"
            )
        self.parts = more_parts(self.parts, size, device, "with the same step")


def more_parts(parts: int, size: int, device: torch.device, promise: str) -> int:
    """Twice as many parts of a batch of `size` samples, for which memory did not suffice in `parts`; says so.

    Raises:
        UserError: they are single samples already.
    """
    where = _where(size, device)
    if parts >= size:
        raise UserError(f"{where}, one sample at a time; lower the dimensions of the protocol, or use the CPU")
    parts = min(2 * parts, size)
    warnings.warn(f"{where}; batches are computed in {parts} parts, {promise}", stacklevel=3)
    return parts


def _where(size: int, device: torch.device) -> str:
    return f"out of memory on {device.type} with a batch of {size} samples"


def free_unused(device: torch.device) -> None:
    """Gives back what a failed attempt leaves in the allocator of a GPU."""
    if device.type == "cuda":
        torch.cuda.empty_cache()


def out_of_memory(fault: Exception) -> bool:
    """Whether memory did not suffice, on the GPU or the CPU."""
    known = isinstance(fault, torch.OutOfMemoryError | MemoryError)
    return known or any(sign in str(fault) for sign in _SIGNS)


def cut(batch: LabelledBatch, parts: int) -> Iterator[LabelledBatch]:
    """The batch in `parts` pieces of nearly equal size, in its order."""
    for start, stop in spans_of(batch.inputs.size, parts):
        labels = Labels(batch.labels.y[start:stop], batch.labels.known[start:stop])
        yield LabelledBatch(of_samples(batch.inputs, start, stop), labels)
