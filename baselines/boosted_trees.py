"""Gradient-boosted decision trees on summary features: what one gets without any deep model.

Friedman. Greedy function approximation: a gradient boosting machine. Annals of Statistics 2001; in the histogram form
of Ke et al., LightGBM, NeurIPS 2017, as scikit-learn has it. A sample is one row of numbers (`baselines/summaries.py`):
statistics of each channel over its observed hours, grey values of the film, and the mean token of the note on the
principal axes of the training notes. What is missing is NaN, for which every split learns a side, beside an indicator
of presence for each modality. One model a label, or one of several classes; masked labels are left out of its fit.

The model is fitted in one go, not by gradient steps. Its rounds of boosting stand for epochs: after each round the
validation samples are scored, and the rounds up to the best one are kept, under the rule that chooses the epoch of
every other model. The seed decides which features a split may choose from. Each round takes a tree a label or class, so
that the hundreds of diagnosis-related groups take hundreds of times as long as a binary task.

scikit-learn fits; the fitted trees are then plain arrays, among the module's buffers. So the checkpoint is a file of
arrays like any other, predictions need no scikit-learn, and no pickle is ever read. That the arrays predict what
scikit-learn predicts is verified at every fit.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from baselines.common import only_head
from baselines.summaries import NOTES_FROM, summarise
from models.checks import check_count, check_positive, check_weight
from models.contract import Batch, Dimensions, Head, ModelEntry, Output
from models.search import Choice, LogUniform, SearchSpace

if TYPE_CHECKING:
    from sklearn.ensemble import HistGradientBoostingClassifier

RARE = 0.5
"""Samples that a label or class without any is taken to have, so that its log-odds stay finite."""

CHUNK = 4096
"""Samples that walk down the trees at a time."""

VERIFIED = 256
"""Training samples on which the arrays are compared with scikit-learn after a fit."""


@dataclass(frozen=True)
class BoostedTreesConfig:
    """Options of boosted trees.

    Attributes:
        rounds: of boosting, of which the best are kept. learning_rate: factor on each round.
        leaves: of a tree at most. leaf_samples: in a leaf at least. l2: penalty on leaf values.
        feature_share: of the features, drawn anew for each split, among which it chooses.
        note_components: principal axes of the mean note token.
    """

    rounds: int = 100
    learning_rate: float = 0.1
    leaves: int = 15
    leaf_samples: int = 20
    l2: float = 1.0
    feature_share: float = 0.5
    note_components: int = 16

    def __post_init__(self) -> None:
        for name, least in (("rounds", 1), ("leaves", 2), ("leaf_samples", 1), ("note_components", 1)):
            check_count(name, getattr(self, name), least)
        check_positive("learning_rate", self.learning_rate)
        check_weight("l2", self.l2)
        if not 0 < self.feature_share <= 1:
            raise ValueError(f"feature_share {self.feature_share}; a share is above 0 and at most 1")


_NODE_ARRAYS = {
    "feature": torch.int64,
    "threshold": torch.float64,
    "missing_left": torch.bool,
    "left": torch.int64,
    "right": torch.int64,
    "value": torch.float64,
}
"""One entry a node; a leaf leads to itself on both sides."""

_TREE_ARRAYS = {"root": torch.int64, "output": torch.int64, "round": torch.int64}
"""One entry a tree, in the order of rounds: its first node, the logit that it adds to, and its round from 0."""


class BoostedTrees(nn.Module):
    """Boosted trees for one task; an `Estimator` of `models.contract`.

    Args:
        dimensions: shared sizes. heads: the task's head. config: options.
    """

    def __init__(self, dimensions: Dimensions, heads: Sequence[Head], config: BoostedTreesConfig) -> None:
        super().__init__()
        self.head = only_head(heads, "Boosted trees")
        self.config = config
        components = min(config.note_components, dimensions.note_features)
        self.register_buffer("note_centre", torch.zeros(dimensions.note_features, dtype=torch.float64))
        self.register_buffer("note_axes", torch.zeros(components, dimensions.note_features, dtype=torch.float64))
        self.register_buffer("prior", torch.zeros(self.head.classes, dtype=torch.float64))
        for name, dtype in (_NODE_ARRAYS | _TREE_ARRAYS).items():
            self.register_buffer(name, torch.zeros(0, dtype=dtype))

    def fit(self, training: Iterable[tuple[Batch, Tensor, Tensor]], seed: int) -> None:
        """Fits all rounds; see `models.contract.Estimator`."""
        rows, labels, masks = [], [], []
        for batch, y, known in training:
            rows.append(summarise(batch))
            labels.append(y.cpu().numpy())
            masks.append(known.cpu().numpy())
        raw = _stacked(rows, NOTES_FROM + len(self.note_centre) + 1)
        self._fit_note_axes(raw[:, NOTES_FROM:-1])
        features = self._features(raw)
        y, known = np.concatenate(labels), np.concatenate(masks)
        prior, trees = np.zeros(self.head.classes), []
        if self.head.kind == "multiclass":
            trees += self._fit_classes(features[known], y[known], prior, seed)
        else:
            for c in range(self.head.classes):
                trees += self._fit_label(features[known[:, c]], y[known[:, c], c], prior, c, seed)
        self.prior = torch.from_numpy(prior).to(self.prior.device)
        self._store(sorted(trees, key=lambda tree: tree[:2]))

    def stages(self, batches: Iterable[Batch]) -> Iterator[Tensor]:
        """Logits (n, C) after each round; see `models.contract.Estimator`."""
        features = np.concatenate([self._features(self._summaries(batch)) for batch in batches])
        arrays = self._arrays()
        logits = np.tile(arrays["prior"], (len(features), 1))
        for number in range(self.config.rounds):
            logits += _outputs(features, arrays, arrays["round"] == number)
            yield torch.from_numpy(logits.astype(np.float32))

    def keep(self, stages: int) -> None:
        """Drops all rounds but the first `stages`."""
        trees = int((self.round < stages).sum())
        nodes = int(self.root[trees]) if trees < len(self.root) else len(self.feature)
        for names, count in ((_NODE_ARRAYS, nodes), (_TREE_ARRAYS, trees)):
            for name in names:
                setattr(self, name, getattr(self, name)[:count].clone())

    def forward(self, batch: Batch) -> Output:
        arrays = self._arrays()
        features = self._features(self._summaries(batch))  # (B, features)
        logits = arrays["prior"] + _outputs(features, arrays, slice(None))  # (B, C)
        return Output(torch.from_numpy(logits.astype(np.float32)).to(batch.device))

    def _summaries(self, batch: Batch) -> np.ndarray:
        return _stacked([summarise(batch)], NOTES_FROM + len(self.note_centre) + 1)

    def _fit_note_axes(self, notes: np.ndarray) -> None:
        """Centre and principal axes of the training notes (n, F); rows of NaN have none."""
        notes = notes[~np.isnan(notes[:, 0])]
        if not len(notes):
            return
        centre = notes.mean(0)
        _, axes = np.linalg.eigh((notes - centre).T @ (notes - centre))  # columns, by growing eigenvalue
        device, count = self.note_axes.device, len(self.note_axes)
        self.note_centre = torch.from_numpy(centre).to(device)
        self.note_axes = torch.from_numpy(axes[:, ::-1][:, :count].T.copy()).to(device)

    def _features(self, raw: np.ndarray) -> np.ndarray:
        """Summaries with the mean note token (n, ... + F + 1) -> with its components (n, ... + note_components + 1)."""
        centre, axes = self.note_centre.cpu().numpy(), self.note_axes.cpu().numpy()
        apart = raw[:, NOTES_FROM:-1] - centre
        # One axis after another, summed within a row: a product of matrices would round by the number of rows.
        components = np.stack([(apart * axis).sum(1) for axis in axes], axis=1)
        return np.hstack([raw[:, :NOTES_FROM], components, raw[:, -1:]])

    def _fit_label(self, x: np.ndarray, y: np.ndarray, prior: np.ndarray, c: int, seed: int) -> list[_Tree]:
        """Trees of one label from its known samples; sets its log-odds in `prior`."""
        positive = y.sum()
        if positive in (0, len(y)):
            prior[c] = np.log((positive + RARE) / (len(y) - positive + RARE))
            return []
        model = self._boosted(x, y, seed, c)
        prior[c] = model._baseline_prediction[0, 0]
        return _verified(model, x, _trees(model, (c,)), prior[[c]], (c,))

    def _fit_classes(self, x: np.ndarray, y: np.ndarray, prior: np.ndarray, seed: int) -> list[_Tree]:
        """Trees of all classes that occur; sets log-probabilities, up to one constant, in `prior`."""
        classes, counts = np.unique(y, return_counts=True)
        prior[:] = np.log(RARE / (len(y) + RARE))
        prior[classes] = np.log(counts / len(y)) if len(y) else prior[classes]
        if len(classes) < 2:
            return []
        model = self._boosted(x, y, seed, 0)
        if len(classes) == 2:  # scikit-learn then fits the log-odds of the second class
            prior[classes] = 0, model._baseline_prediction[0, 0]
            prior[np.setdiff1d(np.arange(len(prior)), classes)] = np.log(RARE / counts[0])
            return _verified(model, x, _trees(model, classes[1:]), prior[classes[1:]], classes[1:])
        shift = model._baseline_prediction[0, 0] - prior[classes[0]]
        prior += shift
        prior[classes] = model._baseline_prediction[0]
        return _verified(model, x, _trees(model, classes), prior[classes], classes)

    def _boosted(self, x: np.ndarray, y: np.ndarray, seed: int, output: int) -> HistGradientBoostingClassifier:
        from sklearn.ensemble import HistGradientBoostingClassifier
        from threadpoolctl import threadpool_limits

        model = HistGradientBoostingClassifier(
            max_iter=self.config.rounds,
            learning_rate=self.config.learning_rate,
            max_leaf_nodes=self.config.leaves,
            min_samples_leaf=self.config.leaf_samples,
            l2_regularization=self.config.l2,
            max_features=self.config.feature_share,
            early_stopping=False,  # the harness chooses the round
            random_state=int(np.random.SeedSequence((seed, output)).generate_state(1)[0]),
        )
        # A column without any value cannot be put into bins; one value instead of none cannot be split either.
        columns = np.where(np.isnan(x).all(0), 0.0, x)
        with threadpool_limits(torch.get_num_threads()):  # processes may be at work side by side
            return model.fit(columns, y)

    def _store(self, trees: Sequence[_Tree]) -> None:
        device = self.prior.device
        for name, value in _joined(trees).items():
            setattr(self, name, torch.from_numpy(value).to(device))

    def _arrays(self) -> dict[str, np.ndarray]:
        return {name: getattr(self, name).cpu().numpy() for name in ("prior", *_NODE_ARRAYS, *_TREE_ARRAYS)}

    def _load_from_state_dict(self, state_dict: Mapping[str, Tensor], prefix: str, *arguments: Any) -> None:
        """Takes as many trees and nodes as the state has, whatever the module had."""
        for name in _NODE_ARRAYS | _TREE_ARRAYS:
            if prefix + name in state_dict:
                setattr(self, name, torch.empty_like(state_dict[prefix + name], device=self.prior.device))
        super()._load_from_state_dict(state_dict, prefix, *arguments)


_Tree = tuple[int, int, np.ndarray]
"""Round, output and scikit-learn's nodes of one tree."""


