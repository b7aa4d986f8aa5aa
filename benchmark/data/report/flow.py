"""From the stays, studies or admissions that a task could use to its samples: each step with what it leaves out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from benchmark.data.sources import Sources
from benchmark.tasks.ihm import WINDOW

_REST = {
    "ihm": "no event in the first 48 hours",
    "los": "no full hour from the fifth on that comes after the first event",
    "dec": "no full hour from the fifth on that comes after the first event and before death",
    "phe": "no coded diagnosis",
    "rea": "died in the unit",
}
"""What rules out a stay of a task if nothing before does."""


def flow_of(task: str, draft: pd.DataFrame, sources: Sources) -> list[dict[str, Any]]:
    """The steps of one task: name, kept, dropped and reason; the last one keeps the samples.

    Args:
        draft: the task's samples in MIMIC's numbers.
    """
    if task == "dia":
        return _studies(draft, sources)
    if task == "drg":
        return _admissions(draft, sources)
    stays = sources.stays
    left = ~stays.stay_id.isin(draft.stay_id)
    reasons = {"no event of the 17 channels in the stay": stays.first_event.isna()}
    if task == "ihm":
        reasons["shorter than 48 hours"] = stays.los_hours < WINDOW - 1e-6
    reasons["patient in no partition"] = pd.isna(pd.Series(sources.split.all(stays.subject_id), index=stays.index))
    steps, kept = [_step("stays of the cohort", len(stays))], len(stays)
    for reason, holds in reasons.items():
        dropped = int((left & holds).sum())
        left, kept = left & ~holds, kept - dropped
        if dropped:
            steps.append(_step("", kept, dropped, reason))
    steps.append(_step("samples", len(draft), kept - len(draft), _REST[task]))
    return steps


def _step(name: str, kept: int, dropped: int = 0, reason: str = "") -> dict[str, Any]:
    return {"name": name, "kept": int(kept), "dropped": int(dropped), "reason": reason if dropped else ""}


def _studies(draft: pd.DataFrame, sources: Sources) -> list[dict[str, Any]]:
    films, lacking = sources.films, sources.lacking_films
    everything = pd.concat([films.study_id, lacking.study_id])
    studies, found = everything.nunique(), films.study_id.nunique()
    outside = films[pd.isna(sources.split.all(films.subject_id))].study_id.nunique()
    return [
        _step("studies with an anterior-posterior film", studies),
        _step("", found, studies - found, "no film with a file and a time"),
        _step("", found - outside, outside, "patient in no partition"),
        _step("samples", len(draft), found - outside - len(draft), "no usable finding, or no readable film"),
    ]


def _admissions(draft: pd.DataFrame, sources: Sources) -> list[dict[str, Any]]:
    losses = {f"no other HCFA row than such {reason}": lost for reason, lost in sources.billing.lost.items()}
    losses["no hospital course in a discharge summary"] = sources.facts["drg_without_course"]
    losses["patient in no partition"] = sources.facts.get("without_partition", {}).get("drg", 0)
    kept = sources.billing.admissions
    steps = [_step("admissions with an HCFA row in drgcodes", kept)]
    for reason, dropped in losses.items():
        kept -= dropped
        if dropped:
            steps.append(_step("", kept, dropped, reason))
    return [*steps, _step("samples", len(draft), kept - len(draft), "not accounted for")]


def histogram(values: np.ndarray, edges: list[float]) -> dict[str, Any]:
    """Counts between edges, the last bin open to the right, with quartiles.

    >>> histogram(np.array([1.0, 2.0, 2.5, 40.0]), [0, 2, 4])
    {'edges': [0, 2, 4], 'counts': [1, 2, 1], 'n': 4, 'mean': 11.38, 'quartiles': [1.75, 2.25, 11.88]}
    """
    values = np.asarray(values, dtype=float)
    values = values[np.isfinite(values)]
    counts = np.histogram(values, [*edges, np.inf])[0].tolist() if len(values) else [0] * len(edges)
    quartiles = np.quantile(values, [0.25, 0.5, 0.75]).round(2).tolist() if len(values) else []
    mean = round(float(values.mean()), 2) if len(values) else None
    return {"edges": edges, "counts": counts, "n": len(values), "mean": mean, "quartiles": quartiles}
