"""Stored runs as a table, one row a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd

from benchmark.errors import UserError
from benchmark.runs.folder import FORMAT, finished_runs
from benchmark.runs.groups import CAPTION

COLUMNS = (
    "run",
    "status",
    "group",
    "model",
    "title",
    "tasks",
    "seed",
    "label_fraction",
    "variant",
    "traced",
    "metrics",
    "ceiling",
    "spread",
    "multitask",
    "epochs",
    "device",
    "finished",
    "error",
    "caption",
)


def collect(out: Path) -> pd.DataFrame:
    """All finished and failed runs under `out`; see `COLUMNS`.

    `metrics`, `ceiling` and `spread` (over evaluation orders) are mappings by task and metric; `caption` holds the
    facts on data, protocol and encoder. Of two finished runs that differ only in that one is traced, the traced one
    stands for both: their other numbers are the same, and a seed must not count twice.
    """
    rows = []
    for folder in finished_runs(out):
        try:
            rows.append(_row(read_run(folder), folder))
        except UserError:
            if folder.exists():
                raise
            # A failed run, which another process has repeated meanwhile.
    runs = pd.DataFrame(rows, columns=list(COLUMNS))
    twins = runs.loc[(runs["status"] == "done") & runs["traced"].astype(bool), ["variant", "seed"]]
    known = set(twins.itertuples(index=False, name=None))
    doubled = [
        run.status == "done" and not run.traced and (run.variant, run.seed) in known for run in runs.itertuples()
    ]
    return runs[~pd.Series(doubled, index=runs.index, dtype=bool)].reset_index(drop=True)


def read_run(folder: Path) -> dict[str, Any]:
    """What a run's run.json says."""
    file = folder / "run.json"
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as fault:
        raise UserError(f"cannot read {file}: {fault}; delete its folder to have the run repeated") from fault
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise UserError(f"{file} is not of format {FORMAT}; delete its folder to have the run repeated")
    return record


def _row(record: dict[str, Any], folder: Path) -> dict[str, Any]:
    try:
        return _facts(record)
    except (KeyError, TypeError, AttributeError) as fault:
        raise UserError(
            f"{folder / 'run.json'} is damaged ({fault}); delete its folder to have the run repeated"
        ) from fault


def _facts(record: dict[str, Any]) -> dict[str, Any]:
    info = record.get("info", {})
    return {
        "run": record["run"],
        "status": record["status"],
        "group": record["group"],
        "model": record["model"]["name"],
        "title": record["model"]["title"],
        "tasks": tuple(record["job"]["tasks"]),
        "seed": record["job"]["seed"],
        "label_fraction": float(record["job"].get("label_fraction", 1.0)),
        "variant": record["variant"],
        "traced": bool(record["job"].get("trace", False)),
        "metrics": record.get("metrics", {}),
        "ceiling": info.get("ceiling", {}),
        "spread": info.get("permutation_spread", {}),
        "multitask": record["model"]["multitask"],
        "epochs": record["job"]["epochs"],
        "device": record["environment"]["device"],
        "finished": record["finished"],
        "error": record.get("error", ""),
        "caption": {key: record[key] for key in CAPTION},
    }
