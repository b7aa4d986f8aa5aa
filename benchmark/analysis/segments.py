"""Figure 7: what training on one task does to the test scores of all, from traced runs."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from benchmark.errors import UserError
from benchmark.runs.folder import runs_folder
from benchmark.training.trace import START


def read_traces(out: Path, runs: pd.DataFrame) -> pd.DataFrame:
    """Traces of all traced ones of `runs` (rows of `benchmark.runs.collect.collect`), with a column `seed` in front.

    Columns as those of `benchmark.training.trace.Trace`.
    """
    frames = []
    for run in runs[runs["traced"].astype(bool)].itertuples():
        file = runs_folder(out) / run.run / "trace.parquet"
        try:
            frame = pd.read_parquet(file)
        except (OSError, ValueError) as fault:
            raise UserError(f"cannot read {file}: {fault}; delete its folder to have the run repeated") from fault
        frame.insert(0, "seed", int(run.seed))
        frames.append(frame)
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def over_seeds(traces: pd.DataFrame) -> pd.DataFrame:
    """Number of seeds, mean and sample standard deviation of every score after every segment."""
    grouped = traces.groupby(["segment", "epoch", "trained", "task", "metric"], sort=False)["value"]
    return grouped.agg(seeds="count", mean="mean", std="std").reset_index()


def effects(traces: pd.DataFrame, first_epoch: int = 1) -> pd.DataFrame:
    """Mean change of each task's scores by one segment of each task.

    The change by a segment is the score after it minus the score before it. Changes are averaged over the epochs of
    each seed, then over seeds.

    Args:
        traces: as `read_traces` gives them. first_epoch: epochs before this one are left out; what a network with
            random values learns in its first epoch hides what comes later.

    Returns:
        Columns trained, task, metric, seeds, mean, std (over seeds).
    """
    ordered = traces.sort_values(["seed", "task", "metric", "segment"], kind="stable")
    change = ordered.groupby(["seed", "task", "metric"], sort=False)["value"].diff()
    ordered = ordered.assign(change=change)
    kept = ordered[(ordered["trained"] != START) & (ordered["epoch"] >= first_epoch)]
    by_seed = kept.groupby(["seed", "trained", "task", "metric"], sort=False)["change"].mean().reset_index()
    grouped = by_seed.groupby(["trained", "task", "metric"], sort=False)["change"]
    return grouped.agg(seeds="count", mean="mean", std="std").reset_index()


def effect_matrix(found: pd.DataFrame, metrics: dict[str, str], tasks: list[str]) -> pd.DataFrame:
    """Rows: the task trained on. Columns: the task tested, by the metric that `metrics` names for it."""
    wanted = found[[metrics[row.task] == row.metric for row in found.itertuples()]]
    return wanted.pivot(index="trained", columns="task", values="mean").reindex(index=tasks, columns=tasks)
