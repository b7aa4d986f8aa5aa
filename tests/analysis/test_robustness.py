"""Hiding modalities from the test samples of a trained model."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from prepared_data import ENCODER, NOTE_WIDTH, write_prepared

from benchmark import registry
from benchmark.analysis.robustness import SHARES, losing_order, sweep
from benchmark.data.dataset import PreparedData
from benchmark.training import TrainingPlan, restore, train
from benchmark.training.predict import predict
from models.contract import MODALITIES, Dimensions

CPU = torch.device("cpu")
SMALL = Dimensions(8, 1, 2, 0.0, hours=12, note_features=NOTE_WIDTH, note_tokens=5, film=32, patch=16)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> PreparedData:
    return PreparedData.open(write_prepared(tmp_path_factory.mktemp("prepared") / "data", ("ihm", "dia"), size=150))


def trained(data: PreparedData, name: str, **options):
    entry = registry.get(name)
    tasks = ("ihm", "dia") if entry.multitask else ("dia",)
    plan = TrainingPlan(
        name, entry.config(**options), SMALL, tasks, 1, 8, 2, 3e-3, dict.fromkeys(tasks, 1.0), False, "none", ENCODER
    )
    found = train(plan, data, CPU)
    return found, restore(plan, found.state, data, CPU)


@pytest.mark.parametrize("name", ["flexcare", "m3care"])
def test_nothing_hidden_gives_the_stored_predictions_and_all_hidden_reaches_the_owners_alone(data, name):
    run, restored = trained(data, name)
    frame = run.predictions["dia"]
    stored = frame[[c for c in frame if c[0] == "p" and c[1:].isdigit()]].to_numpy(np.float32)
    found = list(sweep(restored, "dia"))
    assert [(one.modality, one.share) for one in found] == [(m, share) for m in MODALITIES for share in SHARES]
    for one in found:
        if one.share == 0:
            np.testing.assert_array_equal(one.probability, stored)
        assert one.hidden == round(one.share * one.owners)
        if name == "flexcare":  # the samples of a batch do not touch each other
            source = restored.tests["dia"]
            hiding = source.hiding(one.modality, losing_order(source, one.modality)[: one.hidden])
            alone = predict(restored.model, hiding, restored.couples_samples, restored.batch_size).probability
            np.testing.assert_allclose(one.probability, alone, atol=1e-6)
            touched = np.flatnonzero((np.abs(one.probability - stored) > 1e-6).any(1))
            assert set(touched) <= set(losing_order(restored.tests["dia"], one.modality)[: one.hidden])
            assert one.share < 1 or len(touched), "the model reads what was hidden"


def test_a_model_keeps_the_modality_that_it_cannot_do_without(data):
    run, restored = trained(data, "mmf", readout="primary")
    assert list(run.info["flops"]) == ["ehr+cxr+note", "cxr"]
    assert {one.modality for one in sweep(restored, "dia")} == {"ehr", "note"}


def test_samples_of_the_primary_modality_alone_keep_it_and_all_models_lose_the_same(data):
    sources = [trained(data, name)[1].tests["dia"] for name in ("flexcare", "mmf")]
    for modality in MODALITIES:
        orders = [losing_order(source, modality) for source in sources]
        np.testing.assert_array_equal(*orders)
        source, order = sources[0], orders[0]
        assert len(order) == len(set(order)) > 0
        assert (source.present[order].sum(1) > 1).all() and source.present[order, MODALITIES.index(modality)].all()
        for share in SHARES:
            hidden = source.hiding(modality, order[: round(share * len(order))])
            assert hidden.present.any(1).all()
    alone = source.present.sum(1) == 1
    assert alone.any() and source.present[alone, 1].all(), "films without anything else exist here"
