"""What is written as kernels: on a GPU where there is one, otherwise carried out by Triton's interpreter."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from prepared_data import write_prepared
from stacks import SIZES, make_stack
from torch import Tensor

from benchmark.data.dataset import PreparedData
from benchmark.registry import models
from benchmark.throughput.counting import flops
from benchmark.training.stacked import SeedStack
from models import fused_attention, fused_linear
from models.contract import Bounds, Dimensions, Packed, Slots
from models.encoder import CombinationEncoder
from models.fused_attention import attend_and_read_within, attend_within, read_within
from models.layers import EncoderLayer
from models.noise import Counting, Drawn, drawn_from

pytest.importorskip("triton", reason="kernels need Triton, which comes with torch for CUDA")

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
SEEDS, HEADS, WIDTH, QUESTIONS = 2, 2, 32, 3
LENGTHS = (70, 40, 33, 5)
USED = ((70, 33, 1, 5), (69, 40, 0, 0))
"""A full slot, one with a last block of one token, bounds of a block more, slots of nobody."""
TOKENS = 150
"""Filler of more than a block behind them."""


@pytest.fixture(scope="module", autouse=True)
def kernels() -> Iterator[None]:
    """Without a GPU the kernels are interpreted; that must be settled before they are defined."""
    patch = pytest.MonkeyPatch()
    if DEVICE.type == "cpu":
        patch.setenv("TRITON_INTERPRET", "1")
        patch.setattr(fused_attention, "DEVICES", {"cpu"})
        from models import attention_kernels, linear_kernels

        let_bfloat16_be_multiplied(patch)
        for module in (attention_kernels, linear_kernels):
            assert type(module.forward).__name__ == "InterpretedFunction", "defined before this test"
    yield
    patch.undo()


def let_bfloat16_be_multiplied(patch: pytest.MonkeyPatch) -> None:
    """The interpreter keeps it as 16 bits, whose products mean nothing: as float32, as a GPU adds up such products."""
    from triton.language import bfloat16, float32
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

    multiply = InterpreterBuilder.create_dot

    def widened(part: TensorHandle) -> TensorHandle:
        if part.dtype.scalar != bfloat16:
            return part
        return TensorHandle((part.data.astype(np.uint32) << 16).view(np.float32), float32)

    def create_dot(self: InterpreterBuilder, a: TensorHandle, b: TensorHandle, *rest: object) -> TensorHandle:
        return multiply(self, widened(a), widened(b), *rest)

    patch.setattr(InterpreterBuilder, "create_dot", create_dot)


@pytest.fixture
def plainly(monkeypatch: pytest.MonkeyPatch):
    """Calls a function as if there were no kernels."""

    def call(function, *arguments):
        with monkeypatch.context() as patch:
            patch.setattr(fused_attention, "DEVICES", set())
            return function(*arguments)

    return call


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


def slots(used: Tensor) -> Slots:
    rows = torch.where(used > 0, torch.arange(len(LENGTHS), device=DEVICE), len(LENGTHS))
    return Slots.end_to_end(Bounds(LENGTHS, TOKENS), rows, used, len(LENGTHS))


def one_by_one(qkv: Tensor, questions: Tensor, used: tuple[int, ...], scale: float) -> tuple[Tensor, Tensor, Tensor]:
    """The same for one seed, slot by slot and head by head."""
    mixed, answers = torch.zeros_like(qkv[:, :WIDTH]), torch.zeros_like(questions)
    sums = torch.zeros(*questions.shape[:2], HEADS, device=DEVICE)
    start = 0
    for slot, count in enumerate(used):
        rows = slice(start, start + count)
        for head in range(HEADS if count else 0):
            part = slice(head * WIDTH // HEADS, (head + 1) * WIDTH // HEADS)
            q, k, v = (qkv[rows, which * WIDTH : (which + 1) * WIDTH][:, part] for which in range(3))
            mixed[rows, part] = (scale * q @ k.T).softmax(-1) @ v
            scores = scale * questions[slot][:, part] @ k.T
            answers[slot, :, part] = scores.softmax(-1) @ v
            sums[slot, :, head] = scores.logsumexp(-1)
        start += count
    return mixed, answers, sums


def test_values_and_gradients_are_those_of_attention_slot_by_slot() -> None:
    used = torch.tensor(USED, device=DEVICE)
    qkv = drawn(SEEDS, TOKENS, 3 * WIDTH).requires_grad_()
    questions = drawn(SEEDS, len(LENGTHS), QUESTIONS, WIDTH, seed=1).requires_grad_()
    together = torch.vmap(lambda *own: attend_and_read_within(own[0], own[1], slots(own[2]), HEADS, 0.3, 0.0))
    found = together(qkv, questions, used)
    wanted = [one_by_one(qkv[s], questions[s], USED[s], 0.3) for s in range(SEEDS)]
    wanted = [torch.stack(parts) for parts in zip(*wanted, strict=True)]
    weights = [drawn(*part.shape, seed=2) for part in wanted]
    gradients = []
    for results in (found, wanted):
        total = sum((part * weight).sum() for part, weight in zip(results, weights, strict=True))
        gradients.append(torch.autograd.grad(total, (qkv, questions)))
    torch.testing.assert_close(list(found), wanted, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-5, atol=1e-5)


def test_seeds_are_computed_as_each_is_alone() -> None:
    """With dropout, several calls in turn, and slots that are the same for all seeds."""
    used = torch.tensor(USED[0], device=DEVICE)
    qkv, questions = drawn(SEEDS, TOKENS, 3 * WIDTH), drawn(SEEDS, len(LENGTHS), 20, WIDTH, seed=1)
    bits = torch.randint(-(2**15), 2**15, (SEEDS, 40), dtype=torch.int16, device=DEVICE)

    def twice(qkv: Tensor, questions: Tensor, bits: Tensor) -> list[Tensor]:
        with drawn_from(Drawn(bits, torch.zeros(0, device=DEVICE))):
            first = attend_within(qkv, slots(used), HEADS, 0.3, 0.2)
            return [first, *attend_and_read_within(qkv, questions, slots(used), HEADS, 0.3, 0.2)]

    together = torch.vmap(twice)(qkv, questions, bits)
    for seed in range(SEEDS):
        alone = twice(qkv[seed], questions[seed], bits[seed])
        torch.testing.assert_close([part[seed] for part in together], alone, rtol=1e-6, atol=1e-6)


def test_what_is_not_a_number_stays_so() -> None:
    used, qkv = torch.tensor(USED[0], device=DEVICE), drawn(TOKENS, 3 * WIDTH)
    qkv[3] = torch.nan
    assert attend_within(qkv, slots(used), HEADS, 0.3, 0.0)[: USED[0][0]].isnan().all()
    layer = torch.nn.Linear(3 * WIDTH, 8).to(DEVICE)
    assert fused_linear.linear(layer, qkv, 0.0, "relu")[3].isnan().all()


def test_strides_that_kernels_would_read_wrongly_are_refused() -> None:
    used = torch.tensor(USED[0], device=DEVICE)
    with pytest.raises(ValueError, match="the features of a row must lie side by side"):
        attend_within(drawn(3 * WIDTH, TOKENS).T, slots(used), HEADS, 0.3, 0.0)


@pytest.mark.slow
def test_dropout_drops_its_share_and_gradients_are_those_of_the_same_draw() -> None:
    used, rate = torch.tensor(USED[0], device=DEVICE), 0.25
    bits = torch.tensor([3, -7, 11, 13, -17, 19, 23, 29], dtype=torch.int16, device=DEVICE)
    inputs = [drawn(TOKENS, 3 * WIDTH), drawn(len(LENGTHS), QUESTIONS, WIDTH, seed=1)]
    weights: list[Tensor] = []

    def value(qkv: Tensor, questions: Tensor) -> Tensor:
        with drawn_from(Drawn(bits, torch.zeros(0, device=DEVICE))):
            mixed, answers, sums = attend_and_read_within(qkv, questions, slots(used), HEADS, 0.3, rate)
        if not weights:
            weights.extend(drawn(*part.shape, seed=2) for part in (mixed, answers, sums))
        return sum((part * weight).sum() for part, weight in zip((mixed, answers, sums), weights, strict=True))

    leaves = [part.clone().requires_grad_() for part in inputs]
    gradients = torch.autograd.grad(value(*leaves), leaves)
    direction = [drawn(*part.shape, seed=5) for part in inputs]
    ahead, behind = (
        value(*(part + step * along for part, along in zip(inputs, direction, strict=True))) for step in (1e-2, -1e-2)
    )
    along = sum((part * way).sum() for part, way in zip(gradients, direction, strict=True))
    torch.testing.assert_close(along, (ahead - behind) / 2e-2, rtol=2e-2, atol=1e-1)
    ones = torch.cat([inputs[0][:, : 2 * WIDTH], torch.ones(TOKENS, WIDTH, device=DEVICE)], 1)
    kept = []
    for number in range(4):
        with drawn_from(Drawn(bits + number, torch.zeros(0, device=DEVICE))):
            kept.append(attend_within(ones, slots(used), HEADS, 0.0, rate)[: USED[0][0]])
    kept = torch.stack(kept).view(4, USED[0][0], HEADS, -1)[..., 0] * (1 - rate)  # shares of equal probabilities
    assert kept.mean().item() == pytest.approx(1 - rate, abs=0.01)
    assert not torch.equal(kept[0], kept[1]) and not torch.equal(kept[:, :, 0], kept[:, :, 1]), "other draws"


@pytest.mark.slow
def test_a_layer_and_the_encoder_compute_what_they_compute_without_kernels(plainly) -> None:
    torch.manual_seed(0)
    layer = EncoderLayer(WIDTH, HEADS, 0.0).to(DEVICE)
    used = torch.tensor(USED[0], device=DEVICE)
    packed = Packed(drawn(TOKENS, WIDTH), slots(used))
    real = torch.arange(TOKENS, device=DEVICE) < used.sum()
    readers = torch.tensor([[0, 1], [70, 71], [103, 103], [104, 105]], device=DEVICE)
    for function in (lambda: layer(packed).values[real], lambda: layer.read(packed, readers)):
        torch.testing.assert_close(function(), plainly(function), rtol=1e-5, atol=1e-5)
    encoder = CombinationEncoder(WIDTH, 2, HEADS, 0.0).to(DEVICE)
    present = torch.tensor([[True, False, True]] * len(LENGTHS), device=DEVICE)
    streams = [packed, None, Packed(drawn(TOKENS, WIDTH, seed=3), slots(used))]
    special = drawn(len(LENGTHS), encoder.mask.specials, WIDTH, seed=4)

    def encoded() -> list[Tensor]:
        encoder.zero_grad()
        found = encoder(special, streams, present)
        found.square().sum().backward()
        return [found.detach(), *(parameter.grad.clone() for parameter in encoder.parameters())]

    torch.testing.assert_close(encoded(), plainly(encoded), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("rate", [0.0, 0.25])
def test_in_half_precision_values_and_gradients_differ_by_rounding_alone(rate: float) -> None:
    used, found = torch.tensor(USED[0], device=DEVICE), []
    content, questions = drawn(TOKENS, 3 * WIDTH).bfloat16(), drawn(len(LENGTHS), QUESTIONS, WIDTH, seed=1)
    for dtype in (torch.bfloat16, torch.float32):
        qkv, asked = content.to(dtype).requires_grad_(), questions.clone().requires_grad_()
        with drawn_from(Drawn(torch.arange(8, dtype=torch.int16, device=DEVICE), torch.zeros(0, device=DEVICE))):
            results = attend_and_read_within(qkv, asked, slots(used), HEADS, 0.3, rate)
        assert [part.dtype for part in results] == [dtype, torch.float32, torch.float32]
        total = sum((part * drawn(*part.shape, seed=2)).sum() for part in results)
        found.append([part.float() for part in (*results, *torch.autograd.grad(total, (qkv, asked)))])
    for half, full in zip(*found, strict=True):
        assert (half - full).norm() < 1.5e-2 * full.norm()
        torch.testing.assert_close(half, full, rtol=5e-2, atol=5e-2)


def test_as_many_random_numbers_are_drawn_as_are_counted() -> None:
    used = torch.tensor(USED[0], device=DEVICE)
    with drawn_from(Counting()) as counter:
        read_within(drawn(TOKENS, 2 * WIDTH), drawn(4, 1, WIDTH), slots(used), HEADS, 0.3, 0.1)
    assert counter.bits_used == 8


@pytest.mark.parametrize("activation", ["none", "relu", "gelu"])
@pytest.mark.parametrize("with_residual", [False, True])
@pytest.mark.parametrize("rate", [0.0, 0.25])
def test_a_linear_layer_with_what_follows_it(
    activation: fused_linear.Activation, with_residual: bool, rate: float
) -> None:
    torch.manual_seed(0)
    layers = [torch.nn.Linear(8, 20).to(DEVICE) for _ in range(SEEDS)]
    weight, bias = (torch.stack([getattr(layer, name).detach() for layer in layers]) for name in ("weight", "bias"))
    values, residual = drawn(SEEDS, 90, 8), drawn(SEEDS, 90, 20, seed=1)
    # More than one call takes, so that a seed's numbers do not follow those of the seed before.
    bits = torch.randint(-(2**15), 2**15, (SEEDS, 12), dtype=torch.int16, device=DEVICE)
    leaves = [part.clone().requires_grad_() for part in (weight, bias, values, residual)]

    def fused(weight: Tensor, bias: Tensor, values: Tensor, residual: Tensor, bits: Tensor) -> Tensor:
        layer = SimpleNamespace(weight=weight, bias=bias)
        with drawn_from(Drawn(bits, torch.zeros(0, device=DEVICE))):
            return fused_linear.linear(layer, values, rate, activation, residual if with_residual else None)

    kept = torch.ones(SEEDS, 90, 20, device=DEVICE)
    if rate:
        blank = [torch.zeros_like(weight), torch.ones_like(bias), values, torch.zeros_like(residual)]
        kept = (torch.vmap(fused)(*blank, bits) != 0).float()
        assert kept.mean().item() == pytest.approx(1 - rate, abs=0.03) and not torch.equal(kept[0], kept[1])
        alone = torch.stack([fused(*(part[seed] for part in blank), bits[seed]) for seed in range(SEEDS)])
        assert torch.equal(alone != 0, kept != 0), "a seed's draw depends on the others"
    found = torch.vmap(fused)(*leaves, bits)
    hidden = torch.baddbmm(leaves[1][:, None], leaves[2], leaves[0].mT)
    active = hidden if activation == "none" else getattr(torch.nn.functional, activation)(hidden)
    wanted = active * kept / (1 - rate) + (leaves[3] if with_residual else 0)
    weights = drawn(*wanted.shape, seed=2)
    gradients = [
        torch.autograd.grad((result * weights).sum(), leaves, materialize_grads=True) for result in (found, wanted)
    ]
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=2e-5)


def test_products_of_tokens_are_counted_and_none_of_filler() -> None:
    used = torch.tensor(USED[0], device=DEVICE)
    qkv = drawn(TOKENS, 3 * WIDTH).requires_grad_()
    squares = sum(length**2 for length in USED[0]) * WIDTH
    assert flops(lambda: attend_within(qkv, slots(used), HEADS, 0.3, 0.0)) == 2 * 2 * squares
    assert flops(lambda: attend_within(qkv, slots(used), HEADS, 0.3, 0.0).sum().backward()) == (2 + 7) * 2 * squares


def test_what_is_kept_is_random_in_place_and_number() -> None:
    """Shares, and correlations with neighbours, with other rows of a table, and under numbers that differ in a bit."""
    from marking_kernel import mark

    def marks(*number: int) -> Tensor:
        out = torch.empty(2**16, dtype=torch.int32, device=DEVICE)
        mark[(1,)](out, torch.tensor(number, dtype=torch.int16, device=DEVICE), 2**14, SIZE=2**16)
        return out.float() - 0.75

    first = marks(0, 0, 0, 0)
    others = [
        marks(*(1 << bit if word == place else 0 for place in range(4))) for word in range(4) for bit in (0, 7, 14)
    ]
    pairs = [(first, other) for other in others] + [(others[0], other) for other in others[1:]]
    pairs += [(one[:-step], one[step:]) for one in (first, others[5]) for step in (1, 2, 64, 512, 4096)]
    for one in (first, *others):
        assert abs(one.mean()) < 5 * (0.1875 / len(one)) ** 0.5
    for one, other in pairs:
        assert abs((one * other).mean()) < 5 * 0.1875 / len(other) ** 0.5


@pytest.mark.slow
@pytest.mark.parametrize(("model", "options", "layers"), [("mt", {"fusion_start": 1}, 2), ("flexcare-st", {}, 1)])
def test_a_seed_of_a_stack_has_the_loss_that_it_has_alone(
    model: str, options: dict[str, int], layers: int, tmp_path: Path
) -> None:
    """With dropout; in MT some slots are the same for all seeds."""
    data = PreparedData.open(write_prepared(tmp_path / "data", ("ihm",)))
    settings = {"dimensions": Dimensions(**(SIZES | {"width": 32, "layers": layers}), dropout=0.2), "batch_size": 2}
    settings |= {"config": models()[model].config(**options), "tasks": ("ihm",)}
    stack, source, objective = make_stack(model, "ihm", data, DEVICE, **settings)
    batch = next(source.epoch(1))
    noise = stack.draw(batch, [1, 1000])
    together = stack.losses(batch, objective, noise).detach()
    for seed in range(stack.seeds):
        own = slice(seed, seed + 1)
        single = SeedStack([stack.member(seed)])
        content = batch.with_tensors({name: value[own] for name, value in batch.tensors.items()})
        alone = single.losses(content, objective, tuple(part[own] for part in noise)).detach()
        torch.testing.assert_close(alone, together[own], rtol=1e-5, atol=1e-6)
