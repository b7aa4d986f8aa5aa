"""Batches of several seeds side by side, in the fixed form: the same shapes for all seeds, a leading seed axis S.

Legend: S seeds, n slots, N tokens, B samples of a seed's batch; other letters as in `models/contract.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace

from torch import Tensor

from benchmark.data.batches import LabelledBatch, Labels
from models.contract import Batch, Bounds, Films, Packed, Slots
from models.room import Room


@dataclass(frozen=True, eq=False)
class StackedBatch:
    """One batch of each of S seeds that train one task side by side. What the room has no slot for is None.

    Attributes:
        ehr: (S, N, F) float32 hours. ehr_rows: (S, n) int64 owner of each slot. ehr_used: (S, n) int64; see `Slots`.
        films: (S, n, H, W) float32. film_rows: (S, n) int64.
        note, note_rows, note_used: as for hours.
        present: (S, B, M) bool. sample: (S, B) int64.
        y, known: as in `Labels`, with the leading axis.
        alive: (S,) bool, False for a seed that sits the step out and must be as it was after it: its batch has no known
            label, or needs another room.
        room: of the slots. task: position of the task among the models' heads. step: number of the step in the epoch.
    """

    ehr: Tensor | None
    ehr_rows: Tensor | None
    ehr_used: Tensor | None
    films: Tensor | None
    film_rows: Tensor | None
    note: Tensor | None
    note_rows: Tensor | None
    note_used: Tensor | None
    present: Tensor
    sample: Tensor
    y: Tensor
    known: Tensor
    alive: Tensor
    room: Room
    task: int
    step: int = 0

    @property
    def tensors(self) -> dict[str, Tensor]:
        """All tensors by name, for a `vmap` or for copying into those of a recorded step."""
        named = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in named.items() if isinstance(value, Tensor)}

    def with_tensors(self, tensors: Mapping[str, Tensor]) -> StackedBatch:
        """The same batch with other tensors of the same names."""
        return replace(self, **tensors)

    def of_seed(self, place: int) -> LabelledBatch:
        """What the seed at `place` trains on."""
        own = {name: value[place] for name, value in self.tensors.items()}
        return LabelledBatch(inputs_of(own, self.room, self.task), labels_of(own))


def inputs_of(tensors: Mapping[str, Tensor], room: Room, task: int) -> Batch:
    """One seed's batch in the fixed form, from its parts of `StackedBatch.tensors`. May be called under `vmap`."""

    def sequences(name: str, bounds: Bounds) -> Packed | None:
        if not len(bounds):
            return None
        rows, used = tensors[f"{name}_rows"], tensors[f"{name}_used"]
        return Packed(tensors[name], Slots.end_to_end(bounds, rows, used, room.size, room.joint))

    return Batch(
        ehr=sequences("ehr", room.ehr),
        cxr=Films(tensors["films"], tensors["film_rows"], room.joint) if room.cxr else None,
        note=sequences("note", room.note),
        present=tensors["present"],
        task=task,
        sample=tensors["sample"],
    )


def labels_of(tensors: Mapping[str, Tensor]) -> Labels:
    """One seed's labels, likewise."""
    return Labels(tensors["y"], tensors["known"])
