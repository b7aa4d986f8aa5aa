"""Adam for several seeds at once, over one vector of all parameters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


class MemberAdam:
    """One seed's moments and counts, to be kept and brought back as those of torch's optimizers are."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        self._tensors = tensors

    def state_dict(self) -> dict[str, Any]:
        return {"state": {0: dict(self._tensors)}, "param_groups": []}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Copies the tensors of `state_dict` into their places.

        Raises:
            ValueError: they are not of this optimizer.
        """
        kept = state["state"].get(0, {})
        if {name: value.shape for name, value in kept.items()} != {n: v.shape for n, v in self._tensors.items()}:
            raise ValueError(f"moments {', '.join(kept)} are not those of this training")
        for name, tensor in self._tensors.items():
            tensor.copy_(kept[name])


class FlatAdam:
    """Adam (Kingma and Ba, 2015) with a learning rate and a step count of each seed's own.

    torch leaves parameters alone that got no gradient: a task's head while another task is trained, a modality's layers
    if nobody in the batch owns it. Here gradients have fixed places, so that a parameter of a seed is left alone, its
    moments and its count of steps included, if all of its gradient is exactly zero; `step.leave_untouched` does the
    same in the packed form.

    Args:
        values, gradient: (N,), all numbers of all seeds; changed in place.
        places: (start, stop) of each of the K parameters, those of the S seeds one after another.
        clip_norm: bound on each seed's gradient norm.
    """

    def __init__(
        self,
        values: Tensor,
        gradient: Tensor,
        places: Sequence[tuple[int, int]],
        seeds: int,
        clip_norm: float | None = None,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        self.values, self.gradient, self.clip_norm = values, gradient, clip_norm
        self.betas, self.eps, self.seeds = betas, eps, seeds
        self.mean, self.square = torch.zeros_like(values), torch.zeros_like(values)
        self.steps = values.new_zeros(len(places), seeds)
        self._spans = [span for start, stop in places for span in _equal_spans(start, stop, seeds)]  # K * S
        self._parts = [gradient[start:stop] for start, stop in self._spans]
        owner = torch.zeros(len(values), dtype=torch.int64)
        for number, (start, stop) in enumerate(self._spans):
            owner[start:stop] = number
        self._owner = owner.to(values.device)  # (N,) which of the K * S a number belongs to

    def state(self) -> list[Tensor]:
        """All tensors that `step` changes beside the values."""
        return [self.mean, self.square, self.steps]

    def member(self, seed: int) -> MemberAdam:
        """The part of the seed at this position."""
        spans = self._spans[seed :: self.seeds]
        parts = {
            f"{name}.{k}": getattr(self, name)[a:b] for k, (a, b) in enumerate(spans) for name in ("mean", "square")
        }
        return MemberAdam(parts | {"steps": self.steps[:, seed]})

    @torch.no_grad()
    def step(self, rates: Tensor, alive: Tensor) -> None:
        """One step with learning rates (S,) of the seeds that are `alive` (S,), whatever the gradients of others."""
        first, second = self.betas
        self.gradient.masked_fill_(self._each((~alive).expand_as(self.steps)), 0)
        if self.clip_norm is not None:
            norms = torch.stack(torch._foreach_norm(self._parts)).view_as(self.steps)  # (K, S)
            share = self.clip_norm / (torch.linalg.vector_norm(norms, dim=0) + 1e-6)
            self.gradient.mul_(self._each(share.clamp(max=1.0).expand_as(self.steps)))
        largest = torch.stack(torch._foreach_norm(self._parts, float("inf"))).view_as(self.steps)
        touched = (largest != 0).to(self.values.dtype)  # (K, S); true for NaN, which is to show
        self.steps.add_(touched)
        count = self.steps.clamp(min=1)  # of what was never touched the moments are zero, and so is the change
        here = self._each(touched)  # (N,)
        self.mean.lerp_(self.gradient, here * (1 - first))
        self.square.lerp_(self.gradient.square(), here * (1 - second))
        size = self._each(rates / (1 - first**count)) * here
        root = self._each((1 - second**count).sqrt())
        self.values.sub_(size * self.mean / (self.square.sqrt() / root + self.eps))

    def _each(self, of_parameters: Tensor) -> Tensor:
        """(K, S) -> (N,)."""
        return of_parameters.flatten().index_select(0, self._owner)


def _equal_spans(start: int, stop: int, count: int) -> list[tuple[int, int]]:
    size = (stop - start) // count
    return [(start + size * i, start + size * (i + 1)) for i in range(count)]
