"""The finished runs of a group that analyses look at."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from benchmark.errors import UserError
from benchmark.evaluation.resampling import patient_weights
from benchmark.evaluation.subgroups import Scored
from benchmark.reporting.resamples import Predictions, read_predictions
from benchmark.runs.collect import collect
from benchmark.runs.groups import RunGroup, choose, groups
from benchmark.suggest import unknown
from benchmark.tasks import TASKS

Place = tuple[str, float, str]
"""Task, share of the labels, model."""


@dataclass(frozen=True)
class Stored:
    """Finished runs of one group.

    Attributes:
        out: folder of the results. runs: as `collect` gives them, the last asked-for last. order: models by name.
    """

    out: Path
    group: RunGroup
    runs: pd.DataFrame
    order: tuple[str, ...]

    @classmethod
    def open(
        cls, out: Path, order: Collection[str], group: str | None = None, models: Collection[str] | None = None
    ) -> Stored:
        """The runs of the group whose id begins with `group`, or of the newest.

        Args:
            order: of the models; others follow by name. models: leave out all others.

        Raises:
            UserError: there is no such group, or a model has no finished run in it.
        """
        runs = collect(out)
        chosen = choose(groups(out, runs), group, out)
        place = {name: position for position, name in enumerate(chosen.runs)}
        own = runs[runs["run"].isin(place) & (runs["status"] == "done")]
        own = own.assign(asked=own["run"].map(place)).sort_values("asked", ignore_index=True)
        found = set(own["model"])
        for name in models or ():
            if name not in found:
                raise UserError(unknown("model with finished runs", name, sorted(found)))
        if models:
            own, found = own[own["model"].isin(models)], set(models)
        return cls(out, chosen, own, (*(name for name in order if name in found), *sorted(found - set(order))))

    @property
    def titles(self) -> Mapping[str, str]:
        return dict(zip(self.runs["model"], self.runs["title"], strict=True))

    @cached_property
    def cells(self) -> dict[Place, dict[int, str]]:
        """Run by seed, by task, share of the labels and model; of different settings or task sets the last asked-for,
        as in the results table."""
        by_task = self.runs.assign(task=self.runs["tasks"].map(list)).explode("task")
        found: dict[Place, dict[int, str]] = {}
        for place, frame in by_task.groupby(["task", "label_fraction", "model"], sort=False):
            latest = frame[frame["variant"] == frame["variant"].iloc[-1]].sort_values("seed")
            found[place] = dict(zip(latest["seed"].astype(int), latest["run"], strict=True))
        return dict(sorted(found.items(), key=lambda item: self._rank(item[0])))

    def _rank(self, place: Place) -> tuple[int, float, int]:
        return list(TASKS).index(place[0]), place[1], self.order.index(place[2])


@dataclass(frozen=True)
class CellPredictions:
    """What the runs of a cell predicted.

    Attributes:
        seeds: predictions of each seed on the same samples. scored: the same as one.
        weights: (P, R + 1) resampling weights of the patients.
    """

    seeds: list[Predictions]
    scored: Scored
    weights: np.ndarray


def cell_predictions(stored: Stored, place: Place, resamples: int) -> CellPredictions:
    """Predictions of a cell's runs.

    Raises:
        UserError: its runs were tested on different samples.
    """
    name, record = place[0], TASKS[place[0]]
    seeds = [read_predictions(stored.out, run, name) for run in stored.cells[place].values()]
    one = seeds[0]
    if any(not np.array_equal(one.sample, other.sample) for other in seeds):
        raise UserError(f"{place[2]} on {name}: its runs were tested on different samples; are they of one data set?")
    patients, owner = np.unique(one.patient, return_inverse=True)
    classes = record.classes or tuple(map(str, range(one.probability.shape[1])))
    probability = [each.probability for each in seeds]
    scored = Scored(record.kind, classes, record.metrics, one.y, one.known, probability, owner)
    return CellPredictions(seeds, scored, patient_weights(len(patients), resamples))
