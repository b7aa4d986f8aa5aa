"""What tests of M3Care share: batches, thresholds, and the graph as a model computes it within a batch."""

from __future__ import annotations

import torch

from models.contract import MODALITIES

MIXED = ("ehr+cxr+note", "ehr", "ehr+cxr", "ehr+note", "ehr+cxr+note", "ehr", "cxr+note", "note")
FULL = ("ehr+cxr+note",) * 5
EVERYONE, NOBODY = -4.0, 13.0
"""Threshold logits at which nearly every pair is connected, and at which no two different samples are."""


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def imputed(model, batch, modality):
    """h' (B, D) of one modality as the model computes it within `batch`."""
    seen = []
    handle = model.imputations[MODALITIES.index(modality)].register_forward_hook(lambda *call: seen.append(call[2]))
    model(batch)
    handle.remove()
    return seen[0]


def graph(model, batch):
    """S (B, B) as the model computes it, and the vectors (B, D) of each modality, None where nobody owns it."""
    vectors, _ = model.encode(batch)
    return model.similarity(vectors, batch.present)[0], vectors
