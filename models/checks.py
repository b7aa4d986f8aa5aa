"""Refusals of impossible options, made when a configuration is, so that a fault is found before any work begins."""

from __future__ import annotations

from collections.abc import Iterable


def check_count(name: str, count: int, least: int) -> None:
    """Refuses a count below `least`."""
    if count < least:
        raise ValueError(f"{name} {count}; allowed is {least} or more")


def check_rate(name: str, rate: float) -> None:
    """Refuses a dropout rate outside [0, 0.9999]: those nearer to 1 would be rounded to it (`models/noise.py`)."""
    if not 0 <= rate <= 0.9999:
        raise ValueError(f"{name} {rate}; a dropout rate is at least 0 and at most 0.9999")


def check_weight(name: str, weight: float) -> None:
    """Refuses a weight of a loss below 0."""
    if not weight >= 0:
        raise ValueError(f"{name} {weight}; a weight is 0 or more")


def check_positive(name: str, value: float) -> None:
    """Refuses 0 and below."""
    if not value > 0:
        raise ValueError(f"{name} {value}; it must be positive")


def check_choice(name: str, value: str, allowed: Iterable[str]) -> None:
    """Refuses a value that is none of `allowed`."""
    choices = tuple(allowed)
    if value not in choices:
        raise ValueError(f"{name} {value!r}; allowed are {', '.join(choices)}")
