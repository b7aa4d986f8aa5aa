"""From drafts to the numbered samples that training reads: MIMIC's numbers go, rows of the stores come."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from benchmark.data.discretiser import bins
from benchmark.data.labels import FURTHER
from benchmark.data.rules import Rules
from benchmark.data.series import SeriesIndex
from benchmark.data.split import Split
from benchmark.errors import UserError
from benchmark.tasks import TASKS, drg

COLUMNS = ("sample", "patient", "split", "series", "hours", "tail", "film", "note")

TRUTH_RULES = {
    "ihm": ("death",),
    "dec": ("death",),
    "phe": ("icd10",),
    "rea": ("death", "readmission", "count_stays", "age"),
    "dia": ("findings", "unlabelled"),
    "drg": ("drg_classes",),
}
"""Switches that must be at their default for the simulator's true probabilities to be those of a task's labels."""

LINKS = ("sample", "task", "subject_id", "stay_id", "hadm_id", "study_id", "hour", "end", "code")
"""`end` is the moment of prediction, `code` the group of a DRG sample."""


@dataclass(frozen=True)
class Rows:
    """Where the content of drafts lies in the stores.

    Attributes:
        series: from writing the ICU series. films: store row of each film row, -1 where the file cannot be read.
        notes: row of the text table by (section, hadm_id).
    """

    series: SeriesIndex
    films: np.ndarray
    notes: dict[tuple[str, int], int]


@dataclass(frozen=True)
class Sampled:
    """All samples of a data set.

    Attributes:
        frames: per task a frame of `COLUMNS`, labels and, for some tasks, `benchmark.data.labels.FURTHER`.
        classes: class names by task. links: the samples' numbers in MIMIC.
    """

    frames: dict[str, pd.DataFrame]
    classes: dict[str, tuple[str, ...]]
    links: pd.DataFrame


def cuts_of(drafts: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Series that end within an hour, just before a film: cut, stay_id, hour, in the order of the findings draft."""
    if "dia" not in drafts:
        return pd.DataFrame({"cut": [], "stay_id": [], "hour": []}).astype({"cut": "int64", "stay_id": "int64"})
    films = drafts["dia"]
    cuts = films.loc[films.stay_id >= 0, ["stay_id", "hour"]].reset_index(drop=True)
    return cuts.rename_axis("cut").reset_index()


def number_samples(drafts: dict[str, pd.DataFrame], rows: Rows, split: Split, rules: Rules = Rules()) -> Sampled:
    """Number samples and patients, put each in its partition, and turn DRG codes into classes.

    Every patient of the drafts must be in a partition.
    """
    subjects = np.unique(np.concatenate([draft.subject_id.to_numpy() for draft in drafts.values()]))
    frames, classes, links, first = {}, {}, [], 0
    for task, record in TASKS.items():
        if task not in drafts:
            continue
        draft = drafts[task].assign(sample=np.arange(first, first + len(drafts[task])), task=task)
        first += len(draft)
        frame = pd.DataFrame({"sample": draft["sample"], "patient": np.searchsorted(subjects, draft.subject_id)})
        frame["split"] = pd.Series(split.all(draft.subject_id), dtype="object")
        frame = frame.assign(**_content(task, draft, rows))
        labels, classes[task] = _labels(task, draft, frame["split"], rules)
        frames[task] = frame[list(COLUMNS)].join(labels).join(draft[list(FURTHER.get(task, ()))])
        links.append(draft.reindex(columns=list(LINKS)))
        assert record.classes is None or len(classes[task]) == len(record.classes)
    return Sampled(frames, classes, pd.concat(links, ignore_index=True))


def _content(task: str, draft: pd.DataFrame, rows: Rows) -> dict[str, np.ndarray]:
    index, stays, ends = rows.series, draft.stay_id.tolist(), draft.hour.tolist()
    series = np.array([index.stay_row.get(stay, -1) for stay in stays], dtype=np.int64)
    hours = [
        min(bins(end), index.rows[stay]) if row >= 0 else 0 for stay, end, row in zip(stays, ends, series, strict=True)
    ]
    tail = np.full(len(draft), -1, dtype=np.int64)
    if task == "dia":
        cut = series >= 0
        tail[cut] = np.arange(cut.sum())
    film = draft.film.to_numpy()
    section = TASKS[task].note_section
    return {
        "series": series,
        "hours": np.array(hours, dtype=np.int32),
        "tail": tail,
        "film": np.where(film >= 0, rows.films[film], -1) if len(rows.films) else film,
        "note": np.array([rows.notes.get((section, hadm), -1) for hadm in draft.note.tolist()], dtype=np.int64),
    }


def _labels(task: str, draft: pd.DataFrame, split: pd.Series, rules: Rules) -> tuple[pd.DataFrame, tuple[str, ...]]:
    if task != "drg":
        return draft[[name for name in draft.columns if name[0] == "y" and name[1:].isdigit()]], TASKS[
            task
        ].classes or ()
    codes = draft.code.tolist()
    classes = drg.classes(codes, (split == "train").tolist(), rules)
    return pd.DataFrame({"y0": drg.labels(codes, classes)}, index=draft.index), classes


def has_truth(task: str, rules: Rules) -> bool:
    """Whether the labels that a simulator knows the probabilities of are those of the rules."""
    return all(getattr(rules, name) == getattr(Rules(), name) for name in TRUTH_RULES.get(task, ()))


def truth_of(truth: pd.DataFrame, task: str, links: pd.DataFrame, columns: list[int] | None = None) -> pd.DataFrame:
    """True outcome probabilities of one task's samples.

    Args:
        truth: task, unit, hour, p, as the simulator wrote it. links: as in `Sampled`.
        columns: which entries of p belong to the task's classes; all by default.

    Returns:
        sample, p0, p1, ..., sorted by sample.

    Raises:
        UserError: a sample has no truth.
    """
    unit = {"dia": "study_id", "drg": "hadm_id"}.get(task, "stay_id")
    own = truth[truth.task == task]
    chosen = links[links.task == task][["sample", unit, "hour"]].rename(columns={unit: "unit"})
    keys = ["unit"]
    if task in ("los", "dec"):
        chosen["hour"] = chosen.hour.astype("int64")
        keys.append("hour")
    joined = chosen.drop(columns=[] if "hour" in keys else "hour").merge(own[[*keys, "p"]], on=keys, how="left")
    joined = joined.sort_values("sample", ignore_index=True)
    lacking = joined[joined.p.isna() | joined["sample"].duplicated()]
    if len(lacking):
        raise UserError(f"truth.parquet has not exactly one row for {task} {lacking[keys].iloc[0].to_dict()}")
    values = np.stack(joined.p.to_list()).astype("float32")
    values = values if columns is None else values[:, columns]
    table = pd.DataFrame(values, columns=[f"p{index}" for index in range(values.shape[1])])
    table.insert(0, "sample", joined["sample"].to_numpy())
    return table
