"""What may be tuned: ranges of values, declared beside each model and searched by whoever tunes it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

TRAINING_SETTINGS = ("learning_rate", "dropout", "task_weights", "task_rates")
"""Settings that models do not own and may have searched for them; see `SearchSpace`."""


@dataclass(frozen=True)
class Choice:
    """One of some values, numbers or texts, in no particular relation."""

    values: tuple[Any, ...]

    def __post_init__(self) -> None:
        if not self.values or len(set(self.values)) < len(self.values):
            raise ValueError(f"choices {self.values}: at least one is needed, and none twice")

    def including(self, value: Any) -> Choice:
        """The range with `value` in it."""
        return self if value in self.values else Choice((value, *self.values))


@dataclass(frozen=True)
class Uniform:
    """A number from `low` to `high`, all alike."""

    low: float
    high: float

    def __post_init__(self) -> None:
        _check_bounds(self.low, self.high)

    def including(self, value: float) -> Uniform:
        """The range, widened to `value` if it lies outside."""
        return Uniform(min(self.low, value), max(self.high, value))


@dataclass(frozen=True)
class LogUniform:
    """A positive number from `low` to `high`, all orders of magnitude alike."""

    low: float
    high: float

    def __post_init__(self) -> None:
        _check_bounds(self.low, self.high)
        if self.low <= 0:
            raise ValueError(f"low {self.low} of a logarithmic range; allowed are positive numbers")

    def including(self, value: float) -> LogUniform:
        """The range, widened to `value` if it lies outside.

        >>> LogUniform(0.5, 2).including(4)
        LogUniform(low=0.5, high=4)
        """
        return LogUniform(min(self.low, value), max(self.high, value))


Range = Choice | Uniform | LogUniform


@dataclass(frozen=True)
class SearchSpace:
    """Ranges by name.

    Attributes:
        training: of settings that the harness gives to a model. "learning_rate": factor on the protocol's rate.
            "dropout": of the shared encoder layers. "task_weights", "task_rates": one value for each task that is
            trained together with others, the weight of its loss and the factor on its learning rate; of weights only
            the ratios count, so one task keeps the weight 1.
        options: of the model's own options, by name.
    """

    training: Mapping[str, Range] = field(default_factory=dict)
    options: Mapping[str, Range] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in self.training:
            if name not in TRAINING_SETTINGS:
                raise ValueError(f"training setting {name!r}; allowed are {', '.join(TRAINING_SETTINGS)}")

    def __or__(self, other: SearchSpace) -> SearchSpace:
        """Both spaces together; where both have a name, the range of `other` holds."""
        return SearchSpace({**self.training, **other.training}, {**self.options, **other.options})


COMMON = SearchSpace({"learning_rate": Choice((0.2, 1.0, 2.0)), "dropout": Choice((0.1, 0.3))})
"""What every model trained by gradient has in common. With the paper's rate of 5e-4 the rates are 1e-4, 5e-4, 1e-3."""


def _check_bounds(low: float, high: float) -> None:
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ValueError(f"range from {low} to {high}; allowed are finite numbers, the lower one first")
