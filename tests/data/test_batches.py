"""Batches against the stores they come from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from prepared_data import ENCODER, NOTE_WIDTH, write_prepared

from benchmark.data.augmentation import crop
from benchmark.data.batches import BatchSource
from benchmark.data.dataset import PreparedData
from benchmark.errors import UserError
from models.contract import Dimensions

DIMENSIONS = Dimensions(width=8, note_features=NOTE_WIDTH, film=32, patch=8, hours=6, note_tokens=4)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> PreparedData:
    return PreparedData.open(write_prepared(tmp_path_factory.mktemp("prepared") / "data"))


def _source(data: PreparedData, name: str, split: str = "train", **changes: object) -> BatchSource:
    settings = {"encoder": ENCODER, "head": 0, "device": torch.device("cpu"), "dimensions": DIMENSIONS} | changes
    return BatchSource(data, data.task(name), split, **settings)


def test_a_batch_holds_exactly_what_its_samples_own(data: PreparedData) -> None:
    source = _source(data, "dia")
    chosen = np.array([5, 0, 17, 3])
    batch, samples = source.batch(chosen).inputs, source.samples
    for row, position in enumerate(chosen):
        series = samples.series[position]
        assert batch.present[row].tolist() == [series >= 0, True, samples.note[position] >= 0]
        if series >= 0:
            stop = samples.hours[position]
            expected = np.array(data.series[series][max(stop - DIMENSIONS.hours, 0) : stop], np.float32)
            expected[-1] = 9.0  # the tail replaces the hour in which the film was taken
            part = batch.ehr.layout.rows.index(row)
            values = batch.ehr.values.split(batch.ehr.layout.lengths)[part]
            np.testing.assert_array_equal(values.numpy(), expected)
        if samples.note[position] >= 0:
            part = batch.note.layout.rows.index(row)
            values = batch.note.values.split(batch.note.layout.lengths)[part]
            stored = data.notes(ENCODER)[samples.note[position]][: DIMENSIONS.note_tokens]
            np.testing.assert_array_equal(values.numpy(), stored.astype(np.float32))
    pixels = crop(torch.from_numpy(data.films[samples.film[chosen]]), DIMENSIONS.film)
    assert torch.equal(batch.cxr.pixels, pixels)
    assert torch.equal(batch.sample, torch.from_numpy(samples.sample[chosen]))


def test_masked_labels_are_told_apart_from_negatives(data: PreparedData) -> None:
    source = _source(data, "dia")
    labels = source.labels(np.arange(len(source)))
    assert torch.equal(labels.known, ~torch.from_numpy(np.isnan(source.samples.labels)))
    assert not labels.y[~labels.known].any()


def test_an_epoch_is_a_seeded_order_without_repeats_and_drops_the_last_partial_batch(data: PreparedData) -> None:
    source = _source(data, "ihm")
    epochs = {
        key: [batch.inputs.sample for batch in source.epoch(*key, batch_size=20)] for key in [(40, 1), (40, 2), (42, 1)]
    }
    for batches in epochs.values():
        assert [len(batch) for batch in batches] == [20, 20, 20]  # of 63
        assert len(torch.cat(batches).unique()) == 60
    assert len({tuple(torch.cat(batches).tolist()) for batches in epochs.values()}) == 3
    again = torch.cat([batch.inputs.sample for batch in source.epoch(40, 1, batch_size=20)])
    assert torch.equal(again, torch.cat(epochs[40, 1]))


def test_fewer_samples_than_a_batch_still_make_one(data: PreparedData) -> None:
    assert [batch.inputs.size for batch in _source(data, "ihm", "val").epoch(40, 1, batch_size=32)] == [9]


def test_augmentation_belongs_to_the_sample_and_epoch_not_to_its_batch(data: PreparedData) -> None:
    source = _source(data, "dia", augmentation="mild")

    def films(batch_size: int, epoch: int) -> dict[int, torch.Tensor]:
        batches = list(source.epoch(40, epoch, batch_size))
        return {int(s): p for b in batches for s, p in zip(b.inputs.sample, b.inputs.cxr.pixels, strict=True)}

    small, large, later = films(9, 1), films(63, 1), films(63, 2)
    for sample in set(small) & set(large):
        torch.testing.assert_close(small[sample], large[sample])
    assert not torch.allclose(large[min(large)], later[min(large)], atol=0.01)
    plain = source.batch(np.arange(4)).inputs.cxr.pixels
    assert torch.equal(plain, _source(data, "dia").batch(np.arange(4)).inputs.cxr.pixels)


def test_without_a_note_encoder_notes_are_absent(data: PreparedData) -> None:
    batch = _source(data, "ihm", encoder=None).batch(np.arange(10)).inputs
    assert batch.note is None
    assert not batch.present[:, 2].any()


def test_a_folder_or_task_that_is_not_there_is_named(data: PreparedData, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="bench prepare"):
        PreparedData.open(tmp_path)
    with pytest.raises(UserError, match="did you mean 'ihm'"):
        data.task("imh")


def test_a_hidden_modality_is_gone_from_the_samples_asked_for_and_from_no_other(data: PreparedData) -> None:
    source = _source(data, "ihm")
    both = np.flatnonzero(source.present[:, [0, 2]].all(1))
    other = source.hiding("note", both[:3]).hiding("ehr", both[3:5])
    chosen = both[:6]
    batch = other.batch(chosen).inputs
    assert batch.present[:, 2].tolist() == [False] * 3 + [True] * 3
    assert batch.present[:, 0].tolist() == [True] * 3 + [False] * 2 + [True]
    assert batch.note.layout.rows == (3, 4, 5) and batch.ehr.layout.rows == (0, 1, 2, 5)
    assert source.batch(chosen).inputs.present[:, [0, 2]].all(), "the first source is as it was"
    with pytest.raises(ValueError, match="has none of the three modalities"):
        other.hiding("ehr", both[:3]).hiding("cxr", both[:3])


def test_batches_without_a_known_label_are_left_out(tmp_path):
    folder = write_prepared(tmp_path, tasks=("dia",))
    file = folder / "samples" / "dia.parquet"
    frame = pd.read_parquet(file)
    labels = [name for name in frame if name[0] == "y" and name[1:].isdigit()]
    frame.loc[frame.index[::2], labels] = np.nan
    frame.to_parquet(file)
    data = PreparedData.open(folder)
    own = _source(data, "dia")
    batches = list(own.epoch(1, 1, 1))
    assert len(batches) == np.isfinite(own.samples.labels).any(1).sum() < len(own)
    assert all(batch.labels.known.any() for batch in batches)
    frame[labels] = np.nan
    frame.to_parquet(file)
    with pytest.raises(UserError, match="task dia of test data: no training sample has a known label"):
        next(_source(PreparedData.open(folder), "dia").epoch(1, 1, 1))
