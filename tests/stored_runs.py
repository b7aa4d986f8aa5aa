"""Run folders with only what tables read, for tests of reports."""

from __future__ import annotations

import json
from pathlib import Path

from benchmark import registry
from benchmark.reporting.layouts import Layout, layouts
from benchmark.runs.collect import collect

ORDER = ("medfuse", "mt", "flexcare")
TITLES = {"medfuse": "MedFuse", "mt": "MT", "flexcare": "FlexCare", "zz_new": "New_Model"}


def write_run(out: Path, model: str, seed: int, metrics: dict | None, **changes) -> None:
    """A run folder with only what tables read; metrics None makes a failed one."""
    group, tasks = changes.get("group", "aaaa11112222"), changes.get("tasks", sorted(metrics or {"ihm": 0}))
    simulated, variant = changes.get("simulated", True), changes.get("variant", "v")
    run = f"{model}-{'-'.join(tasks)}-s{seed}-{variant}-{group[:4]}"
    folder = out / "runs" / (run if metrics is not None else f"{run}.failed")
    folder.mkdir(parents=True)
    record = {
        "format": 1,
        "run": run,
        "status": "failed" if metrics is None else "done",
        "model": {
            "name": model,
            "title": TITLES.get(model, model),
            "multitask": changes.get("multitask", model == "flexcare"),
        },
        "job": {"tasks": tasks, "seed": seed, "epochs": changes.get("epochs", 25 if model == "flexcare" else 40)}
        | {"label_fraction": changes.get("label_fraction", 1.0)},
        "environment": {"device": changes.get("device", "cpu")},
        "variant": variant,
        "group": group,
        "data": {"name": "toy 5% cohort", "fingerprint": "f", "simulated": simulated, "samples": {}}
        | {"profile": changes.get("profile", "fix")},
        "protocol": {"name": "quick"},
        "encoder": {"key": "k", "name": "tiny_bert", "width": 8},
        "code": {"version": "c" * 64, "commit": None},
        "finished": changes.get("finished", "2030-01-01T00:00:00+00:00"),
        "metrics": metrics or {},
        "info": {
            "ceiling": {"ihm": {"auroc": 0.95, "auprc": 0.7}} if simulated else {},
            "permutation_spread": changes.get("spread", {}),
        },
    }
    (folder / "run.json").write_text(json.dumps(record))


def layout(name: str, out: Path) -> Layout:
    return next(one for one in layouts(registry.models(), set(collect(out)["model"])) if one.name == name)
