"""What must hold for every model of the comparison, whatever it computes: absence, batches, gradients, determinism."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from invariants import never_reads_padding, stands_alone
from prepared_data import ENCODER, NOTE_WIDTH, overwrite_unseen, write_prepared
from random_batches import BINARY, PATTERNS, SMALL, Sample, collate, make_batch, make_labels, make_samples, randomise
from torch import Tensor, nn

from baselines import ENTRIES as BASELINES
from benchmark.data.batches import BatchSource, Labels
from benchmark.data.dataset import PreparedData
from benchmark.training.losses import total_loss
from models import ENTRIES as OWN
from models import ragged
from models.contract import MODALITIES, Dimensions, Head, ModelEntry, Output
from models.layers import EncoderLayer

TWINS = ("flexcare-st", "flexcare-pretrained")
"""FlexCare's network, trained on one task or from another start."""

ENTRIES = tuple(entry for entry in (*OWN, *BASELINES) if not entry.fits and entry.name not in TWINS)
"""Models that are trained by gradient."""

every_model = pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
uncoupled = pytest.mark.parametrize(
    "entry", [entry for entry in ENTRIES if not entry.couples_samples], ids=lambda entry: entry.name
)
coupled = pytest.mark.parametrize(
    "entry", [entry for entry in ENTRIES if entry.couples_samples], ids=lambda entry: entry.name
)

MIXED = (*PATTERNS, "ehr", "ehr+cxr+note", "ehr+note")
HEADS = (
    Head(1, "binary", "ehr"),
    Head(25, "multilabel", "ehr"),
    Head(14, "multilabel", "cxr"),
    Head(9, "multiclass", "note"),
)
STORED = Dimensions(
    width=16, layers=2, dropout=0.0, note_features=NOTE_WIDTH, film=32, patch=16, hours=6, note_tokens=4
)
"""Sizes for the prepared data set, some of whose series and texts are longer."""


def name_of(head: Head) -> str:
    return f"{head.kind}-{head.primary}"


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


def loss_of(model: nn.Module, output: Output, y: Tensor, kind: str = "binary", known: Tensor | None = None) -> Tensor:
    """The loss of training; all labels known by default."""
    known = torch.ones_like(y, dtype=torch.bool) if known is None else known
    return total_loss(kind, output, Labels(y, known), getattr(model, "aux_weights", {}), 1.0)


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, float | None], BatchSource]:
    """Batch sources over equal data sets, but for what no sample of a task may see: it is `filler`, unless None."""

    @functools.cache
    def source(task: str, filler: float | None) -> BatchSource:
        folder = write_prepared(tmp_path_factory.mktemp("prepared") / "data", (task,), size=60)
        if filler is not None:
            overwrite_unseen(folder, task, STORED, filler)
        data = PreparedData.open(folder)
        return BatchSource(data, data.task(task), "train", STORED, ENCODER, 0, torch.device("cpu"))

    return source


def contents(source: BatchSource) -> tuple[np.ndarray, ...]:
    return source.data.series.values, source.data.tails, source.data.films, source.notes.values


@every_model
@pytest.mark.parametrize("filler", [0.0, 1e4])
@pytest.mark.parametrize("task", ["ihm", "dia"])
def test_stored_content_that_a_sample_must_not_see_changes_no_output(entry, task, filler, stores):
    source, other = stores(task, None), stores(task, filler)
    for ours, theirs in zip(contents(source), contents(other), strict=True):
        seen_by_all = task == "dia" and ours is source.data.films
        assert np.array_equal(ours, theirs) == seen_by_all
    head = Head(len(source.task.classes) if task == "dia" else 1, source.task.task.kind, source.task.task.primary)
    model = build(entry, heads=(head,), dims=STORED, dtype=torch.float32)
    logits, expected = (model(each.batch(np.arange(len(each))).inputs).logits for each in (other, source))
    assert expected.isfinite().all()
    assert torch.equal(logits, expected)


@every_model
def test_what_fills_up_a_group_of_sequences_changes_neither_output_nor_gradient(entry):
    batch, y = make_batch(MIXED, seed=5)
    model = build(entry)
    filled = never_reads_padding(lambda: build(entry), batch, lambda one, batch: loss_of(one, one(batch), y))
    equal_lengths = entry.reads == ("cxr",) or not any(isinstance(module, EncoderLayer) for module in model.modules())
    assert filled > 0 or equal_lengths


@every_model
def test_sequences_in_groups_of_similar_length_give_what_one_padded_group_gives(entry, monkeypatch):
    """Small batches never cost enough padding to be cut into groups; here each length has its own."""
    batch, y = make_batch(MIXED, seed=5)
    results = []
    for overhead in (10**9, 0):
        monkeypatch.setitem(ragged.GROUP_OVERHEAD, "cpu", overhead)
        ragged.forget_groups()
        model = build(entry, dropout=False).train()
        torch.manual_seed(0)  # the router's noise
        output = model(batch)
        loss_of(model, output, y).backward()
        results.append([output.logits.detach(), *(parameter.grad for parameter in model.parameters())])
    groups = len(ragged.grouping(batch.ehr.layout, batch.device).groups)
    ragged.forget_groups()
    assert groups == len(set(batch.ehr.layout.lengths)) > 1
    for one, many in zip(*results, strict=True):
        torch.testing.assert_close(many, one, rtol=0, atol=1e-10)


