"""Models that are fitted in one go, without gradient steps: the stages of the fit take the place of epochs."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import torch
from torch import nn

from benchmark.data.batches import BatchSource, LabelledBatch
from benchmark.random import stream_seed
from benchmark.training.loop import EpochReport, Fitted, Schedule, epoch_score
from benchmark.training.predict import EVALUATION_BATCH, partition_loss, predictions_of, score


def fit_in_one_go(
    model: nn.Module,
    training: Mapping[str, BatchSource],
    validation: Mapping[str, BatchSource],
    schedule: Schedule,
    notify: Callable[[EpochReport], None],
) -> Fitted:
    """Fits a single-task `models.contract.Estimator` on all training samples and keeps its best stages.

    Every stage is scored on the validation samples, and the model is cut back to the best one, by the rule that chooses
    the epoch of other models. Of the schedule the seed alone has a meaning here.
    """
    ((task, train),) = training.items()
    val = validation[task]
    started = time.perf_counter()
    labelled = ((batch.inputs, batch.labels.y, batch.labels.known) for batch in _batches(train))
    model.fit(labelled, stream_seed(schedule.seed, "fit", task))
    stages = [model.stages(batch.inputs for batch in _batches(source)) for source in (train, val)]
    best_score, best_stage, selected_by, history = -math.inf, 0, "", []
    for stage, logits in enumerate(zip(*stages, strict=True), 1):
        on_train, on_val = (predictions_of(train.task.task.kind, part.numpy()) for part in logits)
        losses = partition_loss(train, on_train), partition_loss(val, on_val)
        metrics = score(val, on_val, val.task.task.metrics[:2])
        total, selected_by = epoch_score(list(metrics.values()), [losses[1]])
        if total > best_score:
            best_score, best_stage = total, stage
        row = {"epoch": stage, "task": task, "train_loss": losses[0], "val_loss": losses[1], "samples": len(train)}
        history.append(row | {f"val_{name}": value for name, value in metrics.items()})
    seconds = (time.perf_counter() - started) / len(history)
    for row in history:
        row["seconds"] = seconds
    last = history[-1]
    notify(EpochReport(stage, stage, task, last["train_loss"], last["val_loss"], seconds * stage, metrics))
    model.keep(best_stage)
    state = {name: value.detach().clone() for name, value in model.state_dict().items()}
    return Fitted(state, best_stage, selected_by, history)


def _batches(source: BatchSource) -> Iterator[LabelledBatch]:
    """All samples in the partition's order, without augmentation."""
    for part in np.split(np.arange(len(source)), range(EVALUATION_BATCH, len(source), EVALUATION_BATCH)):
        with torch.inference_mode():
            batch = source.batch(part)
        yield batch
