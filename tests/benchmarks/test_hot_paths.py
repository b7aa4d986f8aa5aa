"""The hot paths, each as one piece of work. `make benchmarks` times them; other runs of the tests do them once.

make benchmarks; git switch other; make benchmarks; .venv/bin/pytest-benchmark compare
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from prepared_data import ENCODER, NOTE_WIDTH, write_prepared

from benchmark import registry
from benchmark.data.batches import BatchSource
from benchmark.data.channels import CHANNELS, NORMAL_VALUES
from benchmark.data.dataset import PreparedData
from benchmark.data.discretiser import StayEvents, discretise_stays
from benchmark.evaluation.metrics import auprc, auroc
from benchmark.evaluation.resampling import AREAS, areas, patient_weights
from benchmark.throughput.forms import Subject, make_runner
from benchmark.throughput.mixes import mixes
from models.contract import Dimensions
from models.embeddings import UnimodalEmbeddings
from models.encoder import CombinationEncoder
from models.mixture_of_experts import MixtureOfExperts

SIZES = Dimensions(width=32, layers=2, heads=2, hours=96, note_tokens=64, film=96, patch=16, note_features=64)
CPU, SAMPLES, SEEDS = torch.device("cpu"), 16, 2


def subject(model: str = "flexcare", task: str = "phe") -> Subject:
    return Subject(registry.get(model), mixes([task])[task], SIZES, CPU)


def test_encoder_forward_and_backward(benchmark) -> None:
    batch = subject().batch(SAMPLES, 0).inputs
    embeddings = UnimodalEmbeddings(SIZES)
    encoder = CombinationEncoder(SIZES.width, SIZES.layers, SIZES.heads, 0.1)
    readers = torch.randn(SAMPLES, encoder.mask.specials, SIZES.width, requires_grad=True)

    def work() -> torch.Tensor:
        readers.grad = None
        encoder(readers, embeddings(batch), batch.present).square().sum().backward()
        return readers.grad

    assert benchmark(work).abs().sum() > 0


def test_experts_forward_and_backward(benchmark) -> None:
    experts = MixtureOfExperts(SIZES.width, 10, 2, noise_floor=0.01, noise=True)
    tokens = torch.randn(SAMPLES, 7, SIZES.width, requires_grad=True)
    task, complete = torch.randn(SAMPLES, SIZES.width), torch.rand(SAMPLES, 7) < 0.5
    complete[:, 0] = True

    def work() -> torch.Tensor:
        tokens.grad = None
        experts(tokens, task, complete).tokens.square().sum().backward()
        return tokens.grad

    assert benchmark(work).abs().sum() > 0


@pytest.mark.parametrize("model", ["flexcare", "mt", "medfuse"])
@pytest.mark.parametrize("form", ["packed", "fixed", "dense"])
def test_training_step(benchmark, model: str, form: str) -> None:
    runner = make_runner(subject(model), form, torch.float32, SAMPLES, SEEDS)
    batch = runner.fit(subject(model).batch(SAMPLES, 0), 0)
    before = next(runner.module.parameters()).detach().clone()
    benchmark(runner.train, batch)
    assert not torch.equal(before, next(runner.module.parameters()))


def test_batch_from_stores(benchmark, tmp_path: Path) -> None:
    data = PreparedData.open(write_prepared(tmp_path / "data", ("ihm",)))
    dims = replace(SIZES, note_features=NOTE_WIDTH)
    source = BatchSource(data, data.task("ihm"), "train", dims, ENCODER, 0, CPU)
    batch = benchmark(source.batch, np.arange(32))
    assert batch.inputs.size == 32 and batch.inputs.ehr.values.shape[0] == source.samples.hours[:32].sum()


@pytest.mark.parametrize("metric", [auroc, auprc], ids=lambda metric: metric.__name__)
def test_metric(benchmark, metric) -> None:
    rng = np.random.default_rng(0)
    y = (rng.random(5000) < 0.2).astype(float)
    assert 0.5 < benchmark(metric, y, y + rng.normal(0, 1, 5000)) < 1 or metric is auprc


def test_bootstrap(benchmark) -> None:
    rng = np.random.default_rng(0)
    y, patient = rng.random(2000) < 0.2, np.arange(2000) // 2
    score, weights = y + rng.normal(0, 1, 2000), patient_weights(1000, 100)
    found = benchmark(areas, AREAS, y, score, patient, weights)
    assert all(found[name].std() > 0 for name in AREAS)


def test_discretiser(benchmark) -> None:
    rng, stays, events = np.random.default_rng(0), 20, 500
    hour = np.sort(rng.uniform(0, 72, (stays, events)), axis=1).ravel()
    channel = rng.integers(0, len(CHANNELS), stays * events)
    start = np.arange(stays + 1) * events
    table = StayEvents(start, hour, channel, np.asarray(NORMAL_VALUES)[channel])
    assert benchmark(discretise_stays, table, np.full(stays, 72.0)).shape == (stays * 72, 76)