def _trees(model: HistGradientBoostingClassifier, outputs: Sequence[int]) -> list[_Tree]:
    return [
        (number, int(outputs[k]), predictor.nodes)
        for number, predictors in enumerate(model._predictors)
        for k, predictor in enumerate(predictors)
    ]


def _joined(trees: Sequence[_Tree]) -> dict[str, np.ndarray]:
    """The trees' nodes end to end."""
    parts: dict[str, list[np.ndarray]] = {name: [np.zeros(0)] for name in _NODE_ARRAYS}
    roots, start = [], 0
    for _, _, nodes in trees:
        here, leaf = start + np.arange(len(nodes)), nodes["is_leaf"].astype(bool)
        parts["feature"].append(np.where(leaf, 0, nodes["feature_idx"]))
        parts["threshold"].append(np.where(leaf, 0, nodes["num_threshold"]))
        parts["missing_left"].append(nodes["missing_go_to_left"])
        parts["left"].append(np.where(leaf, here, start + nodes["left"].astype(np.int64)))
        parts["right"].append(np.where(leaf, here, start + nodes["right"].astype(np.int64)))
        parts["value"].append(np.where(leaf, nodes["value"], 0))
        roots.append(start)
        start += len(nodes)
    columns = {"root": roots, "output": [tree[1] for tree in trees], "round": [tree[0] for tree in trees]}
    joined = {name: np.concatenate(values) for name, values in parts.items()} | columns
    dtypes = {torch.int64: np.int64, torch.float64: np.float64, torch.bool: np.bool_}
    return {name: np.asarray(joined[name], dtypes[dtype]) for name, dtype in (_NODE_ARRAYS | _TREE_ARRAYS).items()}


