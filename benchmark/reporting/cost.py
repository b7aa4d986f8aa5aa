"""What each model costs, beside what it scores."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from benchmark.reporting.names import metric_title, number, task_title
from benchmark.reporting.sheets import Sheet
from benchmark.reporting.stored import Stored
from benchmark.runs.collect import read_run
from benchmark.runs.folder import runs_folder
from benchmark.tasks import TASKS

MIB, HOUR = 2**20, 3600.0

NOTES = (
    "A model trained on one task each is the sum of its models for parameters and hours, and their mean for the other "
    "figures; all are means over seeds. MFLOP: forward pass of one sample that owns every modality, and of one with "
    "its task's primary modality alone; a multiply-add counts as two. Training samples/s: of all seeds that were "
    "trained in one step. Peak memory: of the whole process on the CPU, of all that torch holds on a GPU, with all "
    "seeds of the process. Hours: training, validation and test of one seed. -: not recorded, or not measurable.",
    "Speed and memory are of the device and the number of processes that ran side by side; compare them within one.",
)


def cost_sheet(stored: Stored) -> Sheet:
    """One line a model and share of the labels."""
    lines, shown = [], []
    for (model, fraction), runs in _models(stored).items():
        records = {run: read_run(runs_folder(stored.out) / run) for run in runs}
        line = {"model": model, "label_fraction": fraction} | _summary(records.values())
        scores = _scores(stored, model, fraction)
        lines.append(line | {f"{task}_{TASKS[task].metrics[0]}": value for task, value in scores.items()})
        shown.append(_shown(stored, line, scores))
    table = pd.DataFrame(shown).fillna("-")
    return Sheet("cost", "Cost beside score on", pd.DataFrame(lines), table, NOTES)


def _models(stored: Stored) -> dict[tuple[str, float], list[str]]:
    """The runs of each model that stand in the results table."""
    found: dict[tuple[str, float], dict[str, None]] = {}
    for (_, fraction, model), runs in stored.cells.items():
        found.setdefault((model, fraction), {}).update(dict.fromkeys(runs.values()))
    ordered = sorted(found, key=lambda key: (stored.order.index(key[0]), -key[1]))
    return {key: list(found[key]) for key in ordered}


def _summary(records: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Figures of one model from the run.json of its runs; None where no run has recorded one."""
    rows = []
    for record in records:
        info = record["info"]
        flops, together = list((info.get("flops") or {}).values()), info.get("seeds_together", 1)
        rate = info.get("training_samples_per_second")  # of one of the seeds that were trained together
        rows.append(
            {
                "tasks": tuple(record["job"]["tasks"]),
                "parameters": info.get("parameters"),
                "flops": flops[0] if flops else None,
                "flops_primary_modality": flops[-1] if flops else None,
                "training_samples_per_second": None if rate is None else rate * together,
                "inference_samples_per_second": info.get("inference_samples_per_second"),
                "peak_memory_mib": info["peak_memory"] / MIB if info.get("peak_memory") else None,
                "hours": record["seconds"] / together / HOUR,
                "device": record["environment"]["device"],
            }
        )
    frame = pd.DataFrame(rows)
    by_task = frame.drop(columns="device").groupby("tasks", sort=False).mean()
    mean = by_task.astype(float).mean()
    line = {"trained": len(by_task), "devices": " ".join(sorted(set(frame["device"]))), "runs": len(frame)}
    line |= {name: float(by_task[name].astype(float).sum(min_count=1)) for name in ("parameters", "hours")}
    rest = [name for name in by_task if name not in ("parameters", "hours")]
    return line | {name: float(mean[name]) for name in rest}


def _scores(stored: Stored, model: str, fraction: float) -> dict[str, float]:
    """Mean over seeds of each task's first metric."""
    rows = stored.runs.set_index("run")["metrics"]
    found = {}
    for (task, share, name), runs in stored.cells.items():
        if (name, share) == (model, fraction):
            values = [rows[run][task].get(TASKS[task].metrics[0]) for run in runs.values()]
            defined = [value for value in values if value is not None and math.isfinite(value)]
            found[task] = math.fsum(defined) / len(defined) if defined else float("nan")
    return found


def _shown(stored: Stored, line: Mapping[str, Any], scores: Mapping[str, float]) -> dict[str, str]:
    share = "" if line["label_fraction"] == 1 else f", {100 * line['label_fraction']:g}% labels"
    columns = {
        "model": stored.titles[line["model"]] + share,
        "models": str(line["trained"]),
        "parameters": _count(line["parameters"], "{:,.0f}"),
        "MFLOP": _pair([line["flops"], line["flops_primary_modality"]]),
        "training samples/s": _count(line["training_samples_per_second"], "{:,.0f}"),
        "inference samples/s": _count(line["inference_samples_per_second"], "{:,.0f}"),
        "peak MiB": _count(line["peak_memory_mib"], "{:,.0f}"),
        "hours": _count(line["hours"], "{:,.3f}"),
        "device": line["devices"],
    }
    return columns | {
        f"{task_title(task)} {metric_title(TASKS[task].metrics[0])}": number(value) for task, value in scores.items()
    }


def _pair(flops: Sequence[float]) -> str:
    return " / ".join(_count(value / 1e6, "{:,.1f}") for value in flops) if math.isfinite(flops[0]) else "-"


def _count(value: float, form: str) -> str:
    return form.format(value) if math.isfinite(value) else "-"
