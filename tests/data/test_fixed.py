"""Batches of several seeds in the fixed form against the packed batches of each seed."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Generator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from prepared_data import ENCODER, NOTE_WIDTH, write_prepared
from torch import Tensor

from benchmark.data.batches import BatchSource, LabelledBatch
from benchmark.data.dataset import PreparedData, embeddings_folder
from benchmark.data.epoch_plan import plan_epoch, token_lengths
from benchmark.data.fixed import FixedSource
from benchmark.data.redraw import Redraw
from benchmark.data.residency import DeviceStores, ahead
from benchmark.data.rooms import make_rooms
from benchmark.data.stacked import StackedBatch, inputs_of
from benchmark.data.stores import RaggedWriter
from benchmark.errors import UserError
from benchmark.training.support import give_support
from models.contract import Dimensions, Films, Packed
from models.layout import Bounds
from models.room import Room, into_slots

CPU = torch.device("cpu")
DIMENSIONS = Dimensions(width=8, note_features=NOTE_WIDTH, film=32, patch=8, hours=6, note_tokens=4)
SEEDS = (40, 42, 44)
RESIDENT, MAPPED = 2**40, 0


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> PreparedData:
    """Test data with hours that can be drawn anew for `los`, and two noisy draws of notes."""
    folder = write_prepared(tmp_path_factory.mktemp("prepared") / "data")
    file = folder / "samples" / "los.parquet"
    frame = pd.read_parquet(file)
    frame["first_hour"], frame["last_hour"] = 1, frame["hours"]
    frame["los_hours"], frame["death_hour"] = frame["hours"] + 30.5, np.nan
    frame.to_parquet(file)
    films = frame[frame["series"] % 3 == 0]
    films = pd.concat([films.assign(hour=0.5, film=10), films.assign(hour=4.0, film=20)])
    (folder / "redraw").mkdir()
    films[["series", "hour", "film"]].to_parquet(folder / "redraw" / "stay_films.parquet")
    data = PreparedData.open(folder)
    clean, training = data.notes(ENCODER), data.task("ihm").partitions["train"].note
    lengths = np.where(np.isin(np.arange(len(clean)), training), clean.lengths, 0)
    for draw in (0, 1):
        writer = RaggedWriter(embeddings_folder(folder, ENCODER, draw), lengths, NOTE_WIDTH)
        for row in np.flatnonzero(lengths):
            writer.write(row, clean[row] + np.float16(1 + draw))
        writer.close()
    return data


def make_source(
    data: PreparedData, name: str, redraw: bool = False, device: torch.device = CPU, **changes: object
) -> BatchSource:
    task = data.task(name)
    more = {"redraw": Redraw(data, task)} if redraw else {}
    return BatchSource(data, task, "train", DIMENSIONS, ENCODER, 1, device, **more, **changes)


def make_fixed(source: BatchSource, batch_size: int, budget: int, **changes: object) -> FixedSource:
    stores = DeviceStores(source.data, source.encoder, source.device, source.note_dropout, budget)
    assert stores.resident == (budget == RESIDENT)
    return FixedSource(source, SEEDS, batch_size, stores, **changes)


def test_a_support_set_is_the_same_whatever_an_epoch_has_drawn(data: PreparedData) -> None:
    """Series up to other hours are another set; the fixed form draws beside the source and never had them."""
    source, kept = make_source(data, "los", redraw=True), []
    model = SimpleNamespace(support_samples=4, remember=kept.append, eval=lambda: None)
    give_support(model, source, 1)
    assert sum(1 for _ in source.epoch(40, 1, 8)) and not np.array_equal(source.samples.hours, source.stored.hours)
    give_support(model, source, 1)
    before, after = kept
    assert torch.equal(before.ehr.values, after.ehr.values) and torch.equal(before.present, after.present)


def sequences(part: Packed | Films | None, size: int) -> dict[int, Tensor]:
    """Tokens or pixels by batch row, of either form; the fixed form's filler must be zero."""
    if part is None:
        return {}
    if isinstance(part, Films):
        rows = list(part.rows) if isinstance(part.rows, tuple) else part.rows.tolist()
        assert not part.pixels[[row == size for row in rows]].any(), "filler"
        return {row: film for row, film in zip(rows, part.pixels, strict=True) if row < size}
    if isinstance(part.layout.rows, tuple):
        return dict(zip(part.layout.rows, part.values.split(part.layout.lengths), strict=True))
    rows, used, starts = (getattr(part.layout, name).tolist() for name in ("rows", "used", "starts"))
    assert not part.values[sum(used) :].any(), "filler"
    assert [row == size for row in rows] == [count == 0 for count in used]
    return {
        row: part.values[start : start + count] for row, start, count in zip(rows, starts, used, strict=True) if count
    }


