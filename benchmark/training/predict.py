"""Predictions of a trained model on a whole partition, and their metrics."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from benchmark.data.batches import BatchSource, Labels
from benchmark.evaluation.metrics import compute
from benchmark.random import stream
from benchmark.training.losses import prediction_loss
from benchmark.training.portions import free_unused, more_parts, out_of_memory
from models.contract import Output
from models.parts import in_parts, spans_of

EVALUATION_BATCH = 256
"""Samples an evaluation batch, usually; their number has no influence on predictions beyond rounding."""

LARGEST_BATCH = 2048
"""On a GPU a packed batch takes as long as its some hundred operations take to be launched until there is enough to
compute: on the largest ones, at the paper's size, about this many samples."""

BYTES_A_SAMPLE = 8 * 2**20
"""What a sample of the paper's size takes at most, several times what it takes on average."""

CACHED = (8192, 32)
"""On a CPU samples times width of an evaluation batch, and its least number of samples: at width 128, 32 or 64 samples
at a time take a tenth to a third less time than 256, since what a layer leaves to the next one stays in the cache."""


@dataclass(frozen=True)
class Predictions:
    """Predictions of one task and partition, in the partition's order.

    Attributes:
        probability: (n, C) float32. logits: (n, C) float32.
        diagnostics: the model's scalar diagnostics, each averaged over the batches.
    """

    logits: np.ndarray
    probability: np.ndarray
    diagnostics: dict[str, float] = field(default_factory=dict)


def predict(
    model: nn.Module, source: BatchSource, couples_samples: bool, batch_size: int, permutation: int = 0
) -> Predictions:
    """Predicts all samples of a source in eval mode.

    Where the output of a sample depends on its batch mates, the batches are part of the prediction: one fixed
    pseudo-random permutation of the partition is cut into chunks of exactly `batch_size`, the last one filled from
    the start, and the fillers' predictions are dropped. A partition smaller than `batch_size` is one chunk, unfilled:
    no sample is its own batch mate.

    A batch that does not fit into memory is computed in parts; where samples meet, as `models/parts.py` does it.

    Raises:
        UserError: memory does not suffice for parts of one sample.
    """
    model.eval()
    if couples_samples:
        chunks = _coupled_chunks(len(source), batch_size, permutation)
    else:
        chunks = _plain_chunks(len(source), evaluation_batch(source.device, source.dimensions.width))
    parts, pieces = 1, []
    scalars: dict[str, list[Tensor]] = defaultdict(list)
    with torch.inference_mode():
        for chosen, fresh in chunks:
            outputs, parts = _outputs(model, source, chosen, couples_samples, parts)
            pieces.append(torch.cat([output.logits for output in outputs])[:fresh].float())
            for name, value in ((n, v) for output in outputs for n, v in output.diagnostics.items()):
                if not value.dim():
                    scalars[name].append(value)
        # Read once: a GPU goes on while the next batches are brought.
        found = torch.cat(pieces).cpu().numpy()
        diagnostics = {name: float(np.mean(torch.stack(values).tolist())) for name, values in scalars.items()}
    logits = np.empty_like(found)
    logits[np.concatenate([chosen[:fresh] for chosen, fresh in chunks])] = found
    return predictions_of(source.task.task.kind, logits, diagnostics)


def _outputs(
    model: nn.Module, source: BatchSource, chosen: np.ndarray, couples_samples: bool, parts: int
) -> tuple[list[Output], int]:
    """Outputs of a batch in at least so many parts, and in how many they are."""
    while True:
        try:
            if couples_samples:
                with in_parts(parts):
                    return [model(source.batch(chosen).inputs)], parts
            return [model(source.batch(chosen[a:b]).inputs) for a, b in spans_of(len(chosen), parts)], parts
        except (RuntimeError, MemoryError) as fault:
            if not out_of_memory(fault):
                raise
            parts = more_parts(parts, len(chosen), source.device, "with the same predictions")
        free_unused(source.device)


def predictions_of(kind: str, logits: np.ndarray, diagnostics: dict[str, float] | None = None) -> Predictions:
    """Predictions from the logits (n, C) of a task of this kind."""
    values = torch.from_numpy(logits)
    probability = values.softmax(1) if kind == "multiclass" else values.sigmoid()
    return Predictions(logits, probability.numpy(), diagnostics or {})


def evaluation_batch(device: torch.device, width: int) -> int:
    """Samples an evaluation batch where samples do not couple, for a model of this width.

    On a GPU as many as are useful and go into a quarter of its memory, whatever else lies there now, so that they are
    the same in every run; a batch that does not fit after all is computed in parts.
    """
    if device.type != "cuda":
        numbers, least = CACHED
        return min(max(numbers // width, least), EVALUATION_BATCH)
    memory = torch.cuda.get_device_properties(device).total_memory
    return min(max(memory // 4 // BYTES_A_SAMPLE, EVALUATION_BATCH), LARGEST_BATCH)


def _plain_chunks(n: int, size: int) -> list[tuple[np.ndarray, int]]:
    return [(part, len(part)) for part in np.split(np.arange(n), range(size, n, size))]


def _coupled_chunks(n: int, batch_size: int, permutation: int) -> list[tuple[np.ndarray, int]]:
    order = stream(permutation, "evaluation order").permutation(n)
    if n <= batch_size:
        return [(order, n)]
    filled = np.concatenate([order, np.resize(order, -n % batch_size)]) if n % batch_size else order
    chunks = filled.reshape(-1, batch_size)
    return [(chunk, min(batch_size, n - k * batch_size)) for k, chunk in enumerate(chunks)]


def score(source: BatchSource, predictions: Predictions, names: tuple[str, ...] | None = None) -> dict[str, float]:
    """Metrics of predictions: the task's own, or those named."""
    labels = source.labels(np.arange(len(source)))
    task = source.task.task
    return compute(
        names or task.metrics,
        task.kind,
        source.task.classes,
        labels.y.cpu().numpy(),
        labels.known.cpu().numpy(),
        predictions.probability,
    )


def partition_loss(source: BatchSource, predictions: Predictions) -> float:
    """Prediction loss over a whole partition, of the final logits, unweighted and without auxiliary terms."""
    labels = source.labels(np.arange(len(source)))
    on_host = Labels(labels.y.cpu(), labels.known.cpu())
    return float(prediction_loss(source.task.task.kind, Output(torch.from_numpy(predictions.logits)), on_host))