@uncoupled
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_content_of_one_sample_reaches_no_other(entry, value):
    """Not even through a product with zero."""
    model, samples = build(entry), make_samples(MIXED)
    expected = model(collate(samples)).logits
    for i, sample in enumerate(samples):
        parts = {name: getattr(sample, name) for name in MODALITIES}
        spoilt = {name: part if part is None else torch.full_like(part, value) for name, part in parts.items()}
        logits = model(collate([*samples[:i], Sample(**spoilt), *samples[i + 1 :]])).logits
        others = [j for j in range(len(samples)) if j != i]
        torch.testing.assert_close(logits[others], expected[others], rtol=0, atol=1e-10, msg=sample.pattern)


@every_model
def test_a_prediction_draws_no_random_number_and_leaves_the_model_as_it_was(entry):
    model = build(entry, dims=dataclasses.replace(SMALL, dropout=0.5))
    batch, _ = make_batch(MIXED)
    generator = torch.get_rng_state()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    assert torch.equal(model(batch).logits, model(batch).logits)
    assert torch.equal(torch.get_rng_state(), generator)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


@uncoupled
def test_a_sample_alone_equals_the_sample_in_any_batch_and_order(entry):
    stands_alone(build(entry), make_samples(MIXED))


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
@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("pattern", PATTERNS)
def test_every_pattern_is_finite_at_lengths_one_and_maximum(entry, pattern, size):
    model = build(entry).train()
    lengths = [(1, 1), (SMALL.hours, SMALL.note_tokens), (1, SMALL.note_tokens)]
    batch, labels = make_batch([pattern] * size, lengths=lengths)
    output = model(batch)
    assert output.logits.isfinite().all()
    loss_of(model, output, labels).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is None or parameter.grad.isfinite().all(), name
    for modality in set(entry.reads) - set(pattern.split("+")):
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
    for modality in set(entry.reads) & set(pattern.split("+")):
        content = getattr(samples[0], modality)
        moved = dataclasses.replace(samples[0], **{modality: content + 0.5 * torch.cos(37 * content)})
        after = model(collate([moved, *samples[1:]])).logits[0]
        assert (after - before).abs().max() > 1e-9, modality


@every_model
@pytest.mark.parametrize("head", HEADS, ids=name_of)
def test_masked_labels_change_neither_loss_nor_gradient(entry, head):
    patterns = [pattern for pattern in MIXED if head.primary in pattern.split("+")]
    batch, y = make_batch(patterns, head=head)
    known = torch.rand(y.shape, generator=torch.Generator().manual_seed(2)) < 0.6
    known[0] = False
    assert known.any()
    other = (y + 1) % head.classes if head.kind == "multiclass" else 1 - y
    results = []
    for labels in (y, torch.where(known, y, other), torch.where(known, other, y)):  # the last one is no trivial case
        model = build(entry, heads=(head,))
        loss = loss_of(model, model(batch), labels, head.kind, known)
        results.append([loss, *torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)])
    assert all(a is None or torch.equal(a, b) for a, b in zip(results[0], results[1], strict=True))
    assert results[2][0] != results[0][0]


@every_model
@pytest.mark.parametrize("head", HEADS, ids=name_of)
def test_a_batch_without_any_label_has_no_loss(entry, head):
    patterns = [pattern for pattern in MIXED if head.primary in pattern.split("+")]
    batch, y = make_batch(patterns, head=head)
    model = build(entry, heads=(head,))
    loss = loss_of(model, model(batch), y, head.kind, torch.zeros_like(y, dtype=torch.bool))
    assert loss == 0
    grads = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
    assert not any(grad is not None and grad.any() for grad in grads)


@every_model
def test_same_seed_same_losses(entry):
    dims = dataclasses.replace(SMALL, dropout=0.1)

    def losses() -> list[float]:
        model = build(entry, dims=dims, dtype=torch.float32).train()
        optimizer = torch.optim.Adam(model.parameters(), 1e-3)
        history = []
        for step in range(4):
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
    readable = [pattern for pattern in PATTERNS if set(entry.reads) & set(pattern.split("+"))]
    samples = make_samples((readable * 16)[:64], dtype=torch.float32)
    labels = make_labels(BINARY, 64, dtype=torch.float32)
    batch = collate(samples)
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    loss = math.inf
    for _ in range(300):
        output = model(batch)
        optimizer.zero_grad()
        loss_of(model, output, labels).backward()
        optimizer.step()
        loss = loss_of(model, Output(output.logits), labels).item()
        if loss < 0.05:
            return
    pytest.fail(f"training loss {loss:.3f} after 300 steps")


@every_model
@pytest.mark.parametrize("head", HEADS, ids=name_of)
def test_logits_fit_the_head_and_the_loss_is_the_one_written_out(entry, head):
    patterns = [pattern for pattern in MIXED if head.primary in pattern.split("+")]
    batch, labels = make_batch(patterns, head=head)
    output = build(entry, heads=(head,)).train()(batch)
    assert output.logits.shape == (len(patterns), head.classes)
    assert all(value.shape == () for value in output.aux.values())
    assert build(entry, heads=(head,))(batch).aux == {}
    logits, y = output.logits.detach().numpy(), labels.numpy()
    if head.kind == "multiclass":
        chance = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        by_hand = -np.log(chance[np.arange(len(y)), y]).mean()
    else:
        chance = 1 / (1 + np.exp(-logits))
        by_hand = -(y * np.log(chance) + (1 - y) * np.log1p(-chance)).mean()
    assert loss_of(nn.Module(), Output(output.logits), labels, head.kind).item() == pytest.approx(by_hand, rel=1e-5)


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
