"""Streams and readers against the dense masked reference, and what each token may depend on."""

from __future__ import annotations

import pytest
import torch
from random_batches import PATTERNS
from torch import Tensor

from models.contract import MODALITIES, Layout, Packed
from models.dense_encoder import DenseCombinationEncoder
from models.encoder import CombinationEncoder
from models.joint_encoder import JointEncoder
from models.mask import COMBINATIONS, SINGLES, Mask, complete_combinations

READERS = Mask().specials
READERS_OF = [Mask().readers_of(m) for m in range(3)]

MIXED = (*PATTERNS, "ehr", "ehr+cxr+note", "ehr+note")


MASKS = {
    "paper": Mask(),
    "incomplete hidden from the task": Mask(task_sees_incomplete=False),
    "no task token": Mask(task=False),
    "added": Mask(enforced=False),
    "added, no task token": Mask(task=False, enforced=False),
    "added, incomplete hidden": Mask(task_sees_incomplete=False, enforced=False),
}


def both_encoders(
    dropout: float = 0.0,
    layers: int = 3,
    width: int = 16,
    mask: Mask = Mask(),
    form: type[CombinationEncoder] = CombinationEncoder,
    scale: str = "head",
) -> tuple[CombinationEncoder, CombinationEncoder]:
    """An encoder and the dense reference with the same parameters."""
    torch.manual_seed(0)
    packed = form(width, layers, 2, dropout, mask=mask, scale=scale).double()
    with torch.no_grad():  # biases and norms start degenerate
        for parameter in packed.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    dense = DenseCombinationEncoder(width, layers, 2, dropout, mask=mask, scale=scale).double()
    dense.load_state_dict(packed.state_dict())
    return packed, dense


def embedded(
    patterns: tuple[str, ...], lengths: list[tuple[int, int, int]] | None = None
) -> tuple[list, Tensor, Tensor]:
    """Random embedded tokens of each modality, readers and presence; lengths (ehr, cxr, note) a sample."""
    torch.manual_seed(1)
    lengths = lengths or [tuple(torch.randint(1, 9, (3,)).tolist()) for _ in patterns]
    streams = []
    for m, name in enumerate(MODALITIES):
        rows = tuple(i for i, pattern in enumerate(patterns) if name in pattern.split("+"))
        layout = Layout(tuple(lengths[i][m] for i in rows), rows)
        values = torch.randn(layout.tokens, 16, dtype=torch.float64, requires_grad=True)
        streams.append(Packed(values, layout) if rows else None)
    present = torch.tensor([[name in pattern.split("+") for name in MODALITIES] for pattern in patterns])
    readers = torch.randn(len(patterns), READERS, 16, dtype=torch.float64, requires_grad=True)
    return streams, readers, present


def gradients(
    encoder: CombinationEncoder, streams: list, readers: Tensor, present: Tensor
) -> tuple[Tensor, list[Tensor]]:
    output = encoder(readers, streams, present)
    weights = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).sin().view_as(output)
    leaves = [*encoder.parameters(), readers, *(stream.values for stream in streams if stream is not None)]
    return output, list(torch.autograd.grad((output * weights).sum(), leaves))


CASES = {
    **{pattern: ((pattern,) * 2, [(1, 1, 1), (8, 4, 8)]) for pattern in PATTERNS},
    "mixed": (MIXED, None),
    "one group each": (MIXED, [(5, 4, 5)] * len(MIXED)),
    "long and short": (("ehr+cxr+note", "ehr", "note", "ehr+note"), [(130, 4, 1), (1, 4, 1), (1, 4, 120), (60, 4, 9)]),
}


def assert_equal_to_dense(encoders, case, dtype=torch.float64, tolerance=1e-10):
    streams, readers, present = embedded(*CASES[case])
    streams = [stream and stream.with_values(stream.values.detach().to(dtype).requires_grad_()) for stream in streams]
    readers = readers[:, : encoders[0].mask.specials].detach().to(dtype).requires_grad_()
    (value, grads), (expected, expected_grads) = (
        gradients(encoder.to(dtype), streams, readers, present) for encoder in encoders
    )
    torch.testing.assert_close(value, expected, rtol=0, atol=tolerance)
    for grad, other in zip(grads, expected_grads, strict=True):
        torch.testing.assert_close(grad, other, rtol=tolerance, atol=tolerance * max(1.0, other.abs().max().item()))


@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-10), (torch.float32, 1e-5)], ids=str)
@pytest.mark.parametrize("case", CASES)
def test_streams_equal_the_dense_reference_in_values_and_gradients(case, dtype, tolerance):
    assert_equal_to_dense(both_encoders(), case, dtype, tolerance)


