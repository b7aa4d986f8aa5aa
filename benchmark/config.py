"""From what the user typed to a run configuration: command line over YAML file over protocol, all faults at once."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_type_hints

from pydantic import TypeAdapter, ValidationError

from benchmark import registry
from benchmark.code_version import ROOT
from benchmark.errors import UserError
from benchmark.files import write_fault
from benchmark.manifest import DataInfo, read_manifest
from benchmark.options import clashes, list_faults, listed, parse_options
from benchmark.protocols.reading import based, overlaid, parse_protocol, protocol_values, read_yaml
from benchmark.protocols.schema import Protocol
from benchmark.suggest import unknown
from benchmark.tasks import TASKS
from models.contract import ModelEntry

DEFAULT_PROTOCOL = {"without data": "quick", "with data": "paper"}


@dataclass(frozen=True)
class RunConfig:
    """A checked, complete request.

    Attributes:
        models: names, in the order of the registry. model_options: each model's own, complete configuration; also of
            models that others start from.
        tasks: names, in the order of the paper. seeds: one run a seed.
        data: the prepared data set; None: the embedded cohort of the protocol.
        label_fraction: share of each task's training samples that is used.
        trace: score all test sets after each task's part of each epoch, for models trained on several tasks.
        device: "auto", "cpu" or "cuda". workers: processes side by side; None: as many as make sense.
        form: "auto", "packed" or "fixed"; of batches in training.
        deterministic: of torch's algorithms only those that give the same bytes each time.
        save_every: seconds after which a running job keeps what it has reached. out: folder of runs and tables.
        stall_after: minutes without a word from a running job after which that is told.
        executor: what carries out the jobs; "auto": this process, a pool of processes, or all GPUs, as suits.
        address, gpu_share: of Ray: a running cluster, and the share of a GPU that a job takes.
        slurm: parameters of submitit.
        devices: numbers of them that a dry run is to plan for; none: those at hand.
        paper_size: a dry run of the paper's work at its own size, without a data set.
    """

    models: tuple[str, ...]
    model_options: Mapping[str, Any]
    tasks: tuple[str, ...]
    seeds: tuple[int, ...]
    data: DataInfo | None
    protocol: Protocol
    label_fraction: float
    trace: bool
    device: str
    workers: int | None
    form: str
    save_every: float
    deterministic: bool
    out: Path
    dry_run: bool
    executor: str = "auto"
    address: str | None = None
    gpu_share: float = 1.0
    slurm: Mapping[str, Any] = field(default_factory=dict)
    devices: tuple[int, ...] = ()
    paper_size: bool = False
    stall_after: float = 180.0


def resolve(typed: Mapping[str, Any], config_file: Path | None = None) -> RunConfig:
    """Checks everything that the user gave and completes it.

    Args:
        typed: options from the command line by field name of `RunOptions`; None where not given.
        config_file: YAML file with further options; what was typed wins. File names in it start at its own folder.

    Raises:
        UserError: with all faults found, each with its place, the value and what is allowed.
    """
    faults: list[str] = []
    config_file = config_file and config_file.expanduser()
    base = config_file.resolve().parent if config_file else Path.cwd()
    from_file = read_yaml(config_file) if config_file else {}
    given = {**from_file, **{key: value for key, value in typed.items() if value is not None}}
    given = {key: listed(key, value) for key, value in given.items()}
    faults += list_faults(given)
    if given.get("paper_size") is True:
        given = {"models": ["all", "ablations", "extensions"], "tasks": ["all"], **given}
    options = parse_options(given, faults)
    faults += clashes(given, options)
    folder = base if typed.get("data") is None else Path.cwd()
    data = _read_data(given.get("data"), folder, faults)
    like_data = given.get("data") or given.get("paper_size")
    values = _protocol_values(from_file.get("protocol"), typed.get("protocol"), like_data, config_file, faults)
    protocol = None if values is None else parse_protocol(values, faults)
    models = _select_models(given.get("models", ["all"]), faults)
    tasks = _select_tasks(given.get("tasks"), data, faults)
    faults += _carried_over_nowhere(given.get("models"), tasks)
    sources = (registry.get(name).pretrained_on for name in models)
    needed = tuple(dict.fromkeys([*models, *filter(None, sources)]))
    strangers = [registry.name_fault(name) for name in protocol.training_of] if protocol else []
    faults += [f"protocol.training_of: {fault}" for fault in strangers if fault]
    model_options = _model_options(needed, (values or {}).get("models"), faults)
    if given.get("device") == "cuda" and not _has_cuda():
        faults.append("device: 'cuda' was asked for, but torch sees no CUDA device here. Allowed: auto, cpu")
    out = _out(given.get("out"), base if typed.get("out") is None else Path.cwd())
    if fault := write_fault(out):
        faults.append(f"out: cannot write to {out}: {fault}")
    if faults or options is None or protocol is None:
        raise UserError(_together(faults))
    return RunConfig(
        models=models,
        model_options=model_options,
        tasks=tasks,
        seeds=options.seeds or protocol.seeds,
        data=data,
        protocol=protocol,
        label_fraction=options.label_fraction,
        trace=options.trace,
        device=options.device,
        workers=options.workers,
        form=options.form,
        save_every=options.save_every,
        deterministic=options.deterministic,
        out=out,
        dry_run=options.dry_run,
        executor=options.executor,
        address=options.address,
        gpu_share=options.gpu_share,
        slurm=options.slurm,
        devices=options.devices or (),
        paper_size=options.paper_size,
        stall_after=options.stall_after,
    )


def _out(value: Any, folder: Path) -> Path:
    return _place(value, folder) if value and isinstance(value, str) else default_out()


def default_out() -> Path:
    """Where runs go unless told otherwise: `results/` of a source checkout, else the user's data folder."""
    if (ROOT / "pyproject.toml").is_file():
        return ROOT / "results"
    return Path.home() / ".local" / "share" / "flexcare-bench"


