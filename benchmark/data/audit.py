"""The last look at a data set before it gets its name: nothing of the future, of other partitions, or twice."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pandas as pd

from benchmark.data.discretiser import bins
from benchmark.data.samples import Sampled
from benchmark.data.split import split_of
from benchmark.tasks import TASKS


class LeakageError(RuntimeError):
    """A prepared data set breaks a rule that keeps outcomes out of inputs. This is a fault of the program."""


def audit(
    folder: Path,
    sampled: Sampled,
    drafts: dict[str, pd.DataFrame],
    film_times: pd.Series,
    stays: pd.DataFrame,
) -> None:
    """Check the written data set.

    Args:
        folder: the data set. sampled: what was written. drafts: what it was made from, with equal rows.
        film_times: moment of each film row that drafts refer to. stays: stay_id, subject_id of all stored series.

    Raises:
        LeakageError: a rule is broken.
    """
    _check_partitions(sampled)
    for task, frame in sampled.frames.items():
        _check_hours(task, frame, drafts[task])
        _check_films(task, frame, drafts[task], film_times)
    _check_training_only(folder, sampled, stays)


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise LeakageError(message)


def _check_partitions(sampled: Sampled) -> None:
    frames = pd.concat(sampled.frames.values(), ignore_index=True)
    _require(not frames["sample"].duplicated().any(), "a sample number occurs twice")
    _require((frames.groupby("patient")["split"].nunique() == 1).all(), "a patient is in two partitions")
    subjects = frames[["sample", "patient", "split"]].merge(sampled.links, on="sample", how="left")
    _require(bool(subjects.subject_id.notna().all()), "a sample has no link")
    pairs = subjects[["patient", "subject_id", "split"]].drop_duplicates()
    _require(pairs.patient.is_unique and pairs.subject_id.is_unique, "patient numbers and subjects do not pair off")
    for subject, split in zip(pairs.subject_id, pairs.split, strict=True):
        _require(split_of(subject) == split, f"subject {subject} is in {split}, not in its partition")
    units = sampled.links.drop(columns=["sample", "hour"])
    _require(not units.duplicated().any(), "a unit has two samples in one task")


def _check_hours(task: str, frame: pd.DataFrame, draft: pd.DataFrame) -> None:
    own = (frame.series >= 0).to_numpy()
    ends = draft.hour.to_numpy()[own]
    hours = frame["hours"].to_numpy()[own]
    _require(bool(((hours >= 1) & (hours <= [bins(end) for end in ends])).all()), f"{task}: hours beyond the end")
    _require(bool((frame["hours"].to_numpy()[~own] == 0).all()), f"{task}: hours without a series")
    # A row covers a whole hour. It may reach beyond the prediction only where the series itself ends with the window.
    if task in ("ihm", "los", "dec"):
        _require(bool((hours <= ends).all()), f"{task}: the last hour reaches beyond the prediction")
    if task == "dia":
        _require(bool((frame["tail"].to_numpy()[own] >= 0).all()), "dia: a series is not cut before its film")
    present = (frame[["series", "film", "note"]] >= 0).any(axis=1)
    _require(bool(present.all()), f"{task}: a sample without any modality")
    primary = {"ehr": "series", "cxr": "film", "note": "note"}[TASKS[task].primary]
    _require(bool((frame[primary] >= 0).all()), f"{task}: a sample without its {primary}")


def _check_films(task: str, frame: pd.DataFrame, draft: pd.DataFrame, film_times: pd.Series) -> None:
    own = (frame.film >= 0).to_numpy()
    taken = film_times.reindex(draft.film[own]).to_numpy()
    ends = draft.end[own].to_numpy()
    late = (taken > ends) | np.isnat(taken)
    if task == "dia":
        late = taken > ends
    _require(not late.any(), f"{task}: {late.sum()} films later than the end of their sample")


def _check_training_only(folder: Path, sampled: Sampled, stays: pd.DataFrame) -> None:
    if "drg" in sampled.frames:
        frame = sampled.frames["drg"]
        found = set(frame.y0[frame["split"] == "train"].tolist())
        _require(found == set(range(len(sampled.classes["drg"]))), "drg: classes are not those of the training samples")
    training = [
        stay for stay, subject in zip(stays.stay_id, stays.subject_id, strict=True) if split_of(subject) == "train"
    ]
    digest = hashlib.sha256(",".join(map(str, sorted(training))).encode()).hexdigest()
    fitted = json.loads((folder / "standardiser.json").read_text(encoding="utf-8"))
    _require(fitted["training_stays_sha256"] == digest, "the standardiser was not fitted on the training stays alone")
