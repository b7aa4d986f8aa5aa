"""Notes with the noise of the encoder's dropout: training reads them, validation and test do not."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from prepared_data import ENCODER, NOTE_WIDTH, write_prepared

from benchmark.data.batches import BatchSource
from benchmark.data.dataset import PreparedData, embeddings_folder
from benchmark.data.stores import RaggedStore, RaggedWriter
from benchmark.errors import UserError
from benchmark.registry import models
from benchmark.training import Trained, TrainingPlan, restore, train
from benchmark.training.predict import predict
from models.contract import Dimensions

CPU = torch.device("cpu")
DIMENSIONS = Dimensions(8, 1, 2, 0.0, hours=12, note_features=NOTE_WIDTH, note_tokens=5, film=32, patch=16)


def write_draws(folder: Path, shifts: tuple[float, ...]) -> PreparedData:
    """Gives the data set draws that are its clean embeddings, moved by `shifts`; of training texts alone."""
    data = PreparedData.open(folder)
    clean, training = data.notes(ENCODER), data.task("ihm").partitions["train"].note
    lengths = np.where(np.isin(np.arange(len(clean)), training), clean.lengths, 0)
    for draw, shift in enumerate(shifts):
        writer = RaggedWriter(embeddings_folder(folder, ENCODER, draw), lengths, NOTE_WIDTH)
        for row in np.flatnonzero(lengths):
            writer.write(row, clean[row] + np.float16(shift))
        writer.close()
    return data


def trained(data: PreparedData, **changes: object) -> Trained:
    return train(plan(**changes), data, CPU)


def plan(**changes: object) -> TrainingPlan:
    settings = {"epochs": 3, "learning_rate": 3e-3, "halve_learning_rate": False, "augmentation": "none"} | changes
    config, weights = models()["flexcare"].config(moe="shared"), {"ihm": 1.0}  # experts that tie at first could swap
    shared = {"seed": 40, "batch_size": 16, "task_weights": weights, "encoder": ENCODER}
    return TrainingPlan("flexcare", config, DIMENSIONS, ("ihm",), **shared, **settings)


def note_of(store: RaggedStore, source: BatchSource, sample: int) -> np.ndarray:
    (position,) = np.flatnonzero(source.samples.sample == sample)
    return store[source.samples.note[position]][: DIMENSIONS.note_tokens].astype(np.float32)


def test_each_epoch_reads_the_next_draw_and_single_batches_read_none(tmp_path: Path) -> None:
    data = write_draws(write_prepared(tmp_path, ("ihm",)), (1.0, 2.0))
    source = BatchSource(data, data.task("ihm"), "train", DIMENSIONS, ENCODER, 0, CPU, note_dropout=2)
    plain = BatchSource(data, data.task("ihm"), "train", DIMENSIONS, ENCODER, 0, CPU)
    np.testing.assert_array_equal(source.present, plain.present)

    def check(inputs, store: RaggedStore) -> None:
        for row, values in zip(
            inputs.note.layout.rows, inputs.note.values.split(inputs.note.layout.lengths), strict=True
        ):
            np.testing.assert_array_equal(values.numpy(), note_of(store, source, int(inputs.sample[row])))

    for epoch, draw in [(1, 0), (2, 1), (3, 0)]:
        for ours, theirs in zip(source.epoch(40, epoch, 16), plain.epoch(40, epoch, 16), strict=True):
            check(ours.inputs, data.notes(ENCODER, draw))
            check(theirs.inputs, data.notes(ENCODER))
            assert torch.equal(ours.inputs.sample, theirs.inputs.sample), "nothing else changes"
            assert torch.equal(ours.inputs.ehr.values, theirs.inputs.ehr.values)
    check(source.batch(np.arange(20)).inputs, data.notes(ENCODER))


def test_noise_of_zero_changes_nothing(tmp_path: Path) -> None:
    data = write_draws(write_prepared(tmp_path, ("ihm",)), (0.0, 0.0))
    first, second = trained(data), trained(data, note_dropout=2)
    assert all(torch.equal(value, second.state[name]) for name, value in first.state.items())


def test_evaluation_reads_notes_without_noise(tmp_path: Path) -> None:
    data = write_draws(write_prepared(tmp_path, ("ihm",)), (3.0,))
    still = {"learning_rate": 1e-12, "epochs": 1}  # the network stays at its first values
    clean, noisy = trained(data, **still), trained(data, **still, note_dropout=1)
    assert abs(clean.history.train_loss[0] - noisy.history.train_loss[0]) > 1e-3
    np.testing.assert_allclose(clean.history.val_loss, noisy.history.val_loss, rtol=1e-6)
    np.testing.assert_allclose(clean.predictions["ihm"].p0, noisy.predictions["ihm"].p0, rtol=1e-6)
    noisy = trained(data, note_dropout=1)
    assert not all(torch.equal(value, noisy.state[name]) for name, value in trained(data).state.items())

    shutil.rmtree(tmp_path / "notes" / "embeddings_with_dropout")
    found = restore(plan(note_dropout=1), noisy.state, data, CPU)
    again = predict(found.model, found.tests["ihm"], found.couples_samples, found.batch_size)
    np.testing.assert_array_equal(again.probability[:, 0], noisy.predictions["ihm"].p0.to_numpy(np.float32))
    with pytest.raises(UserError, match="is not a complete store"):
        trained(data, note_dropout=1)