def build_options(entry: ModelEntry, values: Mapping[str, Any], faults: list[str]) -> Any:
    """The model's configuration with `values` in place of defaults; None, and `faults` grows, where they do not fit."""
    types = get_type_hints(entry.config)
    names = [option.name for option in dataclasses.fields(entry.config) if option.init]
    checked, before = {}, len(faults)
    for name, value in values.items():
        place = f"protocol.models.{entry.name}.{name}"
        if name not in names:
            faults.append(f"{place}: {unknown('option', name, names)}")
            continue
        try:
            checked[name] = TypeAdapter(types[name]).validate_json(json.dumps(value, default=str), strict=True)
        except ValidationError as error:
            message = error.errors(include_url=False)[0]["msg"]
            faults.append(f"{place}: {message[0].lower()}{message[1:]}; found {value!r}")
    if len(faults) > before:
        return None
    try:
        return entry.config(**checked)
    except (ValueError, UserError) as fault:
        faults.append(f"protocol.models.{entry.name}: {fault}")
        return None


def _together(faults: list[str]) -> str:
    if len(faults) == 1:
        return faults[0]
    return "\n".join([f"{len(faults)} faults in the options:", *(f"  - {fault}" for fault in faults)])


def _read_data(value: Any, folder: Path, faults: list[str]) -> DataInfo | None:
    if not isinstance(value, str):
        return None
    try:
        return read_manifest(_place(value, folder))
    except UserError as fault:
        faults.append(f"data: {fault}")
        return None


