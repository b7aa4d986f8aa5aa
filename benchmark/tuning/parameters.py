"""What a study searches, and what its values mean for a run: from a model's search space to settings and back."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmark import registry
from benchmark.config import RunConfig, options_of
from benchmark.errors import UserError
from benchmark.protocols.reading import overlaid, parse_protocol
from benchmark.protocols.schema import ModelTraining
from benchmark.runs.plan import task_sets
from benchmark.tasks import TASKS
from models.contract import Dimensions, Head, ModelEntry
from models.search import Choice, Range, SearchSpace

BY_TASK = ("task_weights", "task_rates")
"""Settings that have one value for each task."""


@dataclass(frozen=True)
class Parameter:
    """One searched value.

    Attributes:
        name: e.g. "learning_rate", "task_weights.ihm", "options.beta". range: where it is searched.
        start: its value without tuning, which is that of trial 0.
    """

    name: str
    range: Range
    start: Any


def parameters(config: RunConfig, model: str, wide: bool) -> tuple[Parameter, ...]:
    """What is searched for `model` under the protocol and on the tasks of `config`.

    Every range is widened to the value that holds without tuning, so that trial 0 belongs to the space.

    Args:
        wide: also search what the model declares as its wide space.

    Raises:
        UserError: the model has nothing to search, or a value without tuning does not suit its range.
    """
    entry = registry.get(model)
    if entry.pretrained_on is not None:
        raise UserError(f"{model} starts from another model's state and cannot be tuned; tune {entry.pretrained_on}")
    space = entry.space | entry.wide_space if wide else entry.space
    together = max(task_sets(model, config.tasks), key=len)
    found = [
        one
        for name, values in space.training.items()
        for one in _of_training(name, values, config, model, together if len(together) > 1 else ())
    ]
    found += _of_options(space, config, entry, together)
    if not found:
        raise UserError(f"{model} declares nothing to search on the tasks {', '.join(config.tasks)}")
    return tuple(found)


def gauge_of(weights: Mapping[str, float], tasks: Sequence[str]) -> str:
    """The task that keeps its weight, since only ratios count: the one of largest weight, PHE in the paper."""
    return max(tasks, key=lambda task: weights[task])


def tuned(
    config: RunConfig, model: str, values: Mapping[str, Any], study: str | None = None, epochs: int | None = None
) -> RunConfig:
    """`config` with the values of parameters in the place of those of its protocol, for `model` alone.

    Args:
        values: by name of parameter. study: to be noted in the results. epochs: instead of the protocol's.
    """
    own: dict[str, Any] = {"study": study} if study else {}
    own |= {"epochs": epochs} if epochs else {}
    options: dict[str, Any] = {}
    for name, value in values.items():
        kind, _, part = name.partition(".")
        if kind == "learning_rate":
            own[kind] = value * base_rate(config, model)
        elif kind == "options":
            options[part] = value
        elif part:
            own.setdefault(kind, {})[part] = value
        else:
            own[kind] = value
    if weights := own.get("task_weights"):
        gauge = gauge_of(start_weights(config, model), config.tasks)
        own["task_weights"] = {gauge: 1.0, **weights}
    faults: list[str] = []
    laid = overlaid(config.protocol.model_dump(mode="json"), {"training_of": {model: own}, "models": {model: options}})
    protocol = parse_protocol(laid, faults)
    built = options_of(model, laid["models"], faults)
    if protocol is None or faults:
        raise UserError(f"values {dict(values)} of {model} make no valid run: {'; '.join(faults)}")
    return dataclasses.replace(
        config, protocol=protocol, models=(model,), model_options={**config.model_options, model: built}
    )


def base_rate(config: RunConfig, model: str) -> float:
    """The learning rate that the searched factor is of."""
    return _own(config, model).learning_rate or config.protocol.training.learning_rate


def start_weights(config: RunConfig, model: str) -> dict[str, float]:
    """The task weights that hold without tuning."""
    return {**config.protocol.training.task_weights, **_own(config, model).task_weights}


def _own(config: RunConfig, model: str) -> ModelTraining:
    return config.protocol.training_of.get(model, ModelTraining())


def _of_training(name: str, values: Range, config: RunConfig, model: str, together: Sequence[str]) -> list[Parameter]:
    own = _own(config, model)
    if name not in BY_TASK:
        dropout = config.protocol.dimensions.dropout if own.dropout is None else own.dropout
        return [_parameter(name, values, 1.0 if name == "learning_rate" else dropout)]
    if name == "task_rates":
        return [_parameter(f"{name}.{task}", values, own.task_rates.get(task, 1.0)) for task in together]
    if not together:
        return []
    weights = start_weights(config, model)
    gauge = gauge_of(weights, together)
    return [_parameter(f"{name}.{task}", values, weights[task] / weights[gauge]) for task in together if task != gauge]


def _of_options(space: SearchSpace, config: RunConfig, entry: ModelEntry, tasks: Sequence[str]) -> list[Parameter]:
    found = []
    for name, values in space.options.items():
        start = getattr(config.model_options[entry.name], name)
        if isinstance(values, Choice):
            values = Choice(tuple(value for value in values.values if _builds(entry, config, tasks, name, value)))
        found.append(_parameter(f"options.{name}", values, start))
    return [one for one in found if not isinstance(one.range, Choice) or len(one.range.values) > 1]


def _builds(entry: ModelEntry, config: RunConfig, tasks: Sequence[str], option: str, value: Any) -> bool:
    """Whether the model takes a value at the protocol's sizes, such as a layer's number."""
    heads = [Head(len(TASKS[task].classes or "."), TASKS[task].kind, TASKS[task].primary) for task in tasks]
    dimensions = Dimensions(**config.protocol.dimensions.model_dump())
    if value == getattr(config.model_options[entry.name], option):
        return True
    try:
        entry.build(dimensions, heads, dataclasses.replace(config.model_options[entry.name], **{option: value}))
    except ValueError:
        return False
    return True


def _parameter(name: str, values: Range, start: Any) -> Parameter:
    try:
        return Parameter(name, values.including(start), start)
    except ValueError as fault:
        raise UserError(
            f"{name} is {start!r} in the protocol, which its range cannot be widened to: {fault}"
        ) from fault
