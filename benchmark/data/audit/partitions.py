"""Rules of partitions: no patient, sample or unit twice, and nothing learned from other patients than training ones."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator

import numpy as np
import pandas as pd

from benchmark.data.audit.finding import Finding, finding
from benchmark.data.audit.opened import Opened
from benchmark.data.channels import CHANNELS, CONTINUOUS, CONTINUOUS_COLUMNS, VALUES
from benchmark.data.split import SPLITS, split_of
from benchmark.data.standardiser import CLIP
from benchmark.tasks import TASKS

CLOSE = 0.005
"""By how much mean and spread of the standardised training hours may differ from 0 and 1: half floats are stored."""

CHUNK = 100_000
"""Rows of a store that are looked at in one go."""


def findings(opened: Opened) -> Iterator[Finding]:
    """All findings about partitions."""
    everything = pd.concat([frame.assign(task=task) for task, frame in opened.samples.items()], ignore_index=True)
    yield _once("sample number", "no sample has the number of another", everything["sample"])
    units = everything[["task", "subject_id", "stay_id", "hadm_id", "study_id"]]
    about = "no stay, study or admission is two samples of a task"
    yield finding("unit", about, units.duplicated(), everything["sample"].tolist())
    yield _links(opened, everything)
    yield from _patients(opened, everything)
    yield from _classes(opened)
    yield from _standardiser(opened)


def _once(rule: str, about: str, numbers: pd.Series) -> Finding:
    return finding(rule, about, numbers.duplicated(), numbers.tolist())


def _links(opened: Opened, everything: pd.DataFrame) -> Finding:
    """Each sample has one row of links, of its own task."""
    counts = opened.links["sample"].value_counts()
    task = opened.links.drop_duplicates("sample").set_index("sample").task.reindex(everything["sample"])
    broken = (counts.reindex(everything["sample"]).to_numpy() != 1) | (task.to_numpy() != everything.task.to_numpy())
    return finding("link", "every sample's origin is recorded once", broken, everything["sample"].tolist())


def _patients(opened: Opened, everything: pd.DataFrame) -> Iterator[Finding]:
    pairs = everything[["patient", "subject_id"]].drop_duplicates()
    twice = pairs.patient.duplicated(keep=False) | pairs.subject_id.duplicated(keep=False)
    yield finding("patient number", "patient numbers and patients of MIMIC pair off", twice, pairs.patient.tolist())

    of_samples = everything[["subject_id", "split"]]
    together = pd.concat([of_samples, opened.stays[["subject_id", "split"]], opened.patients[["subject_id", "split"]]])
    parts = together.drop_duplicates().groupby("subject_id")["split"].nunique()
    patient = everything.drop_duplicates("subject_id").set_index("subject_id").patient.reindex(parts.index)
    about = "no patient is in two partitions, over all tasks, stored series and the table of patients"
    yield finding("one partition", about, parts > 1, [f"patient {number:.0f}" for number in patient])
    strange = ~everything["split"].isin(SPLITS)
    yield finding("partition name", f"one of {', '.join(SPLITS)}", strange, everything["sample"].tolist())
    about = "every patient is in the partition of the hash of the patient number"
    if opened.rules.split == "hashed":
        known = together.drop_duplicates().reset_index(drop=True)
        wrong = [split_of(subject) for subject in known.subject_id] != known["split"].to_numpy(dtype=object)
        names = everything.drop_duplicates("subject_id").set_index("subject_id").patient.reindex(known.subject_id)
        yield finding("hashed partition", about, wrong, [f"patient {number:.0f}" for number in names])
    else:
        about = "partitions follow the order of the admissions table, which the data set does not hold"
        yield Finding("hashed partition", about, len(together.subject_id.unique()), 0, kind="stated")


def _classes(opened: Opened) -> Iterator[Finding]:
    """Classes that are found in the data are those of training samples."""
    for task, frame in opened.samples.items():
        if TASKS[task].classes is not None:
            same = list(TASKS[task].classes) == opened.classes[task]
            yield finding("classes", "the task's own classes, in their order", [not same], task=task)
            continue
        classes, training = opened.classes[task], frame["split"] == "train"
        source = frame.code if opened.rules.drg_classes == "all_partitions" else frame.code[training]
        listed = sorted(set(classes) | set(source))
        wrong = [name not in set(source) or name not in set(classes) for name in listed]
        if opened.rules.drg_classes == "all_partitions":
            foreign = ~frame.code.isin(frame.code[training])
            about = "classes are the groups of all partitions, as the rule drg_classes says; these samples' class no "
            about += "training sample has"
            yield finding("class without training sample", about, foreign, task=task, kind="stated")
            about = "classes are the groups of all samples"
        else:
            about = "classes are the groups of training samples"
        yield finding("classes", about, wrong, listed, task=task)
        number = {name: float(index) for index, name in enumerate(classes)}
        expected = frame.code.map(number).to_numpy(dtype=float)
        broken = ~np.isclose(frame.y0.to_numpy(dtype=float), expected, atol=0, equal_nan=True)
        about = "labels are the numbers of the samples' groups"
        yield finding("class labels", about, broken, frame["sample"].tolist(), task=task)


def _standardiser(opened: Opened) -> Iterator[Finding]:
    about = "scaled with statistics of training stays alone: their list, their observed hours and their mean and spread"
    if opened.rules.statistics != "training":
        about = "scaled with fixed figures of another database, as the rule statistics says; nothing was fitted"
        yield Finding("standardiser", about, 0, 0, kind="stated")
        return
    fitted = json.loads((opened.folder / "standardiser.json").read_text(encoding="utf-8"))
    training = (opened.stays["split"] == "train").to_numpy()
    stays = ",".join(map(str, sorted(opened.stays.stay_id[training].tolist())))
    digest = hashlib.sha256(stays.encode()).hexdigest()
    same = fitted["training_stays_sha256"] == digest
    yield finding("standardiser stays", "fitted on the training stays alone", [not same])
    count, mean, spread, clipped = _moments(opened, training)
    broken, names = [], [CHANNELS[index].name for index in CONTINUOUS]
    for place, channel in enumerate(fitted["channels"]):
        far = abs(mean[place]) > CLOSE or abs(spread[place] - 1) > CLOSE
        known = channel["fitted"] and not clipped[place]
        broken.append(channel["count"] != count[place] or bool(known and far))
    yield finding("standardiser", about, broken, names)


def _moments(opened: Opened, training: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Number, mean and spread of the standardised observed training hours by channel, and whether any is clipped."""
    store, columns, flags = opened.series, list(CONTINUOUS_COLUMNS), [VALUES + index for index in CONTINUOUS]
    count, total, squares = np.zeros(len(columns)), np.zeros(len(columns)), np.zeros(len(columns))
    clipped = np.zeros(len(columns), dtype=bool)
    own = np.repeat(training, store.lengths)
    for first in range(0, len(store.values), CHUNK):
        rows = store.values[first : first + CHUNK][own[first : first + CHUNK]]
        seen = rows[:, flags] > 0
        values = np.where(seen, rows[:, columns].astype(np.float64), 0.0)
        count, total, squares = count + seen.sum(0), total + values.sum(0), squares + (values**2).sum(0)
        clipped |= (np.abs(values) >= CLIP).any(0)
    mean = total / np.maximum(count, 1)
    return count, mean, np.sqrt(np.maximum(squares / np.maximum(count, 1) - mean**2, 0)), clipped
