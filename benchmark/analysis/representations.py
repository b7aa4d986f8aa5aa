"""Figure 5: how far patient representations of different tasks lie apart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.manifold import TSNE
from sklearn.metrics import silhouette_score
from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from benchmark.errors import UserError
from benchmark.random import stream
from benchmark.training import Restored

SAMPLES = 960
"""Test samples a task: 30 mini-batches of 32."""

BATCH = 32
PERPLEXITY = 30.0
FOLDS = 5


@dataclass(frozen=True)
class Representation:
    """Patient representations of test samples of all tasks, n of them.

    Attributes:
        whole: (n, P), what the heads read: [encoded task token; vector], or the vector alone without task token.
        vector: (n, D), the vector part alone. task: (n,) names. patient: (n,) numbers, to keep a patient's samples
            together; not for printing.
    """

    whole: np.ndarray
    vector: np.ndarray
    task: np.ndarray
    patient: np.ndarray


def represent(restored: Restored, width: int, samples: int = SAMPLES) -> Representation:
    """The representations of `samples` test samples of each task, or of all where there are fewer.

    The samples are the same for all models. `width` is that of the model: the last columns of a representation are the
    vector part.

    Raises:
        UserError: the model does not tell its patient representation.
    """
    whole, tasks, patients = [], [], []
    for task, source in restored.tests.items():
        chosen = stream(0, "representation", task).permutation(len(source))[:samples]
        for part in np.split(chosen, range(BATCH, len(chosen), BATCH)):
            with torch.inference_mode():
                seen = restored.model(source.batch(part).inputs).diagnostics
            if "patient" not in seen:
                raise UserError("the model does not give its patient representation")
            whole.append(seen["patient"].float().cpu().numpy())
        tasks.append(np.full(len(chosen), task))
        patients.append(source.samples.patient[chosen])
    values = np.concatenate(whole)
    return Representation(values, values[:, -width:], np.concatenate(tasks), np.concatenate(patients))


def counts(representation: Representation) -> dict[str, int]:
    """Number of samples by task."""
    names, found = np.unique(representation.task, return_counts=True)
    return dict(zip(names.tolist(), found.tolist(), strict=True))


def perplexity(samples: int) -> float:
    """Of t-SNE: 30, or a third of the neighbours that there are.

    >>> perplexity(5760), perplexity(31)
    (30.0, 10.0)
    """
    return min(PERPLEXITY, (samples - 1) / 3)


def project(representation: Representation) -> pd.DataFrame:
    """The whole representations in two dimensions: columns task, tsne_1, tsne_2, pca_1, pca_2."""
    values = representation.whole
    with threadpool_limits(1):  # sums in another order would end in another picture
        flat = PCA(2, svd_solver="full").fit_transform(values)
        near = TSNE(2, perplexity=perplexity(len(values)), init="pca", random_state=0, n_jobs=1).fit_transform(values)
    columns = {"task": representation.task}
    columns |= {
        f"{name}_{axis + 1}": part[:, axis] for name, part in (("tsne", near), ("pca", flat)) for axis in (0, 1)
    }
    return pd.DataFrame(columns)


def separation(representation: Representation) -> Mapping[str, float]:
    """How well the task can be told from the representation.

    Returns:
        silhouette, silhouette_vector: mean silhouette of the tasks as clusters, of the whole and of the vector part.
        probe, probe_vector: share of samples whose task a logistic regression names, with all samples of a patient in
        the same of five folds. chance: share of the most frequent task.
    """
    found = {}
    for ending, values in (("", representation.whole), ("_vector", representation.vector)):
        found[f"silhouette{ending}"] = float(silhouette_score(values, representation.task))
        found[f"probe{ending}"] = _probe(values, representation.task, representation.patient)
    sizes = np.array(list(counts(representation).values()))
    return found | {"chance": float(sizes.max() / sizes.sum())}


def _probe(values: np.ndarray, task: np.ndarray, patient: np.ndarray) -> float:
    folds = StratifiedGroupKFold(min(FOLDS, len(np.unique(patient))), shuffle=True, random_state=0)
    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000, tol=1e-3))
    guesses = cross_val_predict(probe, values.astype(np.float64), task, groups=patient, cv=folds)
    return float(np.mean(guesses == task))
