"""Which models and runs belong into the paper's figures: a model, its ablations, and the latest runs of each.

Models are found by the group of their registry entry and the tables of the paper that they stand in, never by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

from benchmark.published import published
from benchmark.runs.groups import RunGroup
from models.contract import ModelEntry


@dataclass(frozen=True)
class Family:
    """A model and its ablations.

    Attributes:
        original: the complete model.
        parts: variants that lack a part (Figure 4), with the label of each; the last is the original.
        no_task_token: the variant without task token (Figure 5), if there is one.
    """

    original: str
    parts: Mapping[str, str]
    no_task_token: str | None


def families(entries: Mapping[str, ModelEntry]) -> list[Family]:
    """All models that have ablations. Where the paper compares some of a family, the figures hold those."""
    variants: dict[str, list[str]] = {}
    for name, entry in entries.items():
        if entry.group == "ablation" and entry.variant_of is not None:
            variants.setdefault(entry.variant_of, []).append(name)
    labels = dict(published("table4")[["model", "name"]].itertuples(index=False, name=None))
    token = set(published("table6")["model"])
    found = []
    for original, names in variants.items():
        own = [name for name in names if name in labels]
        kept = own or [name for name in names if name not in token]
        parts = {name: labels.get(name, entries[name].title) for name in kept} | {
            original: labels.get(original, "full")
        }
        found.append(Family(original, parts, next((name for name in names if name in token), None)))
    return found


def latest_runs(runs: pd.DataFrame, group: RunGroup, model: str) -> pd.DataFrame:
    """The finished runs of a model on several tasks with all labels, by seed; of several kinds the last asked for.

    Args:
        runs: as `benchmark.runs.collect.collect` gives them. group: whose runs count.
    """
    place = {name: position for position, name in enumerate(group.runs)}
    whole = (runs["status"] == "done") & (runs["label_fraction"] == 1) & (runs["tasks"].map(len) > 1)
    found = runs[whole & (runs["model"] == model) & runs["run"].isin(group.runs)]
    found = found.assign(asked=found["run"].map(place)).sort_values("asked")
    if found.empty:
        return found
    return found[found["variant"] == found["variant"].iloc[-1]].sort_values("seed", ignore_index=True)
