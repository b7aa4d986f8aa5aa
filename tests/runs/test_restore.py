"""A run's checkpoint gives back the model that made its predictions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from prepared_data import ENCODER, NOTE_WIDTH, write_prepared

from benchmark import registry
from benchmark.data.dataset import PreparedData
from benchmark.training import TrainingPlan, restore, train
from benchmark.training.predict import predict
from models.contract import Dimensions

SMALL = Dimensions(8, 1, 2, 0.0, hours=12, note_features=NOTE_WIDTH, note_tokens=5, film=32, patch=16)


@pytest.mark.parametrize("name", ["flexcare", "m3care", "boosted-trees"])
def test_the_restored_model_predicts_the_same(tmp_path, name):
    data = PreparedData.open(write_prepared(tmp_path, tasks=("ihm", "dia")))
    entry = registry.get(name)
    tasks = ("ihm", "dia") if entry.multitask else ("dia",)
    plan = TrainingPlan(
        name, entry.config(), SMALL, tasks, 1, 8, 1, 1e-3, dict.fromkeys(tasks, 1.0), False, "none", ENCODER
    )
    trained = train(plan, data, torch.device("cpu"))
    found = restore(plan, trained.state, data, torch.device("cpu"))
    for task in tasks:
        again = predict(found.model, found.tests[task], found.couples_samples, found.batch_size)
        frame = trained.predictions[task]
        columns = [column for column in frame if column[0] == "p" and column[1:].isdigit()]
        np.testing.assert_array_equal(again.probability, frame[columns].to_numpy(np.float32))
