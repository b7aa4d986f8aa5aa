"""What the baselines share beyond `models/`: the refusal of several tasks, and the order of modalities."""

from __future__ import annotations

from collections.abc import Sequence

from models.contract import MODALITIES, Head


def only_head(heads: Sequence[Head], title: str) -> Head:
    """The head of a single-task model; refuses any other number of tasks."""
    if len(heads) != 1:
        raise ValueError(f"{title} predicts one task a model; it was given {len(heads)} heads, allowed is 1")
    return heads[0]


def primary_first(primary: str) -> tuple[int, ...]:
    """Positions of the modalities, the primary one in front and the others in their usual order.

    >>> primary_first("ehr"), primary_first("cxr"), primary_first("note")
    ((0, 1, 2), (1, 0, 2), (2, 0, 1))
    """
    first = MODALITIES.index(primary)
    return (first, *(m for m in range(len(MODALITIES)) if m != first))
