"""Search spaces as they are declared beside the models."""

from __future__ import annotations

from typing import get_type_hints

import pytest
from pydantic import TypeAdapter

from benchmark.registry import models
from models.search import Choice, LogUniform, SearchSpace, Uniform


@pytest.mark.parametrize("name", list(models()))
def test_all_bounds_and_choices_of_a_space_are_values_that_the_options_take(name: str) -> None:
    entry = models()[name]
    types = get_type_hints(entry.config)
    space = entry.space | entry.wide_space
    assert space.training or space.options
    assert entry.multitask or not {"task_weights", "task_rates"} & set(space.training)
    for option, values in space.options.items():
        for value in values.values if isinstance(values, Choice) else (values.low, values.high):
            TypeAdapter(types[option]).validate_python(value, strict=not isinstance(value, int))
            entry.config(**{option: value})


def test_flexcare_searches_task_weights_alone_unless_told_otherwise() -> None:
    entry = models()["flexcare"]
    assert entry.space == SearchSpace({"task_weights": LogUniform(0.05, 2)})
    assert set(entry.wide_space.training) == {"task_rates", "learning_rate", "dropout"}


def test_a_range_is_widened_to_a_value_outside_and_wrong_ranges_are_refused() -> None:
    assert Choice((1, 2)).including(0) == Choice((0, 1, 2))
    assert Choice((1, 2)).including(2) == Choice((1, 2))
    assert Uniform(0, 1).including(-1) == Uniform(-1, 1)
    with pytest.raises(ValueError, match="low 0 of a logarithmic range"):
        LogUniform(0, 1)
    with pytest.raises(ValueError, match="lower one first"):
        Uniform(1, 1)
    with pytest.raises(ValueError, match="training setting 'epochs'"):
        SearchSpace({"epochs": Choice((1, 2))})
