"""Tables of how scores fall when modalities are hidden from test samples of trained models.

OUT/hidden/<run id>.npz   one array (resamples + 1) a task, modality, share and metric, and what it was made with

What a run gave is kept, so that a call that was stopped goes on where it was.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

import numpy as np
import pandas as pd

from benchmark.code_version import code_version
from benchmark.evaluation.comparison import Estimate, difference, score
from benchmark.evaluation.resampling import patient_weights, resampled
from benchmark.files import replacing
from benchmark.reporting.names import metric_title, number, task_title
from benchmark.reporting.resamples import Progress, predictions_digest
from benchmark.reporting.sheets import Sheet, figures, interval, printed
from benchmark.reporting.stored import Stored
from benchmark.tasks import TASKS

if TYPE_CHECKING:
    import torch

    from benchmark.data.dataset import PreparedData

RESAMPLES = 200
"""Fewer than for tables: a sweep scores every model more than a dozen times."""

_MADE_WITH = "made_with"

NOTES = (
    "A modality is hidden from a share of the test samples that own it and another one, the same ones for all models; "
    "nothing is trained again. Mean over seeds; change against nothing hidden, with 95 % intervals from resampled "
    "patients and seeds, on the same draws. Samples of one modality alone keep it. All metrics are in the "
    "CSV.",
)


def robustness_sheet(
    stored: Stored,
    data: PreparedData,
    device: torch.device,
    resamples: int = RESAMPLES,
    progress: Progress = lambda *_: None,
) -> Sheet:
    """Scores by hidden modality and share of the samples that lose it."""
    wanted = sorted({(run, place[0]) for place, runs in stored.cells.items() for run in runs.values()})
    by_run: dict[str, list[str]] = {}
    for run, task in wanted:
        by_run.setdefault(run, []).append(task)
    scores = {}
    for done, (run, tasks) in enumerate(by_run.items()):
        progress("hidden modalities", done, len(by_run))
        scores[run] = _scores(stored.out, run, tasks, data, device, resamples)
    progress("hidden modalities", len(by_run), len(by_run))
    lines = _lines(stored, scores)
    title = "Test results with hidden modalities on"
    return Sheet("robustness", title, pd.DataFrame(lines), _shown(stored, lines), NOTES)


def _scores(
    out: Path,
    run: str,
    tasks: Sequence[str],
    data: PreparedData,
    device: torch.device,
    resamples: int,
) -> dict[str, np.ndarray]:
    """Arrays of a run by task/modality/share/owners/hidden/metric, made now or read."""
    file = out / "hidden" / f"{run}.npz"
    from benchmark.analysis.robustness import SHARES

    made_with = f"{resamples} {SHARES} {sorted(tasks)} {data.fingerprint} {code_version()}"
    made_with += f" {predictions_digest(out, run)}"  # a run that is repeated keeps its id
    try:
        with np.load(file, allow_pickle=False) as kept:
            if str(kept[_MADE_WITH]) == made_with:
                return {name: kept[name] for name in kept.files if name != _MADE_WITH}
    except (OSError, ValueError, KeyError, BadZipFile):
        pass  # not made yet, or cut short: made now
    arrays = _swept(out, run, tasks, data, device, resamples)
    with replacing(file) as stream:
        np.savez(stream, **{_MADE_WITH: np.array(made_with)}, **arrays)
    return arrays


def _swept(
    out: Path,
    run: str,
    tasks: Sequence[str],
    data: PreparedData,
    device: torch.device,
    resamples: int,
) -> dict[str, np.ndarray]:
    from benchmark.analysis.robustness import sweep
    from benchmark.runs.restore import restore_run

    restored = restore_run(out, run, data, device)
    arrays = {}
    for task in tasks:
        source, record = restored.tests[task], TASKS[task]
        labels = source.labels(np.arange(len(source)))
        y, known = labels.y.cpu().numpy(), labels.known.cpu().numpy()
        patients, owner = np.unique(source.samples.patient, return_inverse=True)
        weights = patient_weights(len(patients), resamples)
        for hidden in sweep(restored, task):
            found = resampled(
                record.metrics, record.kind, source.task.classes, y, known, hidden.probability, owner, weights
            )
            place = f"{task}/{hidden.modality}/{hidden.share}/{hidden.owners}/{hidden.hidden}"
            arrays |= {f"{place}/{metric}": values for metric, values in found.items()}
    return arrays


def _lines(stored: Stored, scores: Mapping[str, Mapping[str, np.ndarray]]) -> list[dict[str, Any]]:
    lines = []
    for (task, fraction, model), runs in stored.cells.items():
        of_seeds = [scores[run] for run in runs.values()]
        whole: dict[tuple[str, str], np.ndarray] = {}
        for name in (name for name in of_seeds[0] if name.startswith(f"{task}/")):
            _, modality, share, owners, hidden, metric = name.split("/")
            values = np.stack([each[name] for each in of_seeds])
            before = whole.setdefault((modality, metric), values)
            line = {"task": task, "label_fraction": fraction, "model": model, "hidden": modality}
            line |= {"share": float(share), "could_lose": int(owners), "lose": int(hidden), "metric": metric}
            line |= {"seeds": len(of_seeds)} | figures(score(values))
            lines.append(line | figures(difference(values, before), "change"))
    return lines


def _shown(stored: Stored, lines: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """The first metric of each task with nothing and with all hidden, models of one task and modality together."""
    rows: dict[tuple[str, float, str, str], list[Mapping[str, Any]]] = {}
    for line in lines:
        if line["metric"] == TASKS[line["task"]].metrics[0]:
            rows.setdefault((line["task"], line["label_fraction"], line["hidden"], line["model"]), []).append(line)
    shown = []
    for (task, fraction, modality, model), found in rows.items():
        first, last = found[0], found[-1]
        shown.append(
            {
                "task": task_title(task, fraction),
                "hidden": modality,
                "samples": f"{last['lose']:,}",
                "model": stored.titles[model],
                "metric": metric_title(first["metric"]),
                **{f"{one['share']:.0%} hidden": number(one["value"]) for one in found},
                "change": interval(Estimate(last["change"], last["change_low"], last["change_high"]), sign=True),
            }
        )
    return printed(shown, 3)
