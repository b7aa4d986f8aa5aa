"""All models by name: those of this project and those that other installed packages add.

A package adds a model through the entry-point group `benchmark.models`; the entry point names a `ModelEntry` or a
sequence of them. No other module of the harness imports a model: they ask here for it, and share with `models/` the
contract and general building blocks only.
"""

from __future__ import annotations

import dataclasses
import importlib
import re
import sys
import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

from benchmark.code_version import hash_files
from benchmark.errors import UserError
from benchmark.suggest import unknown
from models.contract import MODALITIES, ModelEntry

GROUP = "benchmark.models"
GROUP_NAMES = {
    "all": "table3",
    "ablations": "ablation",
    "references": "reference",
    "extensions": "extension",
    "presets": "preset",
}
"""What may be typed in place of the names of all models of a group."""

_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")


@dataclass(frozen=True)
class Registry:
    """What was found.

    Attributes:
        entries: usable models by name, in the order of table columns.
        plugins: names of those that came from other packages.
        broken: entry points that could not be used, with the reason.
    """

    entries: dict[str, ModelEntry] = field(default_factory=dict)
    plugins: frozenset[str] = frozenset()
    broken: dict[str, str] = field(default_factory=dict)


@cache
def load() -> Registry:
    """Collects the project's own models, then third-party ones; warns of each entry point that has to be left out."""
    entries: dict[str, ModelEntry] = {}
    for package in ("baselines", "models"):
        for entry in importlib.import_module(package).ENTRIES:
            _add(entries, entry)
    plugins: set[str] = set()
    broken: dict[str, str] = {}
    for point in sorted(entry_points(group=GROUP), key=lambda point: (point.name, point.value)):
        try:
            for entry in _load_point(point):
                _add(entries, entry)
                plugins.add(entry.name)
        except _Unusable as fault:
            broken[point.name] = str(fault)
            warnings.warn(f"model entry point {point.name!r} ({point.value}) is left out: {fault}", stacklevel=2)
    return Registry(entries, frozenset(plugins), broken)


def models() -> dict[str, ModelEntry]:
    """All usable models by name, in the order of table columns."""
    return dict(load().entries)


def selected(names: Collection[str]) -> tuple[str, ...]:
    """The models that `names` stand for, in the order of table columns; a name is a model's or one of `GROUP_NAMES`."""
    groups = {GROUP_NAMES[name] for name in names if name in GROUP_NAMES}
    return tuple(name for name, entry in load().entries.items() if name in names or entry.group in groups)


def get(name: str) -> ModelEntry:
    """The model called `name`; a `UserError` says what is near, or why an installed one cannot be used."""
    fault = name_fault(name)
    if fault:
        raise UserError(fault)
    return load().entries[name]


def twins(entries: Mapping[str, ModelEntry]) -> dict[str, str]:
    """Single-task twin of each multitask model that has one: built alike, from options of the same kind."""
    return {
        name: other
        for name, entry in entries.items()
        for other, single in entries.items()
        if entry.multitask and not single.multitask and single.pretrained_on is None
        if (single.build, single.config) == (entry.build, entry.config)
    }


def name_fault(name: str) -> str | None:
    """None if a model is called `name`, otherwise the sentence that refuses it."""
    registry = load()
    if name in registry.entries:
        return None
    if name in registry.broken:
        return f"model {name!r} is installed by another package but cannot be used: {registry.broken[name]}"
    return unknown("model", name, registry.entries)


def selection_fault(name: str) -> str | None:
    """As `name_fault`, where the names of groups are allowed as well."""
    if name in GROUP_NAMES:
        return None
    fault = name_fault(name)
    return fault and f"{fault}; groups: {', '.join(GROUP_NAMES)}"


def plugin_version(name: str) -> str | None:
    """SHA-256 of the source files that define a third-party model; None for the project's own."""
    registry = load()
    if name not in registry.plugins:
        return None
    entry = registry.entries[name]
    modules = {getattr(part, "__module__", None) for part in (entry.config, entry.build)}
    sources = {getattr(sys.modules.get(module or ""), "__file__", None) for module in modules}
    return hash_files(Path(source) for source in sources if source)


class _Unusable(Exception):
    """An entry that breaks the rules of the registry."""


def _load_point(point: EntryPoint) -> Sequence[ModelEntry]:
    try:
        found = point.load()
    except (
        Exception
    ) as fault:  # other people's code runs here at import and may raise anything; it must not stop the rest
        raise _Unusable(f"its import raised {type(fault).__name__}: {fault}") from fault
    entries = [found] if isinstance(found, ModelEntry) else found
    if not isinstance(entries, Sequence) or not all(isinstance(entry, ModelEntry) for entry in entries):
        raise _Unusable(
            f"it gives {type(found).__name__}; allowed is a models.contract.ModelEntry or a sequence of them"
        )
    return entries


def _add(entries: dict[str, ModelEntry], entry: ModelEntry) -> None:
    if not _NAME.fullmatch(entry.name):
        raise _Unusable(
            f"model name {entry.name!r}; allowed are lower-case letters, digits and single hyphens between them"
        )
    if entry.name in GROUP_NAMES:
        raise _Unusable(f"model name {entry.name!r} stands for a group of models")
    if entry.group not in GROUP_NAMES.values():
        groups = ", ".join(GROUP_NAMES.values())
        raise _Unusable(f"group of model {entry.name!r} is {entry.group!r}; allowed are {groups}")
    if entry.name in entries:
        raise _Unusable(f"a model called {entry.name!r} exists already")
    if not (isinstance(entry.config, type) and dataclasses.is_dataclass(entry.config)):
        raise _Unusable(f"config of model {entry.name!r} is {entry.config!r}; it must be a frozen dataclass")
    if not entry.config.__dataclass_params__.frozen:
        raise _Unusable(f"config of model {entry.name!r}, {entry.config.__name__}, is not frozen")
    for option in dataclasses.fields(entry.config):
        if option.default is dataclasses.MISSING and option.default_factory is dataclasses.MISSING:
            raise _Unusable(f"option {option.name!r} of model {entry.name!r} has no default")
    if not callable(entry.build):
        raise _Unusable(f"build of model {entry.name!r} is {entry.build!r}, which cannot be called")
    if entry.fits and entry.multitask:
        raise _Unusable(f"model {entry.name!r} is fitted in one go and multitask; such a model has one task")
    options = {option.name for option in dataclasses.fields(entry.config)}
    if strangers := {*entry.space.options, *entry.wide_space.options} - options:
        raise _Unusable(f"search space of model {entry.name!r} names {sorted(strangers)}, which are no options of it")
    if not entry.reads or set(entry.reads) - set(MODALITIES):
        raise _Unusable(f"model {entry.name!r} reads {entry.reads!r}; allowed are some of {', '.join(MODALITIES)}")
    entries[entry.name] = entry
