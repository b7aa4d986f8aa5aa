"""FlexCare against what its released code computes, value by value; and that the release does not enforce its mask."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from random_batches import BINARY, PATTERNS, SMALL, Sample, collate, make_samples, randomise
from released_flexcare import THEIRS, ReleasedFlexCare

from models.contract import Dimensions, Head
from models.embeddings import IMAGENET_MEAN, IMAGENET_STD
from models.flexcare import FlexCare
from models.noise import Counting, drawn_from
from models.variants import PRESETS, AuthorsCodeConfig

HEADS = (BINARY, Head(4, "multilabel", "ehr"))
DIMS = dataclasses.replace(SMALL, layers=3)
MIXED = (*PATTERNS, "ehr+cxr+note", "ehr", "cxr+note", "ehr+note")


TABLES = {field: getattr(AuthorsCodeConfig(), field) for field in ("task_rows", "ehr_rows", "cxr_rows", "note_rows")}
EACH = [(preset, patterns) for preset in PRESETS for patterns in (MIXED, *((pattern,) * 3 for pattern in PATTERNS))]


def both(preset: str, enforce: bool = False) -> tuple[FlexCare, ReleasedFlexCare]:
    """Our model with the released sizes of tables, and the restatement of the released one with equal values."""
    torch.manual_seed(0)
    ours = randomise(FlexCare(DIMS, HEADS, PRESETS[preset](**TABLES)).double()).eval()
    film = ours.embeddings.cxr  # in full precision
    film.mean, film.std = (torch.tensor(values, dtype=torch.float64) for values in (IMAGENET_MEAN, IMAGENET_STD))
    theirs = ReleasedFlexCare(DIMS, [head.classes for head in HEADS], enforce=enforce).double().eval()
    theirs.load_ours(ours)
    return ours, theirs


@pytest.fixture
def no_noise(monkeypatch):
    """The two draw the router's noise for rows in another order; without it they can be compared in training too."""
    monkeypatch.setattr(torch, "randn_like", torch.zeros_like)
    with drawn_from(Counting()):
        yield


# Under an enforced mask, torch's transformer gives NaN for the combination of an absent modality.
@pytest.mark.parametrize(
    ("preset", "patterns"),
    [(preset, patterns) for preset, patterns in EACH if preset == "authors_code" or patterns == ("ehr+cxr+note",) * 3],
)
@pytest.mark.parametrize("mode", ["eval", "train"])
def test_values_and_gradients_equal_those_of_the_released_network(preset, mode, patterns, no_noise):
    """The paper's preset equals it too, once the mask is handed over as truth values: nothing else differs."""
    ours, theirs = both(preset, enforce=preset == "paper")
    samples = make_samples(patterns, dims=DIMS)
    logits, covariance, balance = theirs.train(mode == "train")(samples, 1)
    output = ours.train(mode == "train")(collate(samples, task=1))
    torch.testing.assert_close(output.logits, logits, rtol=0, atol=1e-10)
    if mode == "eval":
        return
    torch.testing.assert_close(output.aux["covariance"], covariance, rtol=1e-10, atol=0)
    torch.testing.assert_close(ours.aux_weights["balance"] * output.aux["balance"], balance, rtol=1e-10, atol=0)
    loss = output.logits.square().mean() + sum(ours.aux_weights[name] * value for name, value in output.aux.items())
    (logits.square().mean() + 0.5 * covariance + balance).backward()
    loss.backward()
    gradients = ReleasedFlexCare(DIMS, [head.classes for head in HEADS]).double()
    with torch.no_grad():  # our gradients under their names
        for parameter in ours.parameters():
            parameter.copy_(torch.zeros_like(parameter) if parameter.grad is None else parameter.grad)
    gradients.load_ours(ours)
    for (name, parameter), gradient in zip(theirs.named_parameters(), gradients.parameters(), strict=True):
        expected = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        torch.testing.assert_close(gradient, expected, rtol=1e-9, atol=1e-10, msg=name)


def with_other_film(samples: list[Sample]) -> list[Sample]:
    return [dataclasses.replace(sample, cxr=sample.cxr.flip(0)) for sample in samples]


@pytest.mark.parametrize("enforce", [True, False], ids=["truth values", "numbers"])
def test_the_release_does_not_enforce_its_mask(enforce):
    """Handed over as numbers, the mask lets the series' token see the film, and all tokens the task."""
    _, theirs = both("authors_code", enforce)
    samples = make_samples(["ehr+cxr+note"] * 3, dims=DIMS)
    t = THEIRS.index("t")
    with torch.no_grad():
        _, combinations, _ = theirs.encode(samples, 0)
        _, other_film, _ = theirs.encode(with_other_film(samples), 0)
        _, other_task, _ = theirs.encode(samples, 1)
    by_film = (other_film - combinations)[:, t].abs().max()
    by_task = (other_task - combinations).abs().max()
    assert (by_film == 0) == enforce
    assert (by_task == 0) == enforce
    if not enforce:
        assert by_film > 0.01
        assert by_task > 0.01


@pytest.mark.parametrize("preset", PRESETS)
def test_which_tokens_meet_in_our_presets(preset):
    """What holds for the paper's mask fails for the released one: dependence on members only, the task token's silence,
    and independence of the combinations."""
    ours, _ = both(preset)
    samples = make_samples(["ehr+cxr+note"] * 3, dims=DIMS)
    with torch.no_grad():
        _, combinations = ours.encode(collate(samples))
        _, other_film = ours.encode(collate(with_other_film(samples)))
        _, other_task = ours.encode(collate(samples, task=1))
        ours.combinations[3] += 0.5
        _, other_token = ours.encode(collate(samples))
    strict = preset == "paper"
    assert torch.equal(combinations[:, 0], other_film[:, 0]) == strict
    assert torch.equal(combinations, other_task) == strict
    assert torch.equal(combinations[:, [0, 1, 2, 4, 5, 6]], other_token[:, [0, 1, 2, 4, 5, 6]]) == strict


def test_number_of_parameters_of_the_release():
    """With a DRG head of half the width that the other heads have, which is why it cannot be run."""
    heads = [Head(classes, "binary", "ehr") for classes in (1, 10, 1, 25, 1, 14)]
    model = FlexCare(Dimensions(), heads, AuthorsCodeConfig())
    assert sum(p.numel() for p in model.parameters()) + 769 * (128 + 1) == 1_664_437
