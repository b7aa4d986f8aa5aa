"""One training step for several seeds of a model: parameters with a leading seed axis, one product for all of them.

Every parameter has a leading axis of S seeds, and all of them lie in one vector. The model is written for one seed;
`torch.vmap` runs it for all, so that every product of a layer becomes one batched product with weights (S, out, in).
Batches have fixed shapes, random numbers are drawn before the step from each seed's own stream, and nothing is read
back: the step is a function of tensors at fixed places, which a CUDA device records once and replays (`recording.py`).

No seed has any influence on another: losses are added, so that each one's gradient is its own.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from benchmark.data.stacked import StackedBatch, inputs_of, labels_of
from benchmark.training.adam import FlatAdam, MemberAdam
from benchmark.training.losses import total_loss
from models.noise import Counting, Drawn, drawn_from
from models.slots import spread

ALIGNMENT = 64
"""Every parameter begins at a multiple of this many numbers, as fast products want it."""


@dataclass(frozen=True)
class Objective:
    """What a step minimises: the task's kind of loss, its weight, and the weights of auxiliary losses."""

    kind: str
    weight: float
    aux_weights: Mapping[str, float]


class SeedStack:
    """Models that differ in their values alone, trained side by side.

    Args:
        models: one a seed, on the device where they are trained; they are copied.
        clip_norm: bound on each seed's gradient norm. half: bfloat16 where autocast chooses it.

    Attributes:
        values: (N,), all parameters of all seeds. template: a model whose own values do not matter.
    """

    def __init__(self, models: Sequence[nn.Module], clip_norm: float | None = None, half: bool = False) -> None:
        first = models[0]
        self.seeds, self.half = len(models), half
        self.together = getattr(first, "vmappable", True)
        self.template = copy.deepcopy(first)
        shapes = {name: torch.Size([self.seeds, *value.shape]) for name, value in first.named_parameters()}
        self.places = _places(shapes)
        device = next(first.parameters()).device
        self.device, self.generator = device, torch.Generator(device)
        self.values = torch.zeros(max(stop for _, stop in self.places.values()), device=device)
        self.gradient = torch.zeros_like(self.values)
        self.parameters: dict[str, Tensor] = {}
        for name, (start, stop) in self.places.items():
            part = self.values[start:stop].view(shapes[name])
            part.copy_(torch.stack([model.get_parameter(name).detach() for model in models]))
            leaf = part.detach().requires_grad_(first.get_parameter(name).requires_grad)
            leaf.grad = self.gradient[start:stop].view(shapes[name]) if leaf.requires_grad else None
            self.parameters[name] = leaf
        self.buffers = {
            name: torch.stack([dict(model.named_buffers())[name] for model in models])
            for name, _ in first.named_buffers()
        }
        spans = [span for span in self.places.values() if span[1] > span[0]]
        self.adam = FlatAdam(self.values, self.gradient, spans, self.seeds, clip_norm)
        self._counted: dict[tuple[int, object], tuple[int, int]] = {}

    def member(self, seed: int) -> nn.Module:
        """The model of the seed at this position. It shares its values with the stack: a step changes it."""
        model = copy.deepcopy(self.template)
        for name, stacked in self.parameters.items():
            model.get_parameter(name).data = stacked.detach()[seed]
        for name, buffer in model.named_buffers():
            buffer.data = self.buffers[name][seed]
        return model

    def optimizer(self, seed: int) -> MemberAdam:
        """What the optimizer keeps of the seed at this position."""
        return self.adam.member(seed)

    def state(self) -> list[Tensor]:
        """All tensors that a step changes."""
        return [self.values, self.gradient, *self.buffers.values(), *self.adam.state()]

    def draw(self, batch: StackedBatch, streams: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Random numbers of a step, each seed's from the stream of that number: (S, bits) int16 and (S, any) standard
        normal."""
        bits, normal = self._count(batch)
        words = torch.empty(self.seeds, max((bits + 3) // 4, 1), dtype=torch.int64, device=self.device)
        gauss = torch.empty(self.seeds, max(normal, 1), device=self.device)
        for seed, stream in enumerate(streams):
            self.generator.manual_seed(stream)
            words[seed].random_(-(2**63), None, generator=self.generator)
            gauss[seed].normal_(generator=self.generator)
        return words.view(torch.int16), gauss

    def step(self, batch: StackedBatch, objective: Objective, rates: Tensor, noise: tuple[Tensor, Tensor]) -> Tensor:
        """One step of all seeds; returns their losses (S,), 0 for a seed that sits this one out.

        Args:
            rates: (S,) learning rates. noise: as `draw` gives it.
        """
        self.template.train()
        self.gradient.zero_()
        before = {name: buffer.clone() for name, buffer in self.buffers.items()}
        losses = self.losses(batch, objective, noise)
        losses.sum().backward()
        for name, buffer in self.buffers.items():  # running statistics of who sits out stay as they were
            buffer.copy_(torch.where(spread(batch.alive, buffer), buffer, before[name]))
        self.adam.step(rates, batch.alive)
        return losses.detach()

    def losses(self, batch: StackedBatch, objective: Objective, noise: tuple[Tensor, Tensor]) -> Tensor:
        """(S,) losses of the seeds that take part, 0 for the others."""
        content = batch.tensors

        def loss(
            parameters: dict[str, Tensor], buffers: dict[str, Tensor], content: dict[str, Tensor], *drawn: Tensor
        ) -> Tensor:
            inputs = inputs_of(content, batch.room, batch.task)
            with (
                drawn_from(Drawn(*drawn)),
                torch.autocast(self.device.type, torch.bfloat16, enabled=self.half, cache_enabled=False),
            ):
                output = functional_call(self.template, (parameters, buffers), (inputs,))
            return total_loss(objective.kind, output, labels_of(content), objective.aux_weights, objective.weight)

        arguments = (self.parameters, self.buffers, content, *noise)
        if self.together:
            # Not torch's fused attention: under `vmap` it asks its inputs whether they want gradients, is told that
            # they do not, and leaves out what its backward pass needs; on a CPU it is done seed by seed.
            with sdpa_kernel(SDPBackend.MATH), _BiasInHalf() if self.half else nullcontext():
                values = torch.vmap(loss, randomness="error")(*arguments)
        else:
            values = torch.stack([loss(*own) for own in _each(arguments, self.seeds)])
        return torch.where(batch.alive, values, 0.0)

    def _count(self, batch: StackedBatch) -> tuple[int, int]:
        """Random bits and normal numbers that a forward pass of one seed asks for; they depend on shapes alone."""
        key = (batch.task, batch.room)
        if key not in self._counted:
            parameters, buffers, content = next(_each((self.parameters, self.buffers, batch.tensors), 1))
            buffers = {name: value.clone() for name, value in buffers.items()}
            with drawn_from(Counting()) as counter, torch.no_grad():
                self.template.train()
                functional_call(self.template, (parameters, buffers), (inputs_of(content, batch.room, batch.task),))
            self._counted[key] = counter.bits_used, counter.normal_used
        return self._counted[key]


class _BiasInHalf(TorchFunctionMode):
    """Adds the bias of linear layers in the type of their products, as autocast does elsewhere. Under `vmap` it leaves
    the bias in float32, and then the sum and all that is computed from it is in float32 again, attention above all."""

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return (_linear if function is F.linear else function)(*args, **(kwargs or {}))


def _linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    product = F.linear(input, weight)
    return product if bias is None else product + bias.to(product.dtype)


def _places(shapes: Mapping[str, torch.Size]) -> dict[str, tuple[int, int]]:
    """(start, stop) of each parameter in a vector of all."""
    places, start = {}, 0
    for name, shape in shapes.items():
        places[name] = (start, start + shape.numel())
        start += -(-shape.numel() // ALIGNMENT) * ALIGNMENT
    return places


def _each(arguments: tuple, seeds: int):
    """The arguments of one seed after another: tensors (S, ...) and dictionaries of such, without the seed axis."""
    parts = [
        {name: value.unbind(0) for name, value in each.items()} if isinstance(each, dict) else each.unbind(0)
        for each in arguments
    ]
    for seed in range(seeds):
        yield tuple(
            {name: value[seed] for name, value in part.items()} if isinstance(part, dict) else part[seed]
            for part in parts
        )
