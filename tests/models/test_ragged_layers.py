"""Packed sequences and the shared layers against plain, padded, one-sequence-at-a-time computations."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from models.contract import Dimensions, Films, Layout, Packed, count_parameters
from models.embeddings import IMAGENET_MEAN, IMAGENET_STD, FilmEmbedding, UnimodalEmbeddings
from models.layers import ClsEncoder, EncoderLayer
from models.ragged import first_tokens, grouping, join, positions

CPU = torch.device("cpu")
lengths_lists = st.lists(st.integers(1, 200), min_size=1, max_size=9)


def _packed(lengths: tuple[int, ...], width: int, seed: int = 0) -> Packed:
    values = torch.randn(sum(lengths), width, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return Packed(values, Layout(lengths, tuple(range(len(lengths)))))


@settings(max_examples=50, deadline=None)
@given(lengths_lists)
def test_padding_by_groups_and_back_loses_nothing(lengths: list[int]) -> None:
    packed = _packed(tuple(lengths), 3)
    plan = grouping(packed.layout, CPU)
    assert torch.equal(plan.unpad([group.pad(packed.values) for group in plan.groups]), packed.values)
    assert sorted(torch.cat([group.sequences for group in plan.groups]).tolist()) == list(range(len(lengths)))
    last = [group.pad(packed.values)[:, 0] for group in plan.groups]
    assert torch.equal(plan.restore(last), packed.values[first_tokens(packed.layout, CPU)])


def test_equal_lengths_need_no_padding_and_long_tails_open_new_groups() -> None:
    equal = grouping(Layout((48,) * 32, tuple(range(32))), CPU)
    assert len(equal.groups) == 1
    assert equal.groups[0].index is None
    ragged = Layout((512, 510, 40, 30, 20), tuple(range(5)))
    assert len(grouping(ragged, CPU).groups) == 2
    assert len(grouping(ragged, torch.device("meta")).groups) == 1  # where launches cost more than padding


def _copy_weights(layer: EncoderLayer, reference: nn.TransformerEncoderLayer) -> None:
    names = {
        "self_attn.in_proj_": "qkv.",
        "self_attn.out_proj.": "out.",
        "linear1.": "expand.",
        "linear2.": "contract.",
        "norm1.": "norm1.",
        "norm2.": "norm2.",
    }
    state = layer.state_dict()
    for theirs, ours in names.items():
        for end in ("weight", "bias"):
            if ours + end in state:
                reference.get_parameter(theirs + end).data.copy_(state[ours + end])


@pytest.mark.parametrize("lengths", [(1,), (5, 5, 5), (300, 7, 150, 149, 1, 90)])
def test_layer_equals_torch_reference_on_every_sequence(lengths: tuple[int, ...]) -> None:
    layer = EncoderLayer(16, 4, dropout=0.0).double()
    reference = nn.TransformerEncoderLayer(16, 4, 64, dropout=0.0, batch_first=True).double().train()
    nn.init.normal_(layer.qkv.bias)
    _copy_weights(layer, reference)
    packed = _packed(lengths, 16)
    expected = torch.cat([reference(part[None])[0] for part in packed.values.split(lengths)])
    torch.testing.assert_close(layer(packed).values, expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("norm", ["post", "pre", "none"])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_every_kind_of_layer_equals_torch_reference_on_padded_sequences(norm: str, activation: str) -> None:
    lengths, dtype = (12, 3, 70, 1), torch.float64
    layer = EncoderLayer(16, 4, dropout=0.0, norm=norm, activation=activation)
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.5)
    options = {"norm_first": norm != "post", "activation": activation, "batch_first": True}
    reference = nn.TransformerEncoderLayer(16, 4, 64, dropout=0.0, **options).train()
    _copy_weights(layer, reference)
    if norm == "none":
        reference.norm1 = reference.norm2 = nn.Identity()
    packed = _packed(lengths, 16)
    padded = nn.utils.rnn.pad_sequence(packed.values.split(lengths), batch_first=True)
    padding = torch.arange(max(lengths)) >= torch.tensor(lengths)[:, None]
    expected = reference.to(dtype)(padded, src_key_padding_mask=padding)[~padding]
    layer = layer.to(dtype)
    torch.testing.assert_close(layer(packed).values, expected, atol=1e-12, rtol=0)
    first = first_tokens(packed.layout, CPU)
    torch.testing.assert_close(layer.read(packed, first[:, None])[:, 0], expected[first], atol=1e-12, rtol=0)


def test_reading_a_few_tokens_equals_the_full_layer_there_in_value_and_gradient() -> None:
    layer, packed = EncoderLayer(8, 2, dropout=0.0).double(), _packed((40, 3, 170, 1), 8)
    first = first_tokens(packed.layout, CPU)
    readers = torch.stack([first, first + torch.tensor(packed.layout.lengths) - 1], 1)
    full = layer(packed).values[readers]
    full.pow(2).sum().backward()
    gradients = [parameter.grad.clone() for parameter in layer.parameters()]
    layer.zero_grad()
    few = layer.read(packed, readers)
    few.pow(2).sum().backward()
    torch.testing.assert_close(few, full, atol=1e-12, rtol=0)
    for parameter, expected in zip(layer.parameters(), gradients, strict=True):
        torch.testing.assert_close(parameter.grad, expected, atol=1e-10, rtol=0)


def test_join_orders_by_row_then_part_and_knows_where_everything_went() -> None:
    marks = Packed(torch.full((3, 1), 9.0), Layout((1, 1, 1), (0, 1, 2)))
    series = Packed(torch.arange(5.0)[:, None], Layout((2, 3), (0, 2)))
    joined = join([marks, series])
    assert joined.packed.values[:, 0].tolist() == [9, 0, 1, 9, 9, 2, 3, 4]
    assert joined.packed.layout == Layout((3, 1, 4), (0, 1, 2))
    for part, where in zip((marks, series), joined.where, strict=True):
        assert torch.equal(joined.packed.values[where], part.values)


def test_positions_count_within_each_sequence() -> None:
    assert positions(Layout((2, 3), (0, 1)), CPU).tolist() == [0, 1, 0, 1, 2]


@pytest.mark.parametrize("norm", ["post", "pre"])
def test_cls_encoder_pruned_and_full_agree(norm: str) -> None:
    encoder, packed = ClsEncoder(8, 2, 2, dropout=0.0, norm=norm).double(), _packed((4, 9), 8)
    vectors, tokens = encoder.tokens(packed)
    torch.testing.assert_close(encoder(packed), vectors, atol=1e-12, rtol=0)
    assert tokens.values.shape == packed.values.shape
    everything = torch.cat([vectors, tokens.values])  # ends with a norm, whose initial values do nothing else
    torch.testing.assert_close(everything.mean(1), torch.zeros(15, dtype=torch.float64), atol=1e-12, rtol=0)


def test_grey_patches_equal_a_convolution_over_three_normalised_channels() -> None:
    embedding = FilmEmbedding(32, 8, 6).double()
    pixels = torch.rand(3, 32, 32, dtype=torch.float64)
    mean, std = (torch.tensor(v, dtype=torch.float64)[:, None, None] for v in (IMAGENET_MEAN, IMAGENET_STD))
    embedding.mean, embedding.std = mean.flatten(), std.flatten()
    expected = embedding.project((pixels[:, None].expand(-1, 3, -1, -1) - mean) / std).flatten(2).transpose(1, 2)
    tokens = embedding(Films(pixels, (0, 2, 5)))
    torch.testing.assert_close(tokens.values.view(3, 16, 6), expected, atol=1e-12, rtol=0)
    assert tokens.layout == Layout((16,) * 3, (0, 2, 5))


def test_embedding_layers_have_the_published_size() -> None:
    assert count_parameters(UnimodalEmbeddings(Dimensions())) == 362_880
    assert count_parameters(EncoderLayer(128, 2, 0.1)) == 198_272


@pytest.mark.parametrize(("name", "value"), [("width", 0), ("layers", 0), ("heads", -1), ("dropout", 1.0), ("film", 0)])
def test_bad_dimensions_are_refused_with_their_value(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name} {value}; "):
        Dimensions(**{name: value})


def test_bad_layouts_are_refused() -> None:
    with pytest.raises(ValueError, match="leave absent samples out"):
        Layout((3, 0), (0, 1))
    with pytest.raises(ValueError, match="2 tokens where the layout counts 3"):
        Packed(torch.zeros(2, 1), Layout((3,), (0,)))
