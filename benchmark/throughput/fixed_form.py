"""The fixed form under the stop watch: several seeds of a model in one step, on batches of the same shapes.

Rooms are made from the lengths of many made-up samples, as those of a run are made from its training samples. A step
draws its noise and trains all seeds, each on a batch of its own; on a CUDA device it replays a recording. The making of
batches is beside the step, as everywhere here. Predictions are those of the first seed, on the fixed batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from benchmark.data.batches import LabelledBatch
from benchmark.data.rooms import make_rooms
from benchmark.data.stacked import StackedBatch
from benchmark.random import stream_seed
from benchmark.throughput.mixes import Mix
from benchmark.training.recording import Steps
from benchmark.training.stacked import Objective, SeedStack
from models.contract import Batch, Bounds, Dimensions, Films
from models.room import Room, into_slots, lengths_of

if TYPE_CHECKING:
    from benchmark.throughput.forms import Subject

SAMPLES_FOR_ROOMS = 4000
"""Made-up samples whose lengths the rooms are made from."""

_ELSEWHERE = 10**6
"""Numbers of batches of one seed are so far from those of the next."""


class Fixed:
    """S seeds of a model side by side; see `forms.Runner`."""

    def __init__(self, subject: Subject, batch_size: int, seeds: int, half: bool, learning_rate: float) -> None:
        self.subject, self.seeds, self.half = subject, seeds, half
        built = [subject.build(subject.entry.build, subject.seed + place) for place in range(seeds)]
        self.stack = SeedStack(built, subject.entry.clip_norm, half)
        self.steps = Steps(self.stack, record=subject.device.type == "cuda")
        self.module = self.stack.member(0)
        self.rates = torch.full((seeds,), learning_rate, device=subject.device)
        self.objective = Objective(subject.mix.task.kind, 1.0, getattr(built[0], "aux_weights", {}))
        d = subject.dimensions
        self.film_tokens = (d.film // d.patch) ** 2
        self.rooms = rooms_of(subject.mix, d, batch_size, subject.seed)

    def fit(self, batch: LabelledBatch, number: int) -> StackedBatch:
        """The batch for the first seed, and batches of its own for each other one, in the smallest room for all."""
        size, others = batch.inputs.size, range(1, self.seeds)
        batches = [batch, *(self.subject.batch(size, number + place * _ELSEWHERE) for place in others)]
        needs = [lengths_of(each.inputs, self.film_tokens) for each in batches]
        room = next(room for room in self.rooms if all(map(room.fits, needs)))
        stacked = stack_batches(batches, room, self.subject.dimensions, number)
        # A run records a step once for thousands of replays; under the stop watch it would count as one of a few.
        self.steps.prepare(stacked, self.objective, self.rates, self.stack.draw(stacked, range(self.seeds)))
        return stacked

    def train(self, batch: StackedBatch) -> None:
        name = self.subject.mix.task.name
        streams = [stream_seed(seed, "noise", name, batch.step) for seed in range(self.seeds)]
        self.steps(batch, self.objective, self.rates, streams)

    def unrecorded(self, batch: StackedBatch) -> None:
        """The step operation by operation, for who counts them."""
        self.stack.step(batch, self.objective, self.rates, self.stack.draw(batch, range(self.seeds)))

    def infer(self, batch: StackedBatch) -> Tensor:
        self.module.eval()
        with torch.inference_mode(), torch.autocast(self.subject.device.type, torch.bfloat16, enabled=self.half):
            return self.module(batch.of_seed(0).inputs).logits


@lru_cache(64)
def rooms_of(mix: Mix, dimensions: Dimensions, batch_size: int, seed: int) -> tuple[Room, ...]:
    """In growing order; the last one is for batches larger than any of the made-up samples could make."""
    d, film_tokens = dimensions, (dimensions.film // dimensions.patch) ** 2
    lengths = mix.lengths(d, max(SAMPLES_FOR_ROOMS, 2 * batch_size), seed)
    longest = (d.hours, d.note_tokens, d.hours + film_tokens + d.note_tokens)
    ehr, note, joint = (Bounds.full((length,) * batch_size) for length in longest)
    return (*make_rooms(lengths, batch_size, film_tokens), Room(ehr, batch_size, note, joint, film_tokens))


def stack_batches(batches: Sequence[LabelledBatch], room: Room, dimensions: Dimensions, number: int) -> StackedBatch:
    """Packed batches of several seeds, put into slots of one room."""
    fixed = [into_slots(each.inputs, room) for each in batches]
    device = fixed[0].device
    nobody = torch.full((room.cxr,), room.size, device=device)
    blank = Films(torch.zeros(room.cxr, dimensions.film, dimensions.film, device=device), nobody, room.joint)
    films = [each.cxr or blank for each in fixed]
    return StackedBatch(
        **_sequences("ehr", fixed, room, dimensions.series_features),
        **_sequences("note", fixed, room, dimensions.note_features),
        films=torch.stack([each.pixels for each in films]) if room.cxr else None,
        film_rows=torch.stack([each.rows for each in films]) if room.cxr else None,
        present=torch.stack([each.present for each in fixed]),
        sample=torch.stack([each.sample for each in fixed]),
        y=torch.stack([each.labels.y for each in batches]),
        known=torch.stack([each.labels.known for each in batches]),
        alive=torch.ones(len(batches), dtype=torch.bool, device=device),
        room=room,
        task=fixed[0].task,
        step=number,
    )


def _sequences(name: str, fixed: Sequence[Batch], room: Room, features: int) -> dict[str, Tensor | None]:
    """(S, ...) values, owners and numbers of tokens of one modality's slots; None where the room has none."""
    bounds, device = getattr(room, name), fixed[0].device
    names = (name, f"{name}_rows", f"{name}_used")
    if not len(bounds):
        return dict.fromkeys(names)
    nobody = torch.full((len(bounds),), room.size, device=device)
    blank = (torch.zeros(bounds.tokens, features, device=device), nobody, torch.zeros_like(nobody))
    parts = [getattr(each, name) for each in fixed]
    own = [blank if part is None else (part.values, part.layout.rows, part.layout.used) for part in parts]
    return dict(zip(names, map(torch.stack, zip(*own, strict=True)), strict=True))