def _outputs(x: np.ndarray, arrays: Mapping[str, np.ndarray], chosen: np.ndarray | slice) -> np.ndarray:
    """Sum of the chosen trees' leaf values: features (n, F) -> (n, C)."""
    parts = [_outputs_of_some(x[a : a + CHUNK], arrays, chosen) for a in range(0, len(x), CHUNK)]
    return np.concatenate(parts)


def _outputs_of_some(x: np.ndarray, arrays: Mapping[str, np.ndarray], chosen: np.ndarray | slice) -> np.ndarray:
    node = np.broadcast_to(arrays["root"][chosen], (len(x), len(arrays["root"][chosen])))  # (n, trees)
    rows = np.arange(len(x))[:, None]
    while True:
        value = x[rows, arrays["feature"][node]]
        left = np.where(np.isnan(value), arrays["missing_left"][node], value <= arrays["threshold"][node])
        following = np.where(left, arrays["left"][node], arrays["right"][node])
        if np.array_equal(following, node):
            break
        node = following
    total = np.zeros((len(x), len(arrays["prior"])))
    for tree, output in enumerate(arrays["output"][chosen]):
        total[:, output] += arrays["value"][node[:, tree]]
    return total


def _verified(
    model: HistGradientBoostingClassifier, x: np.ndarray, trees: list[_Tree], prior: np.ndarray, outputs: Sequence[int]
) -> list[_Tree]:
    """The trees, once they are known to predict what scikit-learn predicts."""
    some = x[:VERIFIED]
    arrays = _joined([(number, list(outputs).index(output), nodes) for number, output, nodes in trees])
    ours = prior + _outputs(some, arrays | {"prior": prior}, slice(None))
    theirs = model.decision_function(some).reshape(len(some), -1)
    if not np.allclose(ours, theirs, rtol=0, atol=1e-6):
        raise RuntimeError("the trees of this version of scikit-learn are not laid out as those this code can read")
    return trees


def _stacked(parts: Sequence[np.ndarray], width: int) -> np.ndarray:
    """Rows of all parts, (n, width); parts without a note have a single column of NaN in place of its summary."""
    rows = np.full((sum(map(len, parts)), width), np.nan)
    start = 0
    for part in parts:
        rows[start : start + len(part), : part.shape[1]] = part
        start += len(part)
    return rows


ENTRY = ModelEntry(
    name="boosted-trees",
    title="Boosted trees",
    config=BoostedTreesConfig,
    build=BoostedTrees,
    paper="reference: Friedman, Greedy function approximation: a gradient boosting machine, Annals of Statistics 2001",
    group="reference",
    fits=True,
    space=SearchSpace(
        options={
            "learning_rate": LogUniform(0.02, 0.5),
            "leaves": Choice((7, 15, 31)),
            "leaf_samples": Choice((5, 20, 50)),
            "l2": LogUniform(0.01, 100),
        }
    ),
)
