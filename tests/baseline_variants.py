"""Baselines with each of their options, for tests of all of them."""

from __future__ import annotations

import torch
from random_batches import BINARY, SMALL, make_batch, randomise

from baselines import ENTRIES

BY_NAME = {entry.name: entry for entry in ENTRIES}
MIXED = ("ehr+cxr+note", "ehr", "ehr+cxr", "ehr+note", "ehr+cxr+note", "ehr")
VARIANTS = [
    ("medfuse", {"series_layers": 1}),
    ("medfuse", {"pool": "mean"}),
    ("medfuse", {"order": "fixed"}),
    ("medfuse", {"pretrain_epochs": 1}),
    ("mt", {"fusion_start": 2}),
    ("mt", {"subset_tasks": "all"}),
    ("mt", {"subset_tasks": "one", "fusion_start": 1}),
    ("mt", {"encoder_layer": "original", "fusion_start": 1}),
    ("m3care", {"donor_mask": "pairwise"}),
    ("m3care", {"evaluation": "bank", "support_samples": 8}),
    ("m3care", {"form": "ov", "mixing": -0.3}),
    ("m3care", {"batch_norm": "shared"}),
    ("m3care", {"depth": "one"}),
    ("m3care", {"encoder_layer": "original"}),
    ("m3care", {"encoder_layer": "original", "evaluation": "bank", "support_samples": 8}),
    ("mmf", {"bottlenecks": 1}),
    ("mmf", {"bottlenecks": 0}),
    ("mmf", {"fusion_start": 1}),
    ("mmf", {"readout": "primary"}),
    ("mmf", {"readout": "learned"}),
    ("mmf", {"readout": "logit_mean", "classifier": "mlp"}),
    ("mmf", {"encoder_layer": "original"}),
    ("multimodn", {"order": ("note", "cxr", "ehr")}),
    ("multimodn", {"norm": "executed"}),
    ("multimodn", {"state_penalty": 1.0}),
    ("multimodn", {"state_as_token": True}),
]


def name_of(name, options):
    return f"{name}-{'-'.join(f'{k}={v}' for k, v in options.items())}"


def build_variant(name, options, head=BINARY, dims=SMALL):
    torch.manual_seed(0)
    model = BY_NAME[name].build(dims, [head], BY_NAME[name].config(**options))
    model = model if options.get("bottlenecks") == 0 else randomise(model)
    model = model.double()
    if getattr(model, "support_samples", 0):
        model.eval().remember(make_batch(MIXED, seed=3)[0])
    return model
