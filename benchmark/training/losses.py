"""The prediction loss of each kind of task, and the total loss of a batch."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmark.data.batches import Labels
from models.contract import Output


def sample_losses(kind: str, logits: Tensor, y: Tensor, known: Tensor) -> Tensor:
    """Loss of each sample, summed over its known labels: logits (n, C) -> (n,)."""
    logits = logits.float()
    if kind == "multiclass":
        return F.cross_entropy(logits, y, reduction="none") * known
    losses = F.binary_cross_entropy_with_logits(logits, y.to(logits.dtype), reduction="none")
    return (losses * known).sum(1)


def prediction_loss(kind: str, output: Output, labels: Labels) -> Tensor:
    """Mean loss over the known label entries of the batch, pooled; 0 if there is none.

    A sample with more known labels weighs more. Where the model trains several read-outs, their weighted sum replaces
    the loss of the final logits, each read-out over the same denominator, so that rows missing from a read-out count
    as zero.
    """
    entries = labels.known.sum().clamp(min=1)
    if not output.readouts:
        return sample_losses(kind, output.logits, labels.y, labels.known).sum() / entries
    total = torch.zeros((), device=output.logits.device)
    for readout in output.readouts:
        y, known = labels.y.index_select(0, readout.rows), labels.known.index_select(0, readout.rows)
        total = total + (readout.weight * sample_losses(kind, readout.logits, y, known)).sum()
    return total / entries


def total_loss(
    kind: str, output: Output, labels: Labels, aux_weights: Mapping[str, float], task_weight: float
) -> Tensor:
    """task_weight * (prediction loss + sum of weighted auxiliary losses)."""
    loss = prediction_loss(kind, output, labels)
    for name, value in output.aux.items():
        loss = loss + aux_weights[name] * value
    return task_weight * loss
