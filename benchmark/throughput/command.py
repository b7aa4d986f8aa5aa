"""What `bench throughput` was asked for, checked, carried out and written."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmark import registry
from benchmark.config import default_out
from benchmark.errors import UserError
from benchmark.files import write_fault
from benchmark.protocols.reading import parse_protocol, protocol_values
from benchmark.protocols.schema import Protocol
from benchmark.suggest import unknown
from benchmark.throughput import further_tables, output, plots, tables
from benchmark.throughput.clock import ROUNDS
from benchmark.throughput.end_to_end import EndToEnd, measure_end_to_end
from benchmark.throughput.forms import FORMS, Subject
from benchmark.throughput.made_up import NOTE_FEATURES
from benchmark.throughput.mixes import mixes
from benchmark.throughput.scaling import measure_scaling
from benchmark.throughput.steps import DTYPES, YARDSTICK, Request, measure
from benchmark.throughput.trace import write_trace
from benchmark.throughput.training_loop import Loop, measure_loops
from benchmark.throughput.whole_grid import table3_sheet, together_sheet
from models.contract import Dimensions


@dataclass(frozen=True)
class Asked:
    """Options as typed; see `bench throughput --help`."""

    models: Sequence[str]
    tasks: Sequence[str] | None
    forms: Sequence[str]
    dtypes: Sequence[str]
    against: str | None
    batch_size: int | None
    seeds: int
    rounds: int
    threads: int
    device: str
    protocol: str
    profile: Path | None
    scaling: bool
    end_to_end: bool
    loop: bool
    out: Path | None


@dataclass(frozen=True)
class Done:
    """What is printed, and where the files lie."""

    text: str
    folder: Path


def run(asked: Asked, notify: Callable[[str], None] = lambda _: None) -> Done:
    """Measures and writes.

    Raises:
        UserError: an option that cannot be meant; nothing is measured then.
    """
    request = request_of(asked)
    folder = asked.out.expanduser().resolve() if asked.out else output.default_folder(default_out(), request.device)
    output.require_free(folder)
    if asked.profile and (fault := write_fault(asked.profile.expanduser().resolve().parent)):
        raise UserError(f"nothing can be written in {asked.profile.parent}: {fault}")
    before = torch.get_num_threads()
    torch.set_num_threads(asked.threads)
    try:
        found = measure(request, notify)
        points = measure_scaling(request, notify) if asked.scaling else []
        whole, reasons = _end_to_end(request, notify) if asked.end_to_end else ([], [])
        loops, without = _loops(request, asked, notify) if asked.loop else ([], [])
        facts = output.facts_of(request.device, asked.threads, found.peaks)
        facts["sizes"] = dataclasses.asdict(request.dimensions)
    finally:
        torch.set_num_threads(before)
    caption = output.caption(facts)
    sheets = [tables.ratio_sheet(found), tables.epoch_sheet(found), tables.step_sheet(found)]
    figures = {"steps": plots.draw_steps(found, caption)}
    protocol = _protocol(asked.protocol)
    epochs = {True: protocol.training.epochs.multitask, False: protocol.training.epochs.singletask}
    sheets[2:2] = [together_sheet(found), table3_sheet(found, epochs, len(protocol.seeds))]
    if whole:
        sheets.insert(0, further_tables.end_to_end_sheet(whole))
    if loops:
        sheets.insert(0, further_tables.loop_sheet(loops))
    if points:
        sheets.append(further_tables.scaling_sheet(points))
        figures["scaling"] = plots.draw_scaling(points, caption)
    sheets = [sheet for sheet in sheets if sheet is not None]
    remarks = [*_remarks(request, asked), *reasons, *without]
    raw = output.raw_rounds(found)
    raw |= {"scaling": [dataclasses.asdict(each) for each in points]}
    raw |= {"end_to_end": [dataclasses.asdict(each) for each in whole]}
    raw |= {"loop": [dataclasses.asdict(each) for each in loops]}
    output.write_folder(folder, facts, sheets, figures, raw, remarks)
    if asked.profile:
        write_trace(request, next(_subjects(request)), asked.profile.expanduser())
    return Done(output.markdown(facts, sheets, remarks), folder)


def _subjects(request: Request) -> Iterator[Subject]:
    """Every model with training steps on every mix."""
    for entry in request.entries:
        for mix in request.mixes:
            if not entry.fits:
                yield Subject(entry, mix, request.dimensions, request.device)


def _end_to_end(request: Request, notify: Callable[[str], None]) -> tuple[list[EndToEnd], list[str]]:
    """Whole steps of all models, and why some have none."""
    found, reasons = [], []
    for subject in _subjects(request):
        notify(f"{subject.entry.title}, {subject.mix.task.title}: a step from the disk")
        each = measure_end_to_end(subject, request.batch_size, request.rounds)
        if isinstance(each, str):
            reasons.append(f"{subject.entry.title}, a step from the disk: {tables.NOT_MEASURED} ({each}).")
        else:
            found.append(each)
    return found, reasons


def _loops(request: Request, asked: Asked, notify: Callable[[str], None]) -> tuple[list[Loop], list[str]]:
    return measure_loops(request, _protocol(asked.protocol).training.augmentation, notify)


def request_of(asked: Asked) -> Request:
    """The request that the options stand for.

    Raises:
        UserError: with the first fault found.
    """
    for name in asked.models:
        if fault := registry.selection_fault(name):
            raise UserError(fault)
    for kind, names, allowed in (("form", asked.forms, FORMS), ("dtype", asked.dtypes, DTYPES)):
        for name in names:
            if name not in allowed:
                raise UserError(unknown(kind, name, allowed))
    if asked.against not in (None, YARDSTICK[0]):
        raise UserError(unknown("reference", asked.against, [YARDSTICK[0]]))
    chosen = [registry.get(name) for name in registry.selected(asked.models)]
    if all(entry.fits for entry in chosen):
        raise UserError(f"{', '.join(asked.models)}: fitted in one go, without training steps to measure")
    settings = _protocol(asked.protocol)
    sizes = Dimensions(**settings.dimensions.model_dump(), note_features=NOTE_FEATURES)
    return Request(
        entries=chosen,
        mixes=list(mixes(asked.tasks).values()),
        forms=tuple(dict.fromkeys(asked.forms)),
        dtypes=tuple(dict.fromkeys(asked.dtypes)),
        against=asked.against is not None,
        batch_size=asked.batch_size or settings.training.batch_size,
        seeds=asked.seeds,
        rounds=asked.rounds,
        dimensions=sizes,
        device=_device(asked.device),
    )


def _protocol(name: str) -> Protocol:
    settings = parse_protocol(protocol_values(name), faults := [])
    if settings is None or faults:
        raise UserError("; ".join(faults))
    return settings


def _device(name: str) -> torch.device:
    if name not in ("auto", "cpu", "cuda"):
        raise UserError(unknown("device", name, ("auto", "cpu", "cuda")))
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("device: 'cuda' was asked for, but torch sees no CUDA device here. Allowed: auto, cpu")
    return torch.device("cuda" if torch.cuda.is_available() and name != "cpu" else "cpu")


def _remarks(request: Request, asked: Asked) -> list[str]:
    """Sentences on what was measured."""
    d = request.dimensions
    few = f" Fewer than {ROUNDS} rounds: the medians say little." if request.rounds < ROUNDS else ""
    return [
        f"Batches of {request.batch_size} made-up samples, {request.rounds} rounds after one of warm-up.{few} Sizes of "
        f"protocol {asked.protocol}: width {d.width}, {d.layers} layers, dropout {d.dropout:g}, films of {d.film} "
        f"pixels, at most {d.hours} hours and {d.note_tokens} note tokens. Missing rates are those of the paper's "
        "Table 2; lengths are assumed (hours: median 47, mean 83; note tokens: median 101, mean 128; lognormal)."
    ]
