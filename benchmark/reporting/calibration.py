"""Tables of calibration from stored predictions."""

from __future__ import annotations

from typing import Any

import pandas as pd

from benchmark.evaluation.calibration import (
    ALL_LABELS,
    BINS,
    EQUAL_MASS,
    EQUAL_WIDTH,
    METHODS,
    TOP_CLASS,
    Calibration,
    calibration,
    forecasts,
    mean_over_labels,
)
from benchmark.reporting.names import number, task_title
from benchmark.reporting.resamples import RESAMPLES, Progress
from benchmark.reporting.sheets import Sheet, figures, interval, printed
from benchmark.reporting.stored import CellPredictions, Place, Stored, cell_predictions

NOTES = (
    "Brier and ECE: smaller is better; mean over seeds, 95 % intervals from resampled patients and seeds. ECE over "
    f"{BINS} bins of equal width on [0, 1] and of equal numbers of forecasts; its intervals show spread around the "
    "value, since resampling inflates ECE. Chance: the ECE that a perfectly calibrated model of the same predictions "
    "would be expected to get. Constant: the Brier score of always saying the observed frequency.",
    f"Several labels: {ALL_LABELS}; single labels are in the CSV. Classes: whether the class of highest probability is "
    "the true one.",
)


def calibration_sheets(
    stored: Stored, resamples: int = RESAMPLES, progress: Progress = lambda *_: None
) -> tuple[Sheet, Sheet]:
    """Scores of calibration, and the points of the reliability curves, which are for plotting."""
    lines, points, shown = [], [], []
    for done, place in enumerate(stored.cells):
        progress("calibration", done, len(stored.cells))
        found = _events(cell_predictions(stored, place, resamples))
        about = {"task": place[0], "label_fraction": place[1], "model": place[2]}
        lines += [about | {"seeds": len(stored.cells[place])} | _line(one) for one in found]
        points += [about | point for one in found for point in _points(one)]
        shown.append(_shown(stored, place, next((one for one in found if one.name == ALL_LABELS), found[0])))
    progress("calibration", len(stored.cells), len(stored.cells))
    table = printed(shown, 2)
    curves = Sheet("reliability", "Reliability curves on", pd.DataFrame(points), pd.DataFrame())
    return Sheet("calibration", "Calibration of test predictions on", pd.DataFrame(lines), table, NOTES), curves


def _events(found: CellPredictions) -> list[Calibration]:
    """Every event of the task, the mean over labels last where there are several."""
    one = found.scored
    by_seed = [
        forecasts(one.kind, one.classes, one.y, one.known, probability, one.patient) for probability in one.probability
    ]
    events = [calibration(seeds, found.weights) for seeds in zip(*by_seed, strict=True)]
    return [*events, mean_over_labels(events)] if one.kind == "multilabel" else events


def _line(one: Calibration) -> dict[str, Any]:
    line = {"event": one.name, "bins": BINS, "forecasts": one.forecasts, "events": one.events}
    line |= figures(one.brier_estimate, "brier") | {"brier_constant": one.constant}
    for method in METHODS:
        name = f"ece_{method.replace(' ', '_')}"
        line |= figures(one.ece_estimate(method), name) | {f"{name}_by_chance": one.by_chance[method]}
    return line


def _points(one: Calibration) -> list[dict[str, Any]]:
    return [
        {"event": one.name, "method": method, "low_edge": point.low, "high_edge": point.high}
        | {"forecasts": point.forecasts, "said": point.said}
        | figures(point.observed, "observed")
        for method, curve in one.curve.items()
        for point in curve
    ]


def _shown(stored: Stored, place: Place, one: Calibration) -> dict[str, str]:
    event = {"": "outcome", TOP_CLASS: TOP_CLASS}.get(one.name, ALL_LABELS)
    return {
        "task": task_title(*place[:2]),
        "event": event,
        "model": stored.titles[place[2]],
        "forecasts": f"{one.forecasts:,.0f}",
        "events": f"{one.events:,.0f}",
        "Brier": interval(one.brier_estimate),
        "constant": number(one.constant),
        "ECE, equal width": interval(one.ece_estimate(EQUAL_WIDTH)),
        "chance": number(one.by_chance[EQUAL_WIDTH]),
        "ECE, equal mass": interval(one.ece_estimate(EQUAL_MASS)),
        "chance ": number(one.by_chance[EQUAL_MASS]),
    }
