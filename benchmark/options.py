"""The options of `bench run`: their types, how lists are typed, and which of them go together."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from benchmark.protocols.reading import parse_strictly
from benchmark.protocols.schema import Count, Seed
from benchmark.suggest import unknown

LISTS = {
    "models": "names of models or groups (all, ablations, ...) with commas between",
    "tasks": "names with commas between, or all",
    "seeds": f"whole numbers from 0 to {2**32 - 1} with commas between",
    "devices": "whole numbers from 1 with commas between",
}
"""Options that are lists, and what may stand in them."""


ExecutorName = Literal["auto", "process", "pool", "gpus", "ray", "slurm"]

BY_THE_JOB = ("ray", "slurm")
"""Executors that are given one job at a time, and so never seeds side by side."""


class RunOptions(BaseModel):
    """The options of `bench run`, as typed or as a YAML file holds them. None stands for the default."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    models: Annotated[tuple[str, ...], Field(min_length=1)] = ("all",)
    tasks: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)] | None = None
    data: Annotated[str, Field(min_length=1)] | None = None
    protocol: str | dict[str, Any] | None = None
    label_fraction: Annotated[float, Field(gt=0, le=1)] = 1.0
    trace: bool = False
    device: Literal["auto", "cpu", "cuda"] = "auto"
    workers: Count | None = None
    form: Literal["auto", "packed", "fixed"] = "auto"
    executor: ExecutorName = "auto"
    address: str | None = None
    gpu_share: Annotated[float, Field(gt=0, le=1)] = 1.0
    slurm: dict[str, Any] = Field(default_factory=dict)
    save_every: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 60.0
    stall_after: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 180.0
    deterministic: bool = False
    out: Annotated[str, Field(min_length=1)] | None = None
    dry_run: bool = False
    devices: Annotated[tuple[Count, ...], Field(min_length=1)] | None = None
    paper_size: bool = False


def listed(key: str, value: Any) -> Any:
    """Options that are lists may be typed as one text with commas, or as a single value."""
    if key not in LISTS:
        return value
    if isinstance(value, str):
        value = [part for part in re.split(r"[,\s]+", value) if part]
    if isinstance(value, int) and not isinstance(value, bool):
        value = [value]
    if key in ("seeds", "devices") and isinstance(value, list):
        value = [int(part) if isinstance(part, str) and re.fullmatch(r"-?\d+", part) else part for part in value]
    return value


def list_faults(given: dict[str, Any]) -> list[str]:
    """What is wrong with the lists among the options; a faulty list is taken out of `given`."""
    faults = []
    for key, allowed in LISTS.items():
        value = given.get(key)
        if key == "models" and isinstance(value, Mapping):
            faults.append("models: options of models stand under protocol (protocol: {models: ...}); here are names")
        elif value == []:
            faults.append(f"{key}: none is named. Allowed: {allowed}")
        elif key == "seeds" and isinstance(value, list):
            wrong = [seed for seed in value if type(seed) is not int or not 0 <= seed < 2**32]
            faults += [f"seeds: {seed!r} is no seed. Allowed: {allowed}" for seed in wrong]
        if faults and faults[-1].startswith(key):
            del given[key]
    return faults


def parse_options(given: Mapping[str, Any], faults: list[str]) -> RunOptions | None:
    """The options, checked; None, and `faults` grows, where they do not fit."""
    named = {key: value for key, value in given.items() if key in RunOptions.model_fields}
    for key in given:
        if key not in named:
            faults.append(unknown("key", key, RunOptions.model_fields))
    return parse_strictly(RunOptions, named, "", faults)


def clashes(given: Mapping[str, Any], options: RunOptions | None) -> list[str]:
    """Options that do not go together; `options` are `given` once checked, None where they have faults."""
    faults = []
    if options and options.address and options.executor != "ray":
        faults.append(f"address: {options.address!r} is that of a Ray cluster, and goes with executor: ray")
    if options and options.executor != "ray" and options.gpu_share != 1:
        faults.append(f"gpu_share: {options.gpu_share:g} is that of a job under Ray, and goes with executor: ray")
    if options and options.executor != "slurm" and options.slurm:
        faults.append(f"slurm: {options.slurm} are parameters of submitit, and go with executor: slurm")
    seeds = given.get("seeds")
    if isinstance(seeds, list) and len(set(map(str, seeds))) < len(seeds):
        faults.append(f"seeds: {seeds} repeat a seed")
    if given.get("form") == "fixed" and given.get("executor") in BY_THE_JOB:
        allowed = "auto, process, pool, gpus"
        faults.append(f"executor: {given['executor']!r} takes job by job, not seeds side by side; allowed: {allowed}")
    faults += [
        f"{name}: goes with dry_run; nothing is trained with it"
        for name in ("devices", "paper_size")
        if given.get(name) and not given.get("dry_run")
    ]
    if given.get("paper_size") and given.get("data"):
        faults.append(f"paper_size: stands in place of a data set; found with data {given['data']!r}")
    return faults
