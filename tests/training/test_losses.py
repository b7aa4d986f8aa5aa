"""Losses against plain NumPy, masked labels, and several read-outs."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from benchmark.data.batches import Labels
from benchmark.training.faults import Diverged
from benchmark.training.learning_rate import HalvingRates
from benchmark.training.losses import prediction_loss, total_loss
from models.contract import Output, Readout


def _bce(logits: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.log1p(np.exp(-np.abs(logits))) + np.maximum(logits, 0) - logits * y


def test_multilabel_loss_pools_the_known_entries_of_the_batch() -> None:
    rng = np.random.default_rng(0)
    logits, y, known = rng.normal(size=(6, 4)), rng.integers(0, 2, (6, 4)), rng.random((6, 4)) < 0.5
    labels = Labels(torch.tensor(y, dtype=torch.float32), torch.tensor(known))
    loss = prediction_loss("multilabel", Output(torch.tensor(logits, dtype=torch.float32)), labels)
    assert loss.item() == pytest.approx(_bce(logits, y)[known].mean(), rel=1e-6)


def test_multiclass_loss_is_mean_cross_entropy() -> None:
    rng = np.random.default_rng(1)
    logits, y = rng.normal(size=(5, 3)), np.array([0, 2, 1, 1, 0])
    log_softmax = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    labels = Labels(torch.tensor(y), torch.ones(5, dtype=torch.bool))
    loss = prediction_loss("multiclass", Output(torch.tensor(logits, dtype=torch.float32)), labels)
    assert loss.item() == pytest.approx(-log_softmax[np.arange(5), y].mean(), rel=1e-6)


def test_masked_labels_change_neither_loss_nor_gradient() -> None:
    logits = torch.randn(4, 3, requires_grad=True)
    y, known = torch.randint(0, 2, (4, 3)).float(), torch.tensor([[True, False, True]] * 4)
    losses, gradients = [], []
    for labels in (Labels(y, known), Labels(torch.where(known, y, 1 - y), known)):
        loss = prediction_loss("multilabel", Output(logits), labels)
        losses.append(loss)
        gradients.append(torch.autograd.grad(loss, logits)[0])
    assert torch.equal(losses[0], losses[1])
    assert torch.equal(gradients[0], gradients[1])
    assert not gradients[0][:, 1].any()


def test_a_batch_without_a_known_label_has_loss_zero() -> None:
    labels = Labels(torch.zeros(4, 3), torch.zeros(4, 3, dtype=torch.bool))
    assert prediction_loss("multilabel", Output(torch.randn(4, 3)), labels).item() == 0.0


def test_readouts_replace_the_final_logits_and_share_their_denominator() -> None:
    logits, y = torch.randn(4, 1), torch.tensor([[0.0], [1.0], [1.0], [0.0]])
    labels = Labels(y, torch.ones(4, 1, dtype=torch.bool))
    rows = torch.tensor([1, 3])
    readouts = (
        Readout(logits, torch.arange(4), torch.full((4,), 0.25)),
        Readout(2 * logits[rows], rows, torch.full((2,), 0.25)),
    )
    expected = (_bce(logits.numpy(), y.numpy()).sum() + _bce(2 * logits[rows].numpy(), y[rows].numpy()).sum()) / 16
    assert prediction_loss("binary", Output(logits, readouts=readouts), labels).item() == pytest.approx(
        expected, rel=1e-6
    )


def test_task_weight_multiplies_auxiliary_losses_too() -> None:
    output = Output(torch.zeros(2, 1), aux={"balance": torch.tensor(3.0)})
    labels = Labels(torch.zeros(2, 1), torch.ones(2, 1, dtype=torch.bool))
    loss = total_loss("binary", output, labels, {"balance": 0.01}, task_weight=0.2)
    assert loss.item() == pytest.approx(0.2 * (np.log(2) + 0.03), rel=1e-6)


def test_learning_rate_halves_only_when_the_validation_loss_did_not_fall() -> None:
    rates, seen = HalvingRates(1.0, ["a", "b"], halve=True), []
    for loss in (3, 2, 2, 1, 1.5, 1.6):
        rates.after_epoch("a", loss)
        seen.append(rates["a"])
    assert seen == [1, 1, 0.5, 0.5, 0.25, 0.125]
    assert rates["b"] == 1.0


def test_a_validation_loss_that_is_not_a_number_is_a_fault_and_no_reason_to_halve() -> None:
    with pytest.raises(Diverged, match="task a"):
        HalvingRates(1.0, ["a"], halve=True).after_epoch("a", float("nan"))
