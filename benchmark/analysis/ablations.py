"""Figure 4: scores of a model and of its variants that lack a part."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from benchmark.tasks import TASKS


def ablation_scores(runs: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Test scores by model, task, metric and seed, of the two metrics that the paper prints for a task.

    Args:
        runs: rows of `benchmark.runs.collect.collect` by model, in the order of the bars.
    """
    rows = [
        {"model": model, "seed": int(run.seed), "task": task, "metric": metric, "value": run.metrics[task][metric]}
        for model, frame in runs.items()
        for run in frame.itertuples()
        for task in run.tasks
        for metric in TASKS[task].metrics[:2]
    ]
    return pd.DataFrame(rows).astype({"value": float})


def over_seeds(scores: pd.DataFrame) -> pd.DataFrame:
    """Number of seeds, mean and sample standard deviation (NaN for one seed) by model, task and metric."""
    grouped = scores.groupby(["model", "task", "metric"], sort=False)["value"]
    return grouped.agg(seeds="count", mean="mean", std="std").reset_index()
