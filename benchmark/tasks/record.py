"""The frozen description of a prediction task."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import numpy as np

Kind = Literal["binary", "multilabel", "multiclass"]


@dataclass(frozen=True)
class Task:
    """One prediction task.

    Attributes:
        name: as typed on the command line, e.g. "ihm". title: as printed in tables, e.g. "IHM". description: one line.
        kind: binary, multilabel or multiclass.
        classes: names of the classes (labels) in logit order; None if they are found in the training data.
        primary: the modality that every sample of the task owns ("ehr", "cxr" or "note").
        note_section: section of the discharge summary that is read ("pmh" or "bhc").
        metrics: reported metrics; the first two select the checkpoint and make the paper's table.
        in_table3: part of the paper's main comparison.
        retrospective: the input spans the time at which the outcome is already decided, by design of the task.
        source: where the definition comes from.
        label_at: for tasks that predict at one of many hours: the labels at given hours, from these, the lengths of
            stay and the hours of death in hospital (NaN for survivors), all (n,).
    """

    name: str
    title: str
    description: str
    kind: Kind
    classes: tuple[str, ...] | None
    primary: str
    note_section: str
    metrics: tuple[str, ...]
    source: str
    in_table3: bool = True
    retrospective: bool = False
    label_at: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray] | None = None