def _protocol_values(
    in_file: Any, typed: str | None, data: Any, config_file: Path | None, faults: list[str]
) -> dict[str, Any] | None:
    """The protocol, unchecked: what the command line or the file names, with the file's own values laid over it."""
    base = typed if typed is not None else (in_file if isinstance(in_file, str) else None)
    changes = dict(in_file) if isinstance(in_file, Mapping) else {}
    folder = Path.cwd() if typed is not None or config_file is None else config_file.resolve().parent
    if base is None and "base" not in changes:
        base = DEFAULT_PROTOCOL["with data" if data else "without data"]
    try:
        if base is not None:
            changes.pop("base", None)
            values = overlaid(protocol_values(base, folder), changes)
        else:
            values = based(changes, folder)
    except UserError as fault:
        faults.append(f"protocol: {fault}")
        return None
    if changes and "name" not in changes and config_file is not None:
        values["name"] = f"{values.get('name')}+{config_file.stem}"
    return values


def _select_models(asked: Any, faults: list[str]) -> tuple[str, ...]:
    """Registered models in registry order; a group's name stands for its models."""
    if not isinstance(asked, list):
        return ()
    names = [str(name) for name in asked]
    faults += [f"models: {fault}" for name in names if (fault := registry.selection_fault(name))]
    return registry.selected(names)


def _select_tasks(asked: Any, data: DataInfo | None, faults: list[str]) -> tuple[str, ...]:
    """Tasks in the order of the paper; by default those of its main comparison that the data allow."""
    possible = [name for name in TASKS if data is None or name in data.samples]
    if asked is None:
        chosen = tuple(name for name in possible if TASKS[name].in_table3)
    elif not isinstance(asked, list):
        return ()
    else:
        for name in map(str, asked):
            if name != "all" and name not in TASKS:
                faults.append(f"tasks: {unknown('task', name, [*TASKS, 'all'])}")
            elif name != "all" and name not in possible:
                reason = data.impossible.get(name, "the data set has no samples of it") if data else ""
                faults.append(f"tasks: {name!r} is not possible on {data.name if data else ''}: {reason}")
        chosen = tuple(name for name in possible if name in asked or "all" in asked)
    if not chosen and not faults:
        faults.append("tasks: none is left to run on these data")
    return chosen


def _carried_over_nowhere(asked: Any, tasks: tuple[str, ...]) -> list[str]:
    """Pretrained models that were named although every task is one of their first training."""
    further = [name for name, task in TASKS.items() if not task.in_table3]
    if not isinstance(asked, list) or not tasks or set(further) & set(tasks):
        return []
    entries = (entry for name, entry in registry.models().items() if name in asked and entry.pretrained_on)
    return [
        f"models: {entry.name} is for tasks that {entry.pretrained_on} is not trained on first: {', '.join(further)}"
        for entry in entries
    ]


def _model_options(models: tuple[str, ...], overrides: Any, faults: list[str]) -> dict[str, Any]:
    """Each model's configuration; overrides of models that do not run are checked as well."""
    given = (
        {name: values for name, values in overrides.items() if isinstance(values, Mapping)}
        if isinstance(overrides, Mapping)
        else {}
    )
    for name in given:
        if fault := registry.name_fault(str(name)):
            faults.append(f"protocol.models: {fault}")
        elif name not in models:
            build_options(registry.get(name), given[name], faults)
    return {name: options_of(name, given, faults) for name in models}


def options_of(name: str, given: Mapping[str, Mapping[str, Any]], faults: list[str]) -> Any:
    """The configuration of a model from the options that models are given, by their names.

    A model that starts from another's state has that one's options unless it is given others: values that were trained
    for one function mean little to another.
    """
    entry = registry.get(name)
    shared = {one.name for one in dataclasses.fields(entry.config)} if entry.pretrained_on else set()
    inherited = {option: value for option, value in given.get(entry.pretrained_on, {}).items() if option in shared}
    build_options(entry, inherited, wrong := [])
    inherited = {} if wrong else inherited  # told of the model that they were given to
    return build_options(entry, {**inherited, **given.get(name, {})}, faults)


def _place(value: str, folder: Path) -> Path:
    return (folder / Path(value).expanduser()).resolve()


def _has_cuda() -> bool:
    import torch

    return torch.cuda.is_available()
