"""Boosted trees: the summaries by hand, scikit-learn's predictions from plain arrays, masked and rare labels."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from random_batches import PATTERNS, SMALL, collate, make_samples
from safetensors.torch import load, save

from baselines import boosted_trees
from baselines.boosted_trees import ENTRY
from baselines.summaries import (
    CHANNEL_WIDTHS,
    CONTINUOUS,
    NOTES_FROM,
    SERIES_SUMMARIES,
    summarise,
    summarise_films,
    summarise_series,
)
from benchmark.data.channels import CHANNELS, CONTINUOUS_COLUMNS
from models.contract import Films, Head, Layout, Packed

DIMS = dataclasses.replace(SMALL, series_features=76)
SIZE = 140


def samples_of(patterns, seed=0):
    """Samples whose observed-flags are 0 or 1."""
    samples = make_samples(patterns, seed=seed, dtype=torch.float32, dims=DIMS)
    for sample in samples:
        if sample.ehr is not None:
            sample.ehr[:, 59:] = (sample.ehr[:, 59:] > 0.3).float()
    return samples


def labelled(head, seed=0):
    """Training batches of samples whose labels follow their content, with masked entries."""
    samples = samples_of((PATTERNS * 20)[:SIZE], seed)
    generator = torch.Generator().manual_seed(seed)
    signal = torch.tensor([sum(float(x.mean()) for x in (s.ehr, s.cxr, s.note) if x is not None) for s in samples])
    noisy = signal[:, None] + 0.1 * torch.randn(SIZE, head.classes, generator=generator)
    if head.kind == "multiclass":
        first = noisy[:, 0].contiguous()
        y = torch.bucketize(first, first.quantile(torch.arange(1, head.classes) / head.classes))
        known = torch.rand(SIZE, generator=generator) < 0.9
    else:
        y, known = (noisy > noisy.median()).float(), torch.rand(noisy.shape, generator=generator) < 0.9
    parts = [slice(start, start + 50) for start in range(0, SIZE, 50)]
    return samples, [(collate(samples[part]), y[part], known[part]) for part in parts]


def fitted(head, training, seed=1, **options):
    model = ENTRY.build(DIMS, [head], ENTRY.config(**({"rounds": 12, "leaf_samples": 5} | options)))
    model.fit(training, seed)
    return model


def logits_of(model, samples):
    return model(collate(samples)).logits


BINARY, LABELS, CLASSES = Head(1, "binary", "ehr"), Head(4, "multilabel", "ehr"), Head(5, "multiclass", "ehr")
heads = pytest.mark.parametrize("head", [BINARY, LABELS, CLASSES], ids=lambda head: head.kind)


# --- summaries


def test_columns_are_those_of_the_prepared_series():
    assert tuple(channel.width for channel in CHANNELS) == CHANNEL_WIDTHS
    assert tuple(CONTINUOUS) == CONTINUOUS_COLUMNS


def test_a_series_is_summarised_over_its_observed_hours():
    hours = np.zeros((6, 76), np.float32)
    heart, flag = CONTINUOUS_COLUMNS[3], 59 + 8
    assert (CHANNELS[8].name, heart) == ("Heart Rate", 50)
    hours[:, heart] = [9.0, 2.0, 9.0, 5.0, 3.0, 9.0]  # of the second patient: hours 1, 3 and 4
    hours[:, flag] = [0, 1, 0, 1, 1, 0]
    packed = Packed(torch.from_numpy(np.vstack([hours[:2] * 0, hours])), Layout((2, 6), (0, 1)))
    never, seen = summarise_series(packed)
    names = ["last", "mean"]
    blocks = dict(zip(names, np.split(seen[:118], 2), strict=True))
    rest = dict(zip(("lowest", "highest", "spread", "slope"), np.split(seen[118:166], 4), strict=True))
    slope, _ = np.polyfit([1, 3, 4], [2, 5, 3], 1)
    assert blocks["last"][heart] == 3
    assert blocks["mean"][heart] == pytest.approx(10 / 3)
    assert [rest[name][3] for name in rest] == pytest.approx([2, 5, np.std([2, 5, 3]), slope])
    assert (seen[166 + 8], seen[-1], len(seen)) == (3, 6, SERIES_SUMMARIES)
    assert np.isnan(never[:166]).all()
    assert (never[166:-1].any(), never[-1]) == (False, 2)


def test_one_observed_hour_has_a_value_but_no_slope():
    hours = torch.zeros(3, 76)
    hours[1, 50], hours[1, 59 + 8] = 7.0, 1.0
    (row,) = summarise_series(Packed(hours, Layout((3,), (0,))))
    lowest, highest, spread, slope = row[118:166].reshape(4, 12)[:, 3]
    assert (row[50], lowest, highest, spread) == (7, 7, 7, 0)
    assert np.isnan(slope)


def test_a_film_is_summarised_by_its_grey_values():
    film = torch.arange(64).view(1, 8, 8) / 64
    (row,) = summarise_films(Films(film, (0,)))
    assert row[:2] == pytest.approx([film.mean().item(), film.std(correction=0).item()])
    assert row[4] == pytest.approx(film.median().item(), abs=0.01)
    assert row[7] == pytest.approx(film[0, :2, :2].mean().item())
    assert row[-1] == pytest.approx(film[0, 6:, 6:].mean().item())


def test_what_a_sample_lacks_is_missing_and_its_numbers_are_its_own():
    samples = samples_of(PATTERNS)
    together = summarise(collate(samples))
    for sample, row in zip(samples, together, strict=True):
        (alone,) = summarise(collate([sample]))
        np.testing.assert_array_equal(alone, row[: len(alone)])
        assert row[:3].tolist() == [sample.ehr is not None, sample.cxr is not None, sample.note is not None]
        assert np.isnan(row[2 + SERIES_SUMMARIES]) == (sample.ehr is None)
        assert np.isnan(row[3 + SERIES_SUMMARIES]) == (sample.cxr is None)
        assert np.isnan(row[NOTES_FROM]) == (sample.note is None)


def test_a_series_of_other_columns_is_refused():
    with pytest.raises(ValueError, match="a series of 5 columns; its summary knows the 76"):
        summarise_series(Packed(torch.zeros(2, 5), Layout((2,), (0,))))


# --- fit and prediction


@heads
def test_arrays_predict_what_scikit_learn_predicts(head, monkeypatch):
    seen = []
    monkeypatch.setattr("baselines.boosted_trees._verified", lambda model, x, trees, *_: seen.append(model) or trees)
    samples, training = labelled(head)
    model = fitted(head, training)
    features = model._features(model._summaries(collate(samples)))
    expected = np.hstack([each.decision_function(features).reshape(SIZE, -1) for each in seen])
    np.testing.assert_allclose(logits_of(model, samples).numpy(), expected, rtol=0, atol=1e-5)
    assert len(model.root) == (12 * head.classes)


def test_trees_that_are_laid_out_otherwise_are_noticed(monkeypatch):
    plain = boosted_trees._trees

    def swapped(model, outputs):
        return [(number, output, mirrored(nodes)) for number, output, nodes in plain(model, outputs)]

    monkeypatch.setattr(boosted_trees, "_trees", swapped)
    with pytest.raises(RuntimeError, match="not laid out"):
        fitted(BINARY, labelled(BINARY)[1])


def mirrored(nodes):
    nodes = nodes.copy()
    nodes["left"], nodes["right"] = nodes["right"].copy(), nodes["left"].copy()
    return nodes


def test_notes_are_told_by_their_principal_components():
    samples, training = labelled(BINARY)
    model = fitted(BINARY, training, note_components=2)
    notes = np.stack([sample.note.numpy().astype(np.float64).mean(0) for sample in samples if sample.note is not None])
    _, _, axes = np.linalg.svd(notes - notes.mean(0))
    expected = (notes - notes.mean(0)) @ axes[:2].T
    features = model._features(model._summaries(collate(samples)))
    found = features[~np.isnan(features[:, -1]), NOTES_FROM:-1]
    np.testing.assert_allclose(np.abs(found), np.abs(expected), atol=1e-6)
    assert features.shape[1] == NOTES_FROM + 3


@heads
def test_rounds_are_prefixes_and_can_be_dropped(head):
    samples, training = labelled(head)
    model = fitted(head, training)
    stages = list(model.stages([collate(samples[:60]), collate(samples[60:])]))
    assert len(stages) == 12
    torch.testing.assert_close(stages[-1], logits_of(model, samples), rtol=0, atol=1e-6)
    model.keep(5)
    torch.testing.assert_close(stages[4], logits_of(model, samples), rtol=0, atol=1e-6)
    assert len(model.root) == 5 * head.classes
    assert len(model.feature) == int(max(model.left.max(), model.right.max())) + 1
    known = [torch.cat([part[i] for part in training]) for i in (1, 2)]
    assert error(stages[-1], *known, head) < error(stages[0], *known, head)


def error(logits, y, known, head):
    wrong = logits.argmax(1) != y if head.kind == "multiclass" else (logits > 0) != (y > 0)
    return wrong[known].float().mean()


@heads
def test_fits_repeat_depend_on_their_seed_and_restore_from_a_checkpoint(head):
    samples, training = labelled(head)
    model, again, other = (fitted(head, training, seed) for seed in (1, 1, 2))
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())
    assert not torch.equal(logits_of(model, samples), logits_of(other, samples))
    empty = ENTRY.build(DIMS, [head], ENTRY.config())
    empty.load_state_dict(load(save(model.state_dict())))
    assert torch.equal(logits_of(empty, samples), logits_of(model, samples))


@heads
def test_a_sample_is_predicted_alone_as_in_company(head):
    samples, training = labelled(head)
    model = fitted(head, training)
    together = logits_of(model, samples)
    for i, sample in enumerate(samples[:14]):
        assert torch.equal(logits_of(model, [sample])[0], together[i])


@heads
def test_masked_labels_are_left_out_of_the_fit(head):
    _, training = labelled(head)
    flipped = [(x, torch.where(known, y, y.new_tensor(1) - y if y.dim() > 1 else 0), known) for x, y, known in training]
    changed = [(x, torch.where(known, 1 - y if y.dim() > 1 else 0, y), known) for x, y, known in training]
    states = [fitted(head, part).state_dict() for part in (training, flipped, changed)]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    assert not torch.equal(states[0]["prior"], states[2]["prior"])


def test_labels_without_a_contrast_get_their_smoothed_log_odds():
    samples, training = labelled(LABELS)
    for _, y, known in training:
        y[:, 0], y[:, 1], known[:, 2] = 0, 1, False
    model = fitted(LABELS, training)
    known = torch.cat([part[2] for part in training])
    counts = known.sum(0).double()
    expected = [-(counts[0] + 0.5).log() + np.log(0.5), (counts[1] + 0.5).log() - np.log(0.5), 0]
    assert model.prior[:3].tolist() == pytest.approx([float(value) for value in expected])
    assert set(model.output.tolist()) == {3}
    assert logits_of(model, samples).isfinite().all()


@pytest.mark.parametrize("occurring", [[2], [1, 3], [0, 2, 3]])
def test_classes_that_do_not_occur_are_improbable_but_possible(occurring):
    samples, training = labelled(CLASSES)
    training = [(x, torch.tensor(occurring)[y % len(occurring)], known) for x, y, known in training]
    model = fitted(CLASSES, training)
    chance = logits_of(model, samples).double().softmax(1)
    y, known = (torch.cat([part[i] for part in training]) for i in (1, 2))
    shares = torch.stack([(y[known] == c).double().mean() for c in range(5)])
    prior = model.prior.softmax(0)
    torch.testing.assert_close(prior[occurring], shares[occurring], rtol=0, atol=0.02)
    absent = [c for c in range(5) if c not in occurring]
    assert ((chance[:, absent] > 0) & (chance[:, absent] < 0.2)).all()
    assert set(model.output.tolist()) <= set(occurring)


def test_a_column_without_any_value_takes_no_part():
    samples, training = labelled(BINARY)
    training = [(without_notes(x), y, known) for x, y, known in training]
    model = fitted(BINARY, training)
    used = set(model.feature[model.left != torch.arange(len(model.left))].tolist())
    assert used
    assert max(used) < NOTES_FROM
    assert logits_of(model, samples).isfinite().all()


def without_notes(batch):
    present = batch.present & torch.tensor([True, True, False])
    return dataclasses.replace(batch, note=None, present=present)
