"""Two models (or two runs) side by side: differences with intervals, by task and by which modalities are present."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from benchmark.errors import UserError
from benchmark.evaluation.comparison import Estimate, difference, holm, score
from benchmark.evaluation.resampling import patient_weights, resampled
from benchmark.reporting.resamples import RESAMPLES, Predictions, read_predictions
from benchmark.suggest import unknown
from benchmark.tasks import TASKS
from models.contract import MODALITIES

LEAST = 20
"""Patterns with fewer test samples are left out: their figures would say nothing."""

EVERYTHING = "all samples"


@dataclass(frozen=True)
class Pair:
    """One line of a comparison.

    Attributes:
        task, metric, label_fraction: what is scored. pattern: modalities present, "all samples" for the whole.
        samples: of the test set. seeds: of the runs of each side. first, second: scores of both.
        gap: first minus second; its p is adjusted over tasks for all samples, and left as it is for patterns.
    """

    task: str
    metric: str
    label_fraction: float
    pattern: str
    samples: int
    seeds: tuple[tuple[int, ...], tuple[int, ...]]
    first: Estimate
    second: Estimate
    gap: Estimate


def choose_runs(runs: pd.DataFrame, name: str) -> pd.DataFrame:
    """Finished runs of a model, or the one whose id begins with `name`, in the order of `runs`.

    Raises:
        UserError: nothing is called so, or several runs are.
    """
    done = runs[runs["status"] == "done"]
    if name in set(done["model"]):
        return done[done["model"] == name]
    matches = done[done["run"].str.startswith(name)]
    if len(matches) == 1:
        return matches
    if len(matches) > 1:
        raise UserError(
            f"{len(matches)} runs begin with {name!r}: {', '.join(matches['run'].head(5))}; write more of it"
        )
    raise UserError(unknown("model or run", name, sorted(set(done["model"]))))


def pattern_name(present: Sequence[bool]) -> str:
    """The modalities of a sample, e.g. "ehr+note".

    >>> pattern_name([True, False, True])
    'ehr+note'
    """
    return "+".join(name for name, there in zip(MODALITIES, present, strict=True) if there)


@dataclass(frozen=True)
class Compared:
    """All lines of a comparison, and sentences on what could not be compared."""

    pairs: tuple[Pair, ...]
    left_out: tuple[str, ...] = ()


def compare(
    out: Path, first: pd.DataFrame, second: pd.DataFrame, resamples: int = RESAMPLES, any_seeds: bool = False
) -> Compared:
    """All tasks, metrics and patterns that both sides have.

    Args:
        out: folder of the results. first, second: rows of `collect`, as `choose_runs` gives them, the last asked-for
            last. any_seeds: two runs that were named one by one are compared also if their seeds differ.

    Raises:
        UserError: there is no task with a seed that both sides have, or they were tested on different samples.
    """
    sides = [_by_task(first), _by_task(second)]
    keys = [key for key in sides[0] if key in sides[1]]
    if not keys:
        raise UserError("the two have no task in common")
    pairs, left_out = [], []
    for task, share in sorted(keys, key=lambda key: (list(TASKS).index(key[0]), key[1])):
        of_seeds = sides[0][task, share], sides[1][task, share]
        common = tuple(sorted(of_seeds[0].keys() & of_seeds[1].keys()))
        seeds = (common, common) if common or not any_seeds else (tuple(of_seeds[0]), tuple(of_seeds[1]))
        if not seeds[0]:
            left_out.append(f"{task}: no seed in common ({sorted(of_seeds[0])} and {sorted(of_seeds[1])})")
            continue
        chosen = [[side[seed] for seed in own] for side, own in zip(of_seeds, seeds, strict=True)]
        pairs += _of_task(out, task, share, seeds, chosen, resamples)
    if not pairs and left_out:
        raise UserError("; ".join(left_out))
    return Compared(tuple(_adjusted(pairs)), tuple(left_out))


def _by_task(runs: pd.DataFrame) -> dict[tuple[str, float], dict[int, str]]:
    """Run by seed, for each task and share of labels; of several kinds of options the last."""
    found: dict[tuple[str, float], dict[int, str]] = {}
    latest: dict[tuple[str, float], str] = {}
    for run in runs[::-1].itertuples():
        for task in run.tasks:
            key = (task, run.label_fraction)
            if latest.setdefault(key, run.variant) == run.variant:
                found.setdefault(key, {}).setdefault(int(run.seed), run.run)
    return found


def _of_task(
    out: Path,
    task: str,
    share: float,
    seeds: tuple[tuple[int, ...], tuple[int, ...]],
    chosen: Sequence[Sequence[str]],
    resamples: int,
) -> list[Pair]:
    """Lines of a task, from the runs of both sides."""
    read = [[read_predictions(out, run, task) for run in side] for side in chosen]
    one = read[0][0]
    if any(not np.array_equal(one.sample, other.sample) for side in read for other in side):
        raise UserError(f"{task}: the two were tested on different samples; only runs of one data set can be compared")
    patients, owner = np.unique(one.patient, return_inverse=True)
    weights = patient_weights(len(patients), resamples)
    pairs = []
    for pattern, rows in patterns_of(one):
        scores = [[_scores(task, found, rows, owner, weights) for found in side] for side in read]
        for metric in TASKS[task].metrics:
            a, b = (np.stack([by_metric[metric] for by_metric in side]) for side in scores)
            gap = difference(a, b)
            if np.isfinite(gap.value):
                pairs.append(Pair(task, metric, share, pattern, int(rows.sum()), seeds, score(a), score(b), gap))
    return pairs


def patterns_of(found: Predictions) -> list[tuple[str, np.ndarray]]:
    """All samples, then those of each pattern, the commonest first."""
    names = np.array([pattern_name(present) for present in found.present])
    counts = pd.Series(names).value_counts()
    parts = [(name, names == name) for name, count in counts.items() if count >= LEAST]
    whole = (EVERYTHING, np.ones(len(names), dtype=bool))
    return [whole] if len(parts) < 2 and len(counts) < 2 else [whole, *parts]


def _scores(
    task: str, found: Predictions, rows: np.ndarray, owner: np.ndarray, weights: np.ndarray
) -> dict[str, np.ndarray]:
    record = TASKS[task]
    classes = record.classes or tuple(map(str, range(found.probability.shape[1])))
    parts = found.y[rows], found.known[rows], found.probability[rows], owner[rows]
    return resampled(record.metrics, record.kind, classes, *parts, weights)


def _adjusted(pairs: Sequence[Pair]) -> list[Pair]:
    """Holm over the tasks, separately for the first, second, ... metric of each task."""
    families: dict[int, list[int]] = {}
    for index, pair in enumerate(pairs):
        if pair.pattern == EVERYTHING:
            families.setdefault(TASKS[pair.task].metrics.index(pair.metric), []).append(index)
    result = list(pairs)
    for members in families.values():
        adjusted = holm([pairs[index].gap.p for index in members])
        for index, p in zip(members, adjusted, strict=True):
            result[index] = replace(pairs[index], gap=replace(pairs[index].gap, p=p))
    return result
