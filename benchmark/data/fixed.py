"""From stores to batches of several seeds side by side, of fixed shapes: the data side of training on a GPU.

An epoch is planned as arrays, many steps at a time and ahead of the training. A step is then index arithmetic and one
gather for each modality, on the device where the stores lie there; nothing is read back from it, and no Python loop
sees a sample.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence

import numpy as np
import torch
from torch import Tensor

from benchmark.data.augmentation import crop, resample
from benchmark.data.batches import BatchSource
from benchmark.data.epoch_plan import EpochPlan, film_tokens, plan_epoch, token_lengths
from benchmark.data.residency import Courier, DeviceStores, Sent, Table, ahead
from benchmark.data.rooms import make_rooms
from benchmark.data.stacked import StackedBatch
from models.layout import on_device
from models.room import Room
from models.slots import places

_STEPS_AHEAD = 2
"""Steps whose content is fetched ahead of the one that trains."""

_DRAWS_FOR_ROOMS = 8
"""Epochs whose hours rooms are made from, where hours are drawn anew."""


class FixedSource:
    """Training batches of one task for several seeds side by side.

    Args:
        source: the task's training samples and how they are read. seeds: S of them. batch_size: of each seed.
        stores: the content of the source's data set; shared with other tasks.
        rooms: in growing order, the last one holding every batch; by default made from the lengths of the samples.
    """

    def __init__(
        self,
        source: BatchSource,
        seeds: Sequence[int],
        batch_size: int,
        stores: DeviceStores,
        rooms: Sequence[Room] | None = None,
    ) -> None:
        stores.require(source)
        self.source, self.seeds, self.stores = source, tuple(seeds), stores
        self.batch_size = min(batch_size, len(source))
        self.rooms = tuple(rooms or rooms_of(source, self.batch_size))
        self.courier = Courier(stores.device)

    def samples_an_epoch(self) -> int:
        """Number of samples in one seed's batches of an epoch."""
        return self.source.samples_an_epoch(self.batch_size)

    def epoch(self, number: int) -> Generator[StackedBatch, None, None]:
        """The steps of an epoch: of each seed the batch that `source.epoch(seed, number, batch_size)` gives it.

        Raises:
            UserError: no training sample has a known label.
        """
        self.source.require_labels()
        contents = self._contents(number)
        mapped = {name: table for name, table in contents.items() if not table.resident}
        plans = ahead(plan_epoch(self.source, self.seeds, number, self.batch_size, self.rooms), depth=1)
        steps = ahead(self._fetched(plans, mapped), _STEPS_AHEAD) if mapped else self._fetched(plans, mapped)
        planned, tables = None, {}
        try:
            for plan, step, sent in steps:
                if plan is not planned:
                    planned, tables = plan, {n: _sent(table, self.stores.device) for n, table in plan.tables.items()}
                own, rows = {name: table[step] for name, table in tables.items()}, self.courier.receive(*sent)
                yield self._batch(own, plan.rooms[step], plan.steps[step], contents, rows)
        finally:
            steps.close()

    def _fetched(
        self, plans: Generator[EpochPlan, None, None], mapped: dict[str, Table]
    ) -> Generator[tuple[EpochPlan, int, Sent], None, None]:
        """Every step, as a plan and its place there, and the rows it needs of mapped tables, on their way."""
        try:
            for plan in plans:
                for step, room in enumerate(plan.rooms):
                    own = {name: torch.from_numpy(table[step]) for name, table in plan.tables.items()}
                    index = {name: self._index(name, table, own, room) for name, table in mapped.items()}
                    rows = {name: table.fetch(index[name].flatten().numpy()) for name, table in mapped.items()}
                    yield plan, step, self.courier.send(rows)
        finally:
            plans.close()

    def _contents(self, number: int) -> dict[str, Table]:
        """The table of each modality in an epoch."""
        draw = self.source.note_draw(number) or 0
        contents = {"ehr": self.stores.series, "film": self.stores.films}
        return contents | ({"note": self.stores.notes[draw]} if self.source.encoder else {})

    def _index(self, name: str, table: Table, own: dict[str, Tensor], room: Room) -> Tensor:
        """Row of the table for every token (S, N) or film (S, n) of a step, on the device of `own`."""
        if name == "film":
            films = own["film"][:, : room.cxr]
            return torch.where(films < 0, table.filler, films)
        bounds = getattr(room, name)
        used, first = own[f"{name}_used"][:, : len(bounds)], own[f"{name}_first"][:, : len(bounds)]
        if not len(bounds):
            return first
        of_tokens = places(used.cumsum(1) - used, used, bounds.tokens)
        slot, place = of_tokens.slot, of_tokens.place  # (S, N), as all below
        index = torch.where(of_tokens.real, first.gather(1, slot) + place, table.filler)
        if name == "ehr":
            tail = own["ehr_tail"].gather(1, slot)
            last = of_tokens.real & (place == used.gather(1, slot) - 1)
            index = torch.where(last & (tail >= 0), self.stores.first_tail + tail, index)
        return index

    def _batch(
        self,
        own: dict[str, Tensor],
        room: Room,
        number: int,
        contents: dict[str, Table],
        fetched: dict[str, Tensor],
    ) -> StackedBatch:
        """A step's batch from its part of the plan's tables and what was fetched of mapped stores."""

        def rows(name: str) -> Tensor:
            """(S, N or n, ...)"""
            table = contents[name]
            if table.resident:
                index = self._index(name, table, own, room)
                return table.pick(index.flatten()).unflatten(0, index.shape)
            return fetched[name].unflatten(0, (len(self.seeds), -1))

        def slots(name: str) -> dict[str, Tensor | None]:
            count = len(getattr(room, name))
            values = rows(name).to(torch.float32) if count else None
            cut = {f"{name}_{what}": own[f"{name}_{what}"][:, :count] if count else None for what in ("rows", "used")}
            return {name: values} | cut

        plain = {name: own[name] for name in ("present", "sample", "y", "known", "alive")}
        return StackedBatch(
            **slots("ehr"),
            **slots("note"),
            **plain,
            films=self._films(rows("film"), own, room) if room.cxr else None,
            film_rows=own["film_rows"][:, : room.cxr] if room.cxr else None,
            room=room,
            task=self.source.head,
            step=number,
        )

    def _films(self, stored: Tensor, own: dict[str, Tensor], room: Room) -> Tensor:
        """(S, n, 256, 256) uint8 -> (S, n, H, W): the films of all seeds in one transform."""
        side, settings = self.source.dimensions.film, self.source.settings
        films = stored.flatten(0, 1)
        if settings is None:
            pixels = crop(films, side)
        else:
            pixels = resample(films, side, settings, own["film_map"][:, : room.cxr].flatten(0, 1))
        return pixels.unflatten(0, stored.shape[:2])


def rooms_of(source: BatchSource, batch_size: int) -> tuple[Room, ...]:
    """Rooms for training batches of a source, also where each epoch draws other hours."""
    tokens, samples = film_tokens(source), source.samples
    if source.redraw is None:
        return make_rooms(token_lengths(source, samples), batch_size, tokens)
    drawn = [token_lengths(source, source.redraw(samples, 0, epoch)) for epoch in range(_DRAWS_FOR_ROOMS)]
    longest = token_lengths(source, source.redraw.latest(samples))
    return make_rooms(np.concatenate(drawn), batch_size, tokens, longest)


def _sent(table: np.ndarray, device: torch.device) -> Tensor:
    """A table of a plan on the device."""
    values = torch.from_numpy(table)
    return on_device(values.pin_memory() if device.type == "cuda" else values, device)
