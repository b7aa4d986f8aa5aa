"""Builds baselines for tests: small, float64, eval mode, no parameter left at a value that hides a mistake."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from random_batches import SMALL, randomise
from torch import nn

from models.contract import Head, ModelEntry


@pytest.fixture
def build() -> Callable[..., nn.Module]:
    def build(entry: ModelEntry, *, primary: str = "ehr", layers: int = SMALL.layers, **options: Any) -> nn.Module:
        torch.manual_seed(0)
        dimensions = dataclasses.replace(SMALL, layers=layers)
        model = entry.build(dimensions, [Head(3, "multilabel", primary)], entry.config(**options))
        if all(parameter.numel() for parameter in model.parameters()):
            randomise(model)
        return model.double().eval()

    return build