def require_equal(ours: LabelledBatch, theirs: LabelledBatch) -> None:
    a, b = ours.inputs, theirs.inputs
    assert a.task == b.task
    for one, other in [
        (a.present, b.present),
        (a.sample, b.sample),
        (ours.labels.y, theirs.labels.y),
        (ours.labels.known, theirs.labels.known),
    ]:
        assert one.dtype == other.dtype and torch.equal(one, other)
    for name in ("ehr", "cxr", "note"):
        fixed, packed = (sequences(getattr(batch, name), batch.size) for batch in (a, b))
        assert fixed.keys() == packed.keys()
        for row, values in packed.items():
            assert fixed[row].dtype == values.dtype
            if name == "cxr":  # one transform of more films may round differently
                torch.testing.assert_close(fixed[row], values, rtol=0, atol=1e-5)
            else:
                assert torch.equal(fixed[row], values)


def require_all_equal(fixed: FixedSource, epoch: int, source: BatchSource) -> None:
    """Each seed's batches against those it has alone; in steps that it sits out it has another seed's."""
    steps = list(fixed.epoch(epoch))
    for place, seed in enumerate(fixed.seeds):
        own = [stacked for stacked in steps if stacked.alive[place]]
        for stacked, packed in zip(own, source.epoch(seed, epoch, fixed.batch_size), strict=True):
            require_equal(stacked.of_seed(place), packed)


OPTIONS = {
    "ihm": {"note_dropout": 2},
    "los": {"redraw": True},
    "dia": {"augmentation": "mild"},
}


@pytest.mark.parametrize("budget", [RESIDENT, MAPPED], ids=["resident", "mapped"])
@pytest.mark.parametrize("task", OPTIONS)
def test_each_seed_gets_its_own_batches(data: PreparedData, task: str, budget: int) -> None:
    fixed = make_fixed(make_source(data, task, **OPTIONS[task]), 8, budget)
    for epoch in (1, 2):
        require_all_equal(fixed, epoch, make_source(data, task, **OPTIONS[task]))


@pytest.mark.parametrize("budget", [RESIDENT, MAPPED], ids=["resident", "mapped"])
def test_data_may_have_no_films(tmp_path: Path, budget: int) -> None:
    folder = write_prepared(tmp_path / "data", ("ihm",))
    shutil.rmtree(folder / "films")
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | {"modalities": {"cxr": False}}))
    samples = pd.read_parquet(folder / "samples" / "ihm.parquet").assign(film=-1)
    samples.to_parquet(folder / "samples" / "ihm.parquet")
    source = make_source(PreparedData.open(folder), "ihm")
    require_all_equal(make_fixed(source, 8, budget), 1, source)


def test_a_tail_stands_in_for_the_last_hour(data: PreparedData) -> None:
    """The tails of the test data are nines, and nothing else is."""
    batches = list(make_fixed(make_source(data, "dia"), 16, MAPPED).epoch(1))
    tails = [int((batch.ehr == 9.0).all(-1).sum()) for batch in batches]
    assert tails == [int(batch.present[..., 0].sum()) for batch in batches] and min(tails) > 0


def test_slots_are_those_of_a_packed_batch_put_into_its_room(data: PreparedData) -> None:
    source = make_source(data, "ihm")
    (packed, *_), (stacked, *_) = source.epoch(40, 1, 16), make_fixed(source, 16, RESIDENT).epoch(1)
    ours, theirs = stacked.of_seed(0).inputs, into_slots(packed.inputs, stacked.room)
    for name in ("ehr", "note"):
        one, other = getattr(ours, name), getattr(theirs, name)
        assert torch.equal(one.values, other.values)
        assert one.layout.bounds == other.layout.bounds and one.layout.joint == other.layout.joint
        for what in ("rows", "used", "starts"):
            assert torch.equal(getattr(one.layout, what), getattr(other.layout, what))
    assert torch.equal(ours.cxr.rows, theirs.cxr.rows) and torch.equal(ours.cxr.pixels, theirs.cxr.pixels)