@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-10), (torch.float32, 1e-5)], ids=str)
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("mask", ["paper", "added"])
def test_sample_by_sample_equals_the_dense_reference_in_values_and_gradients(mask, case, dtype, tolerance):
    assert_equal_to_dense(both_encoders(mask=MASKS[mask], form=JointEncoder), case, dtype, tolerance)


@pytest.mark.parametrize("scale", ["head", "model"])
@pytest.mark.parametrize("mask", MASKS)
def test_every_mask_and_scale_in_every_form(mask, scale):
    forms = [JointEncoder, CombinationEncoder] if MASKS[mask].separates else [JointEncoder]
    for form in forms:
        assert_equal_to_dense(both_encoders(mask=MASKS[mask], form=form, scale=scale), "mixed")


@pytest.mark.parametrize("mask", [Mask(), Mask(task=False), Mask(combinations=False)], ids=str)
@pytest.mark.parametrize("case", ["mixed", "cxr", "long and short"])
def test_streams_equal_sample_by_sample_with_all_outputs(case, mask):
    streams, readers, present = embedded(*CASES[case])
    readers = readers[:, : mask.specials]
    torch.manual_seed(0)
    first = CombinationEncoder(16, 3, 2, 0.0, mask=mask).double()
    second = JointEncoder(16, 3, 2, 0.0, mask=mask).double()
    second.load_state_dict(first.state_dict())
    results = []
    for encoder in (first, second):
        encoded, content = encoder.encode_all(readers, streams, present)
        values = [encoded, *(stream.values for stream in content if stream is not None)]
        loss = sum((value * torch.linspace(-1, 1, value.numel()).view_as(value).sin()).sum() for value in values)
        results.append([*values, *torch.autograd.grad(loss, list(encoder.parameters()))])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(first(readers, streams, present), results[0][0], rtol=0, atol=1e-10)


def test_scales_differ():
    streams, readers, present = embedded(MIXED)
    head, model = (both_encoders(scale=scale)[0](readers, streams, present) for scale in ("head", "model"))
    assert not torch.allclose(head, model)


def test_streams_refuse_a_mask_that_lets_modalities_meet():
    for mask in (Mask(enforced=False), Mask(modalities_meet=True), Mask(combinations=False, task=False)):
        with pytest.raises(ValueError, match="streams and readers need"):
            CombinationEncoder(16, 1, 2, 0.0, mask=mask)


def test_the_added_mask_is_one_on_forbidden_pairs_and_zero_on_allowed_ones():
    """Over what exists; what does not is hidden from all."""
    for mask in (Mask(enforced=False), Mask(task=False, enforced=False)):
        present = torch.tensor([[True, True, True], [True, False, False]])
        bias, seen = mask.bias(present, torch.float64), mask.visible(present)
        assert torch.equal(bias[0], (~seen[0]).double())
        kinds = mask.specials + SINGLES
        absent = {mask.first + 1, mask.first + 2, mask.specials + 1, mask.specials + 2}
        for key in range(kinds):
            column = bias[1, :, key]
            assert column.eq(-torch.inf).all() if key in absent else torch.equal(column, (~seen[1, :, key]).double())


@pytest.mark.parametrize(
    ("form", "mask"), [(CombinationEncoder, "paper"), (JointEncoder, "added")], ids=["streams", "joint"]
)
def test_dropout_has_the_distribution_of_dropout_on_whole_rows(form, mask):
    """Mean and spread over many copies of one sample; means of the dense form without dropout are far off."""
    copies, quiet = 6_000, both_encoders(0.0, layers=1, mask=MASKS[mask], form=form)[1]
    streams, readers, present = embedded(("ehr+note",), [(2, 1, 3)])
    readers = readers.expand(copies, -1, -1)
    many = [
        stream and Packed(stream.values.repeat(copies, 1), Layout(stream.layout.lengths * copies, tuple(range(copies))))
        for stream in streams
    ]
    present = present.expand(copies, -1)
    moments = []
    with torch.no_grad():
        for encoder in both_encoders(0.3, layers=1, mask=MASKS[mask], form=form):
            torch.manual_seed(2)
            output = encoder.train()(readers, many, present).flatten(1)
            moments.append((output.mean(0), output.var(0)))
        plain = quiet(readers[:1], streams, present[:1]).flatten()
    (mean, var), (expected_mean, expected_var) = moments
    error = (2 * expected_var / copies).sqrt()
    assert ((mean - expected_mean).abs() / error).max() < 5
    assert (var / expected_var).log().abs().max() < 0.2
    assert ((plain - expected_mean).abs() / error).max() > 20


