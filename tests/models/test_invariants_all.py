"""What must hold for every model of the comparison, whatever it computes: absence, batches, gradients, determinism."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from random_batches import BINARY, PATTERNS, SMALL, Sample, collate, make_batch, make_labels, make_samples, randomise
from torch import Tensor, nn

from baselines import ENTRIES as BASELINES
from models import ENTRIES as OWN
from models.contract import MODALITIES, Batch, Dimensions, Head, ModelEntry, Output

ENTRIES = (*OWN, *BASELINES)
every_model = pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
uncoupled = pytest.mark.parametrize(
    "entry", [entry for entry in ENTRIES if not entry.couples_samples], ids=lambda entry: entry.name
)
coupled = pytest.mark.parametrize(
    "entry", [entry for entry in ENTRIES if entry.couples_samples], ids=lambda entry: entry.name
)

MIXED = (*PATTERNS, "ehr", "ehr+cxr+note", "ehr+note")


def build(
    entry: ModelEntry,
    *,
    heads: tuple[Head, ...] = (BINARY,),
    dims: Dimensions = SMALL,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
    dropout: bool = True,
) -> nn.Module:
    """A model in eval mode without degenerate parameters; `dropout=False` clears the options that name a dropout."""
    config = entry.config()
    if not dropout:
        rates = {field.name: 0.0 for field in dataclasses.fields(config) if "dropout" in field.name}
        config = dataclasses.replace(config, **rates)
    torch.manual_seed(seed)
    return randomise(entry.build(dims, heads, config).to(dtype), seed).eval()


def loss_of(model: nn.Module, output: Output, labels: Tensor) -> Tensor:
    """Prediction loss of a binary or multilabel head without masked labels, plus the weighted auxiliary terms."""
    bce = nn.functional.binary_cross_entropy_with_logits
    loss = bce(output.logits, labels)
    if output.readouts:
        parts = [
            (readout.weight * bce(readout.logits, labels[readout.rows], reduction="none").sum(1)).sum()
            for readout in output.readouts
        ]
        loss = torch.stack(parts).sum() / labels.numel()
    return loss + sum(model.aux_weights[name] * value for name, value in output.aux.items())


def pack(present: Tensor, hours: Tensor, series: Tensor, films: Tensor, tokens: Tensor, notes: Tensor) -> Batch:
    """A batch from padded tensors, in which everything that is absent or padding holds filler."""
    samples = [
        Sample(
            ehr=series[i, : hours[i]] if present[i, 0] else None,
            cxr=films[i] if present[i, 1] else None,
            note=notes[i, : tokens[i]] if present[i, 2] else None,
        )
        for i in range(len(present))
    ]
    return collate(samples)


@every_model
@pytest.mark.parametrize("filler", [0.0, 1e4])
def test_absent_content_and_padding_never_change_an_output(entry, filler):
    generator = torch.Generator().manual_seed(3)
    present = torch.tensor([[name in pattern.split("+") for name in MODALITIES] for pattern in MIXED])
    size, outputs = len(present), []
    hours = torch.randint(1, SMALL.hours + 1, (size,), generator=generator)
    tokens = torch.randint(1, SMALL.note_tokens + 1, (size,), generator=generator)
    for extra, fill in ((0, torch.nan), (2, filler)):  # more padding and another filler the second time
        content = torch.Generator().manual_seed(4)
        series = torch.randn(size, SMALL.hours, SMALL.series_features, generator=content, dtype=torch.float64)
        films = torch.rand(size, SMALL.film, SMALL.film, generator=content, dtype=torch.float64)
        notes = torch.randn(size, SMALL.note_tokens, SMALL.note_features, generator=content, dtype=torch.float64)
        series = nn.functional.pad(series, (0, 0, 0, extra), value=fill)
        notes = nn.functional.pad(notes, (0, 0, 0, extra), value=fill)
        films[~present[:, 1]] = fill
        for i in range(size):
            series[i, hours[i] * present[i, 0] :] = fill
            notes[i, tokens[i] * present[i, 2] :] = fill
        outputs.append(build(entry)(pack(present, hours, series, films, tokens, notes)))
    assert outputs[0].logits.isfinite().all()
    assert torch.equal(outputs[0].logits, outputs[1].logits)


@uncoupled
def test_a_sample_alone_equals_the_sample_in_any_batch_and_order(entry):
    model = build(entry)
    samples = make_samples(MIXED)
    together = model(collate(samples)).logits
    order = torch.randperm(len(samples), generator=torch.Generator().manual_seed(1)).tolist()
    shuffled = model(collate([samples[i] for i in order])).logits
    torch.testing.assert_close(shuffled, together[order], rtol=0, atol=1e-10)
    for i, sample in enumerate(samples):  # here a modality that nobody owns is missing from the batch
        alone = model(collate([sample])).logits
        torch.testing.assert_close(alone, together[i : i + 1], rtol=0, atol=1e-10, msg=f"{sample.pattern} alone")


@coupled
def test_a_coupling_model_depends_on_its_batch_but_not_on_the_order(entry):
    model = build(entry)
    samples = make_samples(MIXED)
    together = model(collate(samples)).logits
    order = torch.randperm(len(samples), generator=torch.Generator().manual_seed(1)).tolist()
    shuffled = model(collate([samples[i] for i in order])).logits
    torch.testing.assert_close(shuffled, together[order], rtol=0, atol=1e-10)
    others = make_samples(MIXED, seed=1)
    changed = model(collate([samples[0], *others[1:]])).logits
    assert (changed[0] - together[0]).abs().max() > 1e-6


@every_model
@pytest.mark.parametrize("pattern", PATTERNS)
def test_every_pattern_is_finite_at_lengths_one_and_maximum(entry, pattern):
    model = build(entry).train()
    lengths = [(1, 1), (SMALL.hours, SMALL.note_tokens), (1, SMALL.note_tokens)]
    batch, labels = make_batch([pattern] * 3, lengths=lengths)
    output = model(batch)
    assert output.logits.isfinite().all()
    loss_of(model, output, labels).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is None or parameter.grad.isfinite().all(), name
    for modality in set(MODALITIES) - set(pattern.split("+")):
        for name, parameter in getattr(model.embeddings, modality).named_parameters():
            assert parameter.grad is None or not parameter.grad.any(), f"{modality}.{name} of an absent modality"


@every_model
def test_a_gradient_reaches_every_parameter(entry):
    model = build(entry).train()
    batch, labels = make_batch(["ehr+cxr+note"] * 24)
    loss_of(model, model(batch), labels).backward()
    assert {name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()} == set()


@every_model
@pytest.mark.parametrize("pattern", PATTERNS)
def test_present_content_matters(entry, pattern):
    model = build(entry)
    samples = make_samples([pattern, *MIXED])
    before = model(collate(samples)).logits[0]
    for modality in pattern.split("+"):
        content = getattr(samples[0], modality)
        moved = dataclasses.replace(samples[0], **{modality: content + 0.5 * torch.cos(37 * content)})
        after = model(collate([moved, *samples[1:]])).logits[0]
        assert (after - before).abs().max() > 1e-9, modality


@every_model
def test_same_seed_same_losses(entry):
    dims = dataclasses.replace(SMALL, dropout=0.1)

    def losses() -> list[float]:
        model = build(entry, dims=dims, dtype=torch.float32).train()
        optimizer = torch.optim.Adam(model.parameters(), 1e-3)
        history = []
        for step in range(10):
            batch, labels = make_batch(MIXED, seed=step, dtype=torch.float32)
            loss = loss_of(model, model(batch), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            history.append(loss.item())
        return history

    assert losses() == losses()


@every_model
def test_learns_64_samples_by_heart(entry):
    model = build(entry, dtype=torch.float32, dropout=False).train()
    samples = make_samples((PATTERNS * 10)[:64], dtype=torch.float32)
    labels = make_labels(BINARY, 64, dtype=torch.float32)
    batch = collate(samples)
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    loss = math.inf
    for step in range(300):
        output = model(batch)
        optimizer.zero_grad()
        loss_of(model, output, labels).backward()
        optimizer.step()
        if step % 10 == 0:
            loss = loss_of(model, Output(output.logits), labels).item()
            if loss < 0.05:
                return
    pytest.fail(f"training loss {loss:.3f} after 300 steps")


@every_model
@pytest.mark.parametrize(
    "head",
    [
        Head(1, "binary", "ehr"),
        Head(25, "multilabel", "ehr"),
        Head(14, "multilabel", "cxr"),
        Head(9, "multiclass", "note"),
    ],
    ids=lambda head: f"{head.kind}-{head.primary}",
)
def test_logits_fit_the_head(entry, head):
    patterns = [pattern for pattern in MIXED if head.primary in pattern.split("+")]
    batch, labels = make_batch(patterns, head=head)
    output = build(entry, heads=(head,)).train()(batch)
    assert output.logits.shape == (len(patterns), head.classes)
    assert all(value.shape == () for value in output.aux.values())
    assert build(entry, heads=(head,))(batch).aux == {}
    if head.kind == "multiclass":
        return
    logits = output.logits.detach().numpy()
    probability = 1 / (1 + np.exp(-logits))
    y = labels.numpy()
    by_hand = -(y * np.log(probability) + (1 - y) * np.log1p(-probability)).mean()
    assert loss_of(nn.Module(), Output(output.logits), labels).item() == pytest.approx(by_hand, abs=1e-10)


@every_model
def test_state_restores_the_model(entry):
    model, other = build(entry), build(entry, seed=1)
    batch, _ = make_batch(MIXED)
    model.train()(batch)  # moves running statistics, where a model has some
    model.eval()
    assert not torch.equal(model(batch).logits, other(batch).logits)
    other.load_state_dict(model.state_dict())
    assert torch.equal(model(batch).logits, other(batch).logits)


@every_model
def test_training_goes_on_after_prediction_in_inference_mode(entry):
    """Index tensors that a model remembers must serve autograd, whoever asked for them first."""
    model = build(entry)
    batch, labels = make_batch(MIXED, seed=100 + ENTRIES.index(entry))  # layouts that no other test has used
    with torch.inference_mode():
        model(batch)
    loss_of(model, model.train()(batch), labels).backward()
