"""The best settings of a study: trained again over seeds, compared, and written as a file for `bench run --config`."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import yaml
from optuna.trial import FrozenTrial, TrialState

from benchmark.config import RunConfig
from benchmark.errors import UserError
from benchmark.files import replace_text
from benchmark.protocols.reading import overlaid, parse_protocol, protocol_values, shipped
from benchmark.protocols.schema import Protocol
from benchmark.runs.folder import json_text
from benchmark.runs.job import Job
from benchmark.tuning.objective import Metrics, mean_gain, raw_sum
from benchmark.tuning.parameters import tuned
from benchmark.tuning.study import StudyStore, number_of
from benchmark.tuning.trials import Search
from benchmark.tuning.validated import known_metrics

Train = Callable[[Sequence[Job]], None]
"""Validates jobs whose metrics are not known yet."""


@dataclass(frozen=True)
class Confirmed:
    """Settings of one trial, trained for the protocol's own epochs with several seeds.

    Attributes:
        trial: the number of its draw. values: of the parameters. seeds: in the order of `gains`, the mean gain of each.
        gains_by_task: by task, in the order of seeds. raw: mean over seeds of the sum of all scores.
    """

    trial: int
    values: Mapping[str, Any]
    seeds: tuple[int, ...]
    gains: tuple[float, ...]
    gains_by_task: Mapping[str, tuple[float, ...]]
    raw: float

    @property
    def mean(self) -> float:
        return fmean(self.gains)

    @property
    def deviation(self) -> float | None:
        return stdev(self.gains) if len(self.gains) > 1 else None


def best_trials(store: StudyStore, count: int) -> list[FrozenTrial]:
    """The completed trials of highest mean gain, those with equal values once; the earlier one first where equal."""
    found: dict[str, FrozenTrial] = {}
    for trial in (trial for trial in store.trials() if trial.state == TrialState.COMPLETE):
        found.setdefault(json.dumps(trial.params, sort_keys=True), trial)
    ordered = sorted(found.values(), key=lambda trial: (-mean_gain(trial.user_attrs["gains"]), number_of(trial)))
    if not ordered:
        raise UserError(f"no trial of {store.folder.name} was completed; there are no best settings")
    return ordered[:count]


def confirm(search: Search, store: StudyStore, count: int, seeds: Sequence[int], train: Train) -> list[Confirmed]:
    """Trains the best trials' settings with the protocol's epochs and several seeds; the best mean comes first."""
    trials = best_trials(store, count)
    jobs = {(t.number, seed): search.jobs(t.params, seed) for t in trials for seed in seeds}
    train([job for several in jobs.values() for job in several])
    found = []
    for trial in trials:
        runs = [_metrics(search, jobs[trial.number, seed]) for seed in seeds]
        gains = [search.reference.gains(metrics) for metrics in runs]
        by_task = {task: tuple(gain[task] for gain in gains) for task in gains[0]}
        means = tuple(mean_gain(gain) for gain in gains)
        raw = fmean(raw_sum(metrics) for metrics in runs)
        found.append(Confirmed(number_of(trial), trial.params, tuple(seeds), means, by_task, raw))
    found.sort(key=lambda one: -one.mean)
    replace_text(search.folder / "confirmed.json", json_text([asdict(one) for one in found]))
    return found


def read_confirmed(folder: Path) -> list[Confirmed]:
    """What `confirm` found, if it was there."""
    file = folder / "confirmed.json"
    if not file.is_file():
        return []
    rows = json.loads(file.read_text(encoding="utf-8"))
    return [
        Confirmed(
            row["trial"],
            row["values"],
            tuple(row["seeds"]),
            tuple(row["gains"]),
            {task: tuple(values) for task, values in row["gains_by_task"].items()},
            row["raw"],
        )
        for row in rows
    ]


def write_settings(file: Path, searches: Sequence[Search], winners: Sequence[Confirmed]) -> None:
    """Writes the winning settings of models of one protocol as a file for `bench run --config`."""
    config = searches[0].config
    lines = []
    for search, winner in zip(searches, winners, strict=True):
        study = f"{search.id}#{winner.trial}"
        # Each search's own protocol is without the others' values; laid over one another they hold together.
        config = _with(config, tuned(search.config, search.model, winner.values, study).protocol, search.model)
        spread = "" if winner.deviation is None else f" ({winner.deviation:.3f})"
        seeds = ", ".join(map(str, winner.seeds))
        lines.append(
            f"# {search.model}: study {search.id}, trial {winner.trial}; mean standardised gain over "
            f"{search.reference.model} on validation {winner.mean:+.3f}{spread}, seeds {seeds}"
        )
    # The tasks too: task weights are in proportion to one another, and mean nothing beside those of other tasks.
    content: dict[str, Any] = {"models": [search.model for search in searches], "tasks": list(config.tasks)}
    if config.data is not None:
        content["data"] = str(config.data.path)
    if config.label_fraction != 1:
        content["label_fraction"] = config.label_fraction
    content["protocol"] = _protocol(config)
    head = ["# Written by `bench tune`. Use it with: bench run --config " + file.name, *lines]
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
    replace_text(file, "\n".join(head) + "\n" + text)


def _with(config: RunConfig, protocol: Protocol, model: str) -> Any:
    """`config` with all that `protocol` says of one model."""
    values = protocol.model_dump(mode="json")
    own = {key: {model: values[key][model]} for key in ("training_of", "models") if model in values[key]}
    laid = parse_protocol(overlaid(config.protocol.model_dump(mode="json"), own), faults := [])
    if laid is None:
        raise UserError("; ".join(faults))
    return replace(config, protocol=laid)


def _protocol(config: RunConfig) -> dict[str, Any]:
    """The protocol as the shipped one that it is built on, if there is one, and what differs."""
    values = config.protocol.model_dump(mode="json")
    name = values["name"]
    base = parse_protocol(protocol_values(name), []) if name in shipped() else None
    if base is not None:
        under = base.model_dump(mode="json")
        changed = {key: value for key, value in values.items() if value != under[key]}
        if set(changed) <= {"training_of", "models"}:
            own = {
                key: {model: _set(one) for model, one in value.items() if one != under[key].get(model)}
                for key, value in changed.items()
            }
            return {"base": name, "name": f"{name}-tuned", **own}
    values["training_of"] = {model: _set(one) for model, one in values["training_of"].items()}
    return {**values, "name": f"{name}-tuned"}


def _set(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values that say something."""
    return {name: value for name, value in values.items() if value not in (None, {})}


def _metrics(search: Search, jobs: Sequence[Job]) -> Metrics:
    found: dict[str, Mapping[str, float]] = {}
    for job in jobs:
        metrics = known_metrics(search.config.out, job)
        if metrics is None:
            raise UserError(f"{job.id} could not be trained; see {search.config.out / 'tuning' / 'runs'}")
        found |= metrics
    return found