def test_a_whole_row_without_content_keys_still_reads_itself():
    """The combinations of an absent modality read only themselves: constants, the same for all samples."""
    encoder, _ = both_encoders()
    streams, readers, present = embedded(("note", "note+cxr", "note"))
    readers = readers[:1].expand(3, -1, -1)
    encoded = encoder(readers, streams, present)
    ehr = 1 + COMBINATIONS.index((True, False, False))
    torch.testing.assert_close(encoded[1:, ehr], encoded[:1, ehr].expand(2, -1))
    assert encoded.isfinite().all()


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_a_combination_depends_on_exactly_its_members_and_the_task_token_on_all(layers):
    encoder, _ = both_encoders(layers=layers)
    streams, readers, present = embedded(("ehr+cxr+note",) * 2)
    encoded = encoder(readers, streams, present)
    for reader in range(READERS):
        grads = torch.autograd.grad(
            encoded[:, reader].square().sum(),
            [stream.values for stream in streams],
            retain_graph=True,
            allow_unused=True,
        )
        for m, grad in enumerate(grads):
            reached = grad is not None and bool(grad.any())
            assert reached == (reader in READERS_OF[m]), f"reader {reader}, {MODALITIES[m]}"


def test_readers_see_readers_as_the_mask_says():
    encoder, _ = both_encoders()
    patterns = ("ehr+cxr+note", "ehr", "cxr+note")
    streams, readers, present = embedded(patterns)
    encoded = encoder(readers, streams, present)
    for row in range(len(patterns)):
        for query in range(READERS):
            (grad,) = torch.autograd.grad(encoded[row, query].square().sum(), readers, retain_graph=True)
            keys = {reader for reader in range(READERS) if grad[row, reader].any()}
            singles = {1 + m for m in range(3) if present[row, m]}
            assert keys == ({0, 4, 5, 6, 7} | singles if query == 0 else {query})
            assert not grad[[other for other in range(len(patterns)) if other != row]].any()


def test_complete_combinations():
    present = torch.tensor([[True, False, True], [True, True, True], [False, True, False]])
    complete = complete_combinations(present)
    assert complete.sum(1).tolist() == [3, 7, 1]
    assert [COMBINATIONS[c] for c in complete[0].nonzero().flatten()] == [
        (True, False, False),
        (False, False, True),
        (True, False, True),
    ]


def test_a_sample_without_any_modality_is_refused():
    encoder, _ = both_encoders()
    streams, readers, present = embedded(("ehr", "note"))
    with pytest.raises(ValueError, match=r"batch rows \[1\] own no modality"):
        encoder(readers, [streams[0], None, None], present)


def test_half_precision_keeps_softmax_exact_enough():
    """Under autocast, scores and softmax of the readers stay in float32."""
    encoder, dense = both_encoders()
    encoder, dense = encoder.float(), dense.float()
    streams, readers, present = embedded(MIXED)
    streams = [stream and stream.with_values(stream.values.detach().float()) for stream in streams]
    with torch.autocast("cpu", torch.bfloat16):
        half = encoder(readers.detach().float(), streams, present)
    full = dense(readers.detach().float(), streams, present)
    assert (half - full).abs().max() < 0.15
    assert half.isfinite().all()


def test_layers_start_from_independent_values_or_as_clones():
    encoder = CombinationEncoder(16, 2, 2, 0.1)
    assert not torch.equal(encoder.layers[0].qkv.weight, encoder.layers[1].qkv.weight)
    first, second = CombinationEncoder(16, 2, 2, 0.1, init="cloned").layers
    assert all(torch.equal(a, b) and a is not b for a, b in zip(first.parameters(), second.parameters(), strict=True))
    with pytest.raises(ValueError, match="layers 0"):
        CombinationEncoder(16, 0, 2, 0.1)


@pytest.mark.parametrize("mask", [*MASKS.values(), Mask(combinations=False), Mask(combinations=False, task=False),
                                  Mask(combinations=False, modalities_meet=True), Mask(task=False, enforced=False)],
                         ids=str)  # fmt: skip
def test_no_token_that_exists_is_without_a_key(mask):
    """So that no softmax runs over nothing, and nothing has to be mended afterwards."""
    present = torch.tensor([[name in pattern.split("+") for name in MODALITIES] for pattern in PATTERNS])
    sees = (mask.bias(present, torch.float64) > -torch.inf).any(-1)  # (B, K)
    assert sees[:, : mask.specials].all()
    assert sees[:, mask.specials :][present].all()


def test_rows_of_padding_are_zero_in_the_dense_reference():
    _, dense = both_encoders()
    q = torch.randn(1, 3, 16, dtype=torch.float64)
    added = torch.zeros(1, 1, 3, 3, dtype=torch.float64)
    added[0, 0, 1] = -torch.inf
    mixed = dense._attention(dense.layers[0], q, added)
    assert not mixed[0, 1].any()
    assert mixed[0, [0, 2]].all()
