"""Tables of scores by part of the test samples: groups of patients, and which modalities are present."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from benchmark.evaluation.comparison import score
from benchmark.evaluation.subgroups import LEAST_EVENTS, LEAST_SAMPLES, UNKNOWN, GroupScore, by_group
from benchmark.reporting.names import metric_title, task_title
from benchmark.reporting.pairs import LEAST, patterns_of
from benchmark.reporting.resamples import RESAMPLES, Progress
from benchmark.reporting.sheets import Sheet, figures, interval, printed
from benchmark.reporting.stored import Place, Stored, cell_predictions
from benchmark.tasks import TASKS

SUBGROUP_RESAMPLES = 300
"""Fewer than for tables: every sample is scored once in its group and again among the others of each other group."""

SUBGROUP_NOTES = (
    "Mean over seeds, 95 % intervals from resampled patients and seeds. Gap: the group minus all other samples. "
    "Intervals of gaps are not adjusted for their number; they describe.",
    f"Not scored: groups with fewer than {LEAST_SAMPLES} samples or, where the outcome is yes or no, fewer than "
    f"{LEAST_EVENTS} of either. Race groups are coarse: by how the charted race begins.",
    "A label of one class counts 0.5 in a macro AUROC. Where it is so in the group or among the others alone, which "
    "the remark tells, a part of the gap is due to that and says nothing of the model.",
)
PATTERN_NOTES = (
    "Mean over seeds, 95 % intervals from resampled patients and seeds, by the modalities that a sample owns. "
    f"Patterns with fewer than {LEAST} samples are left out. Patterns differ in their patients: a lower score is no "
    "proof that the modality lacking there would have helped. A label of one class counts 0.5 in a macro AUROC, which "
    "draws those of small patterns towards 0.5.",
)


def subgroup_sheet(
    stored: Stored,
    people: pd.DataFrame,
    resamples: int = SUBGROUP_RESAMPLES,
    progress: Progress = lambda *_: None,
    least: Mapping[str, int] | None = None,
) -> Sheet:
    """Scores by group of patients.

    Args:
        people: group of each sample, one column an attribute, indexed by the samples' keyed hashes.
        least: sizes in place of the usual ones, as `by_group` names them.
    """
    lines, shown, small = [], [], {}
    for done, place in enumerate(stored.cells):
        progress("subgroups", done, len(stored.cells))
        found = cell_predictions(stored, place, resamples)
        groups = people.reindex(found.seeds[0].sample)
        for attribute in people.columns:
            names = groups[attribute].fillna(UNKNOWN).to_numpy(str)
            for one in by_group(found.scored, names, found.weights, **(least or {})):
                lines.append(_group_line(place, attribute, one))
                if one.score is None:
                    small.setdefault(task_title(*place[:2]), {})[f"{attribute} {one.group} ({one.reason})"] = None
                elif one.metric == TASKS[place[0]].metrics[0]:
                    shown.append(_group_shown(stored, place, attribute, one))
    progress("subgroups", len(stored.cells), len(stored.cells))
    left_out = [f"Not scored on {task}: {'; '.join(groups)}." for task, groups in small.items()]
    notes = (*SUBGROUP_NOTES, *left_out)
    return Sheet("subgroups", "Test results by group of patients on", pd.DataFrame(lines), printed(shown, 5), notes)


def _group_line(place: Place, attribute: str, one: GroupScore) -> dict[str, Any]:
    line = {"task": place[0], "label_fraction": place[1], "model": place[2], "attribute": attribute}
    line |= {"subgroup": one.group, "samples": one.samples, "positives": one.positives, "metric": one.metric}
    return line | figures(one.score) | figures(one.gap, "gap") | {"reason": one.reason}


def _group_shown(stored: Stored, place: Place, attribute: str, one: GroupScore) -> dict[str, str]:
    return {
        "task": task_title(*place[:2]),
        "attribute": attribute,
        "group": one.group,
        "samples": f"{one.samples:,}",
        "positives": "-" if one.positives is None else f"{one.positives:,}",
        "model": stored.titles[place[2]],
        "metric": metric_title(one.metric),
        "score": interval(one.score),
        "gap to the others": interval(one.gap, sign=True),
        "remark": one.reason,
    }


def pattern_sheet(stored: Stored, resamples: int = RESAMPLES, progress: Progress = lambda *_: None) -> Sheet:
    """Scores of every model by which modalities are present."""
    lines, shown = [], []
    for done, place in enumerate(stored.cells):
        progress("patterns", done, len(stored.cells))
        found = cell_predictions(stored, place, resamples)
        for pattern, rows in patterns_of(found.seeds[0]):
            positives = found.scored.positives(rows)
            scores = found.scored.scores(rows, found.weights)
            estimates = {metric: score(values) for metric, values in scores.items()}
            about = {"task": place[0], "label_fraction": place[1], "model": place[2], "pattern": pattern}
            about |= {"samples": int(np.count_nonzero(rows)), "positives": positives}
            lines += [about | {"metric": metric} | figures(each) for metric, each in estimates.items()]
            first, second = TASKS[place[0]].metrics[:2]
            shown.append(
                {
                    "task": task_title(*place[:2]),
                    "modalities": pattern,
                    "model": stored.titles[place[2]],
                    "samples": f"{about['samples']:,}",
                    "positives": "-" if positives is None else f"{positives:,}",
                    "metrics": f"{metric_title(first)}, {metric_title(second)}",
                    "first": interval(estimates[first]),
                    "second": interval(estimates[second]),
                }
            )
    progress("patterns", len(stored.cells), len(stored.cells))
    title = "Test results by the modalities present on"
    return Sheet("patterns", title, pd.DataFrame(lines), printed(shown, 2), PATTERN_NOTES)
