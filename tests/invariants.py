"""What must hold for models, as functions: they return for a right model and raise AssertionError for a broken one."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from unittest.mock import patch

import torch
from random_batches import Sample, collate, make_batch
from torch import Tensor, nn

from models.contract import Batch
from models.flexcare import FlexCare
from models.ragged import Group


def stands_alone(model: nn.Module, samples: Sequence[Sample]) -> None:
    """A sample's logits are the same alone, in any batch and in any order."""
    together = model(collate(samples)).logits
    order = torch.randperm(len(samples), generator=torch.Generator().manual_seed(1)).tolist()
    shuffled = model(collate([samples[i] for i in order])).logits
    torch.testing.assert_close(shuffled, together[order], rtol=0, atol=1e-10)
    for i, sample in enumerate(samples):  # here a modality that nobody owns is missing from the batch
        alone = model(collate([sample])).logits
        torch.testing.assert_close(alone, together[i : i + 1], rtol=0, atol=1e-10, msg=f"{sample.pattern} alone")


def never_reads_padding(
    build: Callable[[], nn.Module], batch: Batch, loss: Callable[[nn.Module, Batch], Tensor]
) -> int:
    """What fills up a padded group of sequences changes neither logits nor gradients, not even 1e4.

    Args:
        build: makes equal models. loss: of a model in training mode.

    Returns:
        Number of padded slots that were filled.
    """
    plain, filled = Group.pad, []

    def pad(group: Group, values: Tensor) -> Tensor:
        padded = plain(group, values)
        if group.allowed is None or not values.is_floating_point():
            return padded
        filled.append(int((~group.allowed).sum()))
        return padded.masked_fill(~group.allowed[..., None], 1e4)

    results = []
    for how in (plain, pad):
        with patch.object(Group, "pad", how):
            model = build()
            logits = model(batch).logits.detach()
            loss(model, batch).backward()
            results.append([logits, *(parameter.grad for parameter in model.parameters())])
    for value, expected in zip(*results, strict=True):
        assert (value is None and expected is None) or torch.equal(value, expected)
    return sum(filled)


def reads_members_only(model: FlexCare) -> None:
    """Each combination token, and the task token, depends on the content of exactly the modalities that it contains."""
    batch, _ = make_batch(["ehr+cxr+note"] * 3)
    contents = [batch.ehr.values, batch.cxr.pixels, batch.note.values]
    for content in contents:
        content.requires_grad_()
    task, combinations = model.encode(batch)
    mask = model.encoder.mask
    for reader, token in enumerate([task, *combinations.unbind(1)]):
        grads = torch.autograd.grad(token.square().sum(), contents, retain_graph=True, allow_unused=True)
        reached = [grad is not None and bool(grad.any()) for grad in grads]
        assert reached == [reader in mask.readers_of(m) for m in range(3)], f"special token {reader} read {reached}"


def task_token_is_silent(model: FlexCare) -> None:
    """Another task changes the task token and nothing else that the encoder gives."""
    batch, _ = make_batch(["ehr+cxr+note", "ehr", "cxr+note"])
    task, combinations = model.encode(batch)
    other_task, others = model.encode(dataclasses.replace(batch, task=1))
    assert not torch.equal(task, other_task)
    assert torch.equal(combinations, others)