def test_one_seed_under_vmap_is_the_batch_of_its_slice(data: PreparedData) -> None:
    (stacked, *_) = make_fixed(make_source(data, "ihm"), 16, RESIDENT).epoch(1)

    def summary(tensors: dict[str, Tensor]) -> Tensor:
        batch = inputs_of(tensors, stacked.room, stacked.task)
        tokens = batch.ehr.values.sum() + batch.note.values.sum() + batch.cxr.pixels.sum()
        return torch.stack([tokens, batch.ehr.layout.used.sum().float(), batch.present.sum().float()])

    alone = [summary({name: value[place] for name, value in stacked.tensors.items()}) for place in range(len(SEEDS))]
    torch.testing.assert_close(torch.vmap(summary)(stacked.tensors), torch.stack(alone))


def test_each_seed_is_alive_in_the_smallest_room_that_holds_its_batch(data: PreparedData) -> None:
    source = make_source(data, "ihm")
    smallest, largest = make_rooms(token_lengths(source, source.samples), 4, 16, shares=(0.5,))
    fixed = make_fixed(source, 4, RESIDENT, rooms=(smallest, largest))
    steps = list(fixed.epoch(1))
    for place, seed in enumerate(SEEDS):
        own = [stacked.room is smallest for stacked in steps if stacked.alive[place]]
        assert own == [fits(batch, smallest) for batch in source.epoch(seed, 1, 4)]
    assert [stacked.step for stacked in steps] == sorted(stacked.step for stacked in steps)
    assert {stacked.step for stacked in steps} == set(range(63 // 4)) and len(steps) > 63 // 4
    hours, tokens, most = (Bounds.full((length,) * 4) for length in (6, 4, 26))
    one_film = Room(ehr=hours, cxr=1, note=tokens, joint=most, film_tokens=16)
    with pytest.raises(ValueError, match="no room holds the batches of step"):
        next(make_fixed(source, 4, RESIDENT, rooms=(one_film,)).epoch(1))


def fits(batch: LabelledBatch, room: Room) -> bool:
    try:
        into_slots(batch.inputs, room)
    except ValueError:
        return False
    return True


def test_fewer_samples_than_a_batch_still_make_one(data: PreparedData) -> None:
    source = BatchSource(data, data.task("ihm"), "val", DIMENSIONS, ENCODER, 1, CPU)
    fixed = make_fixed(source, 32, RESIDENT)
    assert fixed.samples_an_epoch() == fixed.batch_size == 9
    require_all_equal(fixed, 3, source)


def test_without_notes_or_with_hidden_ones_none_are_there(data: PreparedData) -> None:
    source = BatchSource(data, data.task("ihm"), "train", DIMENSIONS, None, 1, CPU)
    for budget in (RESIDENT, MAPPED):
        for stacked in make_fixed(source, 8, budget).epoch(1):
            assert stacked.note is None and not len(stacked.room.note) and stacked.of_seed(0).inputs.note is None
    whole = make_source(data, "ihm")
    hidden = whole.hiding("note", np.flatnonzero(whole.present[:, [0, 2]].all(1))[::2])
    require_all_equal(make_fixed(hidden, 8, MAPPED), 1, hidden)


def test_a_seed_whose_batch_has_no_known_label_is_not_alive(tmp_path: Path) -> None:
    folder = write_prepared(tmp_path, tasks=("dia",))
    file = folder / "samples" / "dia.parquet"
    frame = pd.read_parquet(file)
    labels = [name for name in frame if name[0] == "y" and name[1:].isdigit()]
    frame.loc[frame.index[::2], labels] = np.nan
    frame.to_parquet(file)
    source = make_source(PreparedData.open(folder), "dia")
    fixed = make_fixed(source, 2, RESIDENT)
    alive = torch.stack([stacked.alive for stacked in fixed.epoch(1)])
    assert alive.any(1).all() and (alive.sum(0) < 63 // 2).all()
    require_all_equal(fixed, 1, source)
    frame[labels] = np.nan
    frame.to_parquet(file)
    with pytest.raises(UserError, match="no training sample has a known label"):
        next(make_fixed(make_source(PreparedData.open(folder), "dia"), 2, RESIDENT).epoch(1))


def test_stores_that_fit_into_the_budget_are_resident_the_others_are_fetched(data: PreparedData) -> None:
    size = data.series.values.nbytes + data.tails.nbytes + data.notes(ENCODER).values.nbytes
    source = make_source(data, "dia")
    stores = DeviceStores(data, ENCODER, CPU, budget=size)
    assert stores.series.resident and stores.notes[0].resident and not stores.films.resident
    require_all_equal(FixedSource(source, (40,), 8, stores), 1, source)
    assert not DeviceStores(data, ENCODER, CPU, budget=size - 1).notes[0].resident
    with pytest.raises(ValueError, match="differ"):
        FixedSource(source, (40,), 8, DeviceStores(data, None, CPU))


@pytest.mark.parametrize("budget", [RESIDENT, MAPPED], ids=["resident", "mapped"])
def test_no_value_is_read_back(data: PreparedData, budget: int) -> None:
    """The meta device has shapes only: whatever reads a value, as would make a GPU wait, fails there."""
    source = make_source(data, "dia", device=torch.device("meta"), augmentation="mild")
    (stacked, *_) = make_fixed(source, 8, budget).epoch(1)
    (theirs, *_) = make_fixed(make_source(data, "dia", augmentation="mild"), 8, budget).epoch(1)
    assert {value.device.type for value in stacked.tensors.values()} == {"meta"}
    shapes, expected = ({n: (v.shape, v.dtype) for n, v in b.tensors.items()} for b in (stacked, theirs))
    assert shapes == expected


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("budget", [RESIDENT, MAPPED], ids=["resident", "mapped"])
def test_a_gpu_gets_the_same_and_never_waits(data: PreparedData, budget: int) -> None:
    source = make_source(data, "dia", device=torch.device("cuda"), augmentation="mild")
    fixed, on_cpu = make_fixed(source, 8, budget), make_fixed(make_source(data, "dia", augmentation="mild"), 8, budget)
    list(fixed.epoch(1))  # index tensors of the rooms are made on first use
    torch.cuda.set_sync_debug_mode("error")
    try:
        batches = list(fixed.epoch(2))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for ours, theirs in zip(batches, on_cpu.epoch(2), strict=True):
        for name, values in theirs.tensors.items():
            torch.testing.assert_close(ours.tensors[name].cpu(), values, rtol=0, atol=1e-4)


def threads() -> int:
    return sum(thread.name.startswith("ahead") for thread in threading.enumerate())


@pytest.mark.parametrize(("budget", "number"), [(RESIDENT, 1), (MAPPED, 2)])
def test_no_thread_outlives_its_epoch(data: PreparedData, budget: int, number: int) -> None:
    fixed = make_fixed(make_source(data, "ihm"), 8, budget)
    steps = fixed.epoch(1)
    assert isinstance(next(steps), StackedBatch) and threads() == number
    steps.close()
    assert threads() == 0
    assert len(list(fixed.epoch(1))) >= 7 and threads() == 0


def test_a_fault_while_working_ahead_arrives_in_its_place() -> None:
    def failing() -> Generator[int, None, None]:
        yield 0
        yield 1
        raise OSError("the disk is gone")

    arrived = []
    with pytest.raises(OSError, match="the disk is gone"):
        arrived.extend(ahead(failing(), 3))
    assert arrived == [0, 1] and threads() == 0
    assert list(ahead((number for number in range(5)), 2)) == [0, 1, 2, 3, 4]


def test_plans_in_blocks_are_the_plan_of_the_whole(data: PreparedData) -> None:
    source = make_source(data, "dia", augmentation="mild")
    rooms = make_fixed(source, 8, RESIDENT).rooms
    (whole,) = plan_epoch(source, SEEDS, 1, 8, rooms)
    parts = list(plan_epoch(source, SEEDS, 1, 8, rooms, block=2))
    assert len(parts) == 4
    assert sum((part.rooms for part in parts), ()) == whole.rooms
    assert sum((part.steps for part in parts), ()) == whole.steps
    for name, table in whole.tables.items():
        np.testing.assert_array_equal(np.concatenate([part.tables[name] for part in parts]), table)
