"""The training samples that a model compares its predictions with, if it wants any (`models.contract.Supported`)."""

from __future__ import annotations

import numpy as np
from torch import nn

from benchmark.data.batches import BatchSource
from benchmark.random import stream
from models.contract import Supported


def give_support(model: nn.Module, source: BatchSource, seed: int) -> None:
    """Gives a single-task model its support set; the same samples whenever the seed is the same."""
    if isinstance(model, Supported) and model.support_samples:
        draw, source = stream(seed, "support", source.task.task.name), source.undrawn()
        chosen = stratified(source.present, model.support_samples, draw)
        model.eval()
        model.remember(source.batch(chosen).inputs)


def stratified(present: np.ndarray, count: int, draw: np.random.Generator) -> np.ndarray:
    """`count` of n samples, or all if there are fewer, each presence pattern with its share.

    Args:
        present: (n, M) bool.

    >>> present = np.array([[True, False]] * 6 + [[True, True]] * 3)
    >>> chosen = stratified(present, 3, np.random.default_rng(0))
    >>> present[chosen].tolist()
    [[True, False], [True, False], [True, True]]
    """
    patterns, group = np.unique(present, axis=0, return_inverse=True)
    order = draw.permutation(len(present))
    # Each group's samples in random order, spread evenly over the unit interval; the first `count` places win.
    place = np.empty(len(present))
    for number in range(len(patterns)):
        members = order[group[order] == number]
        place[members] = (np.arange(len(members)) + 0.5) / len(members)
    return np.sort(np.argsort(place, kind="stable")[:count])
