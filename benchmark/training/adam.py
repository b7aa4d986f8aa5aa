"""Adam for several seeds at once, over one matrix of all parameters."""

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
    moments and its count of steps included, if all of its gradient is exactly zero.

    Args:
        values, gradient: (S, P), in place. places: (start, stop) of each parameter among the P.
        clip_norm: bound on each seed's gradient norm.
    """

    def __init__(
        self,
        values: Tensor,
        gradient: Tensor,
        places: Sequence[tuple[int, int]],
        clip_norm: float | None = None,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        self.values, self.gradient, self.clip_norm = values, gradient, clip_norm
        self.betas, self.eps = betas, eps
        self.mean, self.square = torch.zeros_like(values), torch.zeros_like(values)
        self.steps = values.new_zeros(len(values), len(places))
        self._parts = [row[start:stop] for row in gradient for start, stop in places]  # S * K views
        owner = torch.zeros(values.shape[1], dtype=torch.int64)
        for number, (start, stop) in enumerate(places):
            owner[start:stop] = number
        self._owner = owner.to(values.device)  # (P,) parameter of each number

    def state(self) -> list[Tensor]:
        """All tensors that `step` changes beside the values."""
        return [self.mean, self.square, self.steps]

    def member(self, seed: int) -> MemberAdam:
        """The part of the seed at this position."""
        return MemberAdam({"mean": self.mean[seed], "square": self.square[seed], "steps": self.steps[seed]})

    @torch.no_grad()
    def step(self, rates: Tensor) -> None:
        """One step with learning rates (S,)."""
        first, second = self.betas
        if self.clip_norm is not None:
            norm = torch.linalg.vector_norm(self.gradient, dim=1)
            self.gradient.mul_((self.clip_norm / (norm + 1e-6)).clamp(max=1.0)[:, None])
        largest = torch.stack(torch._foreach_norm(self._parts, float("inf")))
        touched = (largest != 0).view_as(self.steps).to(self.values.dtype)  # (S, K); true for NaN, which is to show
        self.steps.add_(touched)
        count = self.steps.clamp(min=1)  # of what was never touched the moments are zero, and so is the change
        here = touched.index_select(1, self._owner)  # (S, P)
        self.mean.lerp_(self.gradient, here * (1 - first))
        self.square.lerp_(self.gradient.square(), here * (1 - second))
        size = (rates[:, None] / (1 - first**count)).index_select(1, self._owner) * here
        root = (1 - second**count).sqrt().index_select(1, self._owner)
        self.values.sub_(size * self.mean / (self.square.sqrt() / root + self.eps))
