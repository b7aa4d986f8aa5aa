"""One learning rate a task, halved whenever that task's validation loss did not fall (FlexCare, Algorithm 1)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from benchmark.training.faults import Diverged


class HalvingRates:
    """Learning rates by task.

    Args:
        initial: rate of every task at the start. tasks: their names. halve: False keeps the rates constant.
        factors: of single tasks, on the initial rate; those without one have 1.

    >>> rates = HalvingRates(1.0, ["ihm"], halve=True)
    >>> for loss in (3.0, 2.0, 2.0, 1.0, 1.5, 1.6):
    ...     rates.after_epoch("ihm", loss)
    >>> rates["ihm"]  # halved after epochs 3, 5 and 6
    0.125
    """

    def __init__(
        self, initial: float, tasks: Iterable[str], halve: bool, factors: Mapping[str, float] | None = None
    ) -> None:
        self._rates = {task: initial * (factors or {}).get(task, 1.0) for task in tasks}
        self._last: dict[str, float] = {}
        self._halve = halve

    def __getitem__(self, task: str) -> float:
        return self._rates[task]

    def after_epoch(self, task: str, validation_loss: float) -> None:
        """Takes note of a task's validation loss after an epoch.

        Raises:
            Diverged: the loss is not finite.
        """
        if not math.isfinite(validation_loss):
            raise Diverged(f"task {task}: validation loss is {validation_loss}; lower the learning rate")
        if self._halve and task in self._last and validation_loss >= self._last[task]:
            self._rates[task] /= 2
        self._last[task] = validation_loss

    def state(self) -> dict[str, dict[str, float]]:
        """All that epochs have changed, for `take`."""
        return {"rates": dict(self._rates), "last": dict(self._last)}

    def take(self, state: Mapping[str, Mapping[str, float]]) -> None:
        """Goes on where `state` was taken."""
        self._rates, self._last = dict(state["rates"]), dict(state["last"])
