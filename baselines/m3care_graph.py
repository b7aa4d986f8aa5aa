"""The parts of M3Care's patient graph: kernel, similarity within a modality, aggregation and gate, support set.

Formulas and differences from the original are those of `baselines/m3care.py`, which puts the parts together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.contract import MODALITIES

SCALES = (0.5, 1.0, 2.0)
"""Bandwidths of the multi-scale kernel, in units of the mean squared distance."""


EPSILON = 1e-5
"""Added to variances, as torch's batch normalisation does."""


class BatchScale(nn.Module):
    """Batch normalisation without shift, over the rows that somebody owns: (B, D) -> (B, D).

    In training, statistics are those of the batch's owned rows, unless there is at most one; otherwise the running
    ones. Written out instead of torch's, so that which rows count need not be known on the host.
    """

    def __init__(self, width: int, momentum: float = 0.1) -> None:
        super().__init__()
        self.momentum = momentum
        self.weight = nn.Parameter(torch.ones(width))
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("variance", torch.ones(width))

    def forward(self, x: Tensor, owned: Tensor | None = None) -> Tensor:
        """(B, D) rows, (B,) bool which of them count; None: all do."""
        x = at_least_single(x)
        mean, variance = self._statistics(x, owned) if self.training else (self.mean, self.variance)
        return (x - mean) * torch.rsqrt(variance + EPSILON) * self.weight

    def _statistics(self, x: Tensor, owned: Tensor | None) -> tuple[Tensor, Tensor]:
        """Mean (D,) and biased variance (D,) to use; brings the running ones up to date."""
        counts = torch.ones_like(x[:, :1], dtype=torch.bool) if owned is None else owned[:, None]
        number = counts.sum()
        mean = x.masked_fill(~counts, 0).sum(0) / number.clamp(min=1)
        variance = (x - mean).masked_fill(~counts, 0).square().sum(0) / number.clamp(min=1)
        several = number > 1
        unbiased = variance.detach() * number / (number - 1).clamp(min=1)
        for running, new in ((self.mean, mean.detach()), (self.variance, unbiased)):
            running.copy_(torch.where(several, running + self.momentum * (new - running), running))
        # With one owner, the running ones are still those of before.
        return torch.where(several, mean, self.mean), torch.where(several, variance, self.variance)


def at_least_single(x: Tensor) -> Tensor:
    """x in single precision, unless it is more precise."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """(n, D), (k, D) -> (n, k), at least in single precision."""
    difference = at_least_single(x)[:, None] - at_least_single(y)[None]  # unlike x y^T: exact zeros and symmetry
    return difference.square().sum(-1)


def bandwidth(x: Tensor, owned: Tensor | None = None) -> Tensor:
    """b, the mean of ||x_i - x_j||^2 over pairs i != j, held constant; 1 if there is no pair, or none apart.

    Args:
        x: (n, D). owned: (n,) bool, which rows count; None: all do.
    """
    x = x.detach()
    owned = torch.ones_like(x[:, 0], dtype=torch.bool) if owned is None else owned
    n = owned.sum()
    among = owned[:, None] & owned[None]
    b = squared_distances(x, x).masked_fill(~among, 0).sum() / (n * n - n).clamp(min=1)
    return torch.where(b < 1e-3, torch.ones_like(b), b)


def kernel(x: Tensor, y: Tensor | None = None, b: Tensor | None = None) -> Tensor:
    """Multi-scale Gaussian kernel: (n, D), (k, D) -> (n, k) in (0, 1]; by default among the rows of x, with their b.

    kappa_ij = mean over s of exp(-||x_i - y_j||^2 / (s b))
    """
    b = bandwidth(x) if b is None else b
    distance = squared_distances(x, x if y is None else y)
    return sum(torch.exp(-distance / (scale * b)) for scale in SCALES) / len(SCALES)


class Similarity(nn.Module):
    """Similarity of the owners of one modality: vectors h (B, D) -> K_m (B, B) and the stabilising term.

        r = BN(h),  q = BN(relu(phi(h)))                                   form "odir"
        K_m = [(1 - e) kappa(q) + e] * kappa(r)                            elementwise
        r = BN(h),  q = BN(phi(h))                                         form "ov"
        K_m = (1 - e) kappa(q) + e kappa(r)
        stabiliser = | ||phi(h)||_F - ||h||_F |

    Args:
        width: D. mixing: initial logit of e. form: "odir" or "ov".
        norms: batch norms of h and of the projected vectors. They are the model's, which may have one for all uses.
    """

    def __init__(self, width: int, mixing: float, form: str, norms: Sequence[BatchScale]) -> None:
        super().__init__()
        self.form = form
        self.phi = nn.Sequential(
            nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width)
        )
        self._norms = tuple(norms)
        self.mixing = nn.Parameter(torch.tensor(float(mixing)))

    def forward(self, h: Tensor, owned: Tensor) -> tuple[Tensor, Tensor]:
        """Vectors (B, D), zero where the modality is absent; owners (B,) bool. Of non-owners K_m says nothing."""
        raw, projected, stabiliser = self.views(h, owned)
        among = (kernel(view, view, bandwidth(view, owned)) for view in (raw, projected))
        return self.mix(*among), stabiliser

    @property
    def norm_raw(self) -> BatchScale:
        return self._norms[0]

    @property
    def norm_projected(self) -> BatchScale:
        return self._norms[1]

    def views(self, h: Tensor, owned: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """r (B, D), q (B, D) and the stabilising term."""
        projected = self.phi(h)
        norms = [torch.linalg.norm(at_least_single(x).masked_fill(~owned[:, None], 0)) for x in (projected, h)]
        raw = self.norm_raw(h, owned)
        activated = F.relu(projected) if self.form == "odir" else projected
        return raw, self.norm_projected(activated, owned), (norms[0] - norms[1]).abs()

    def mix(self, raw: Tensor, deep: Tensor) -> Tensor:
        """K_m from kappa(r) and kappa(q), all of one shape."""
        e = torch.sigmoid(self.mixing)
        return ((1 - e) * deep + e) * raw if self.form == "odir" else (1 - e) * deep + e * raw


class Imputation(nn.Module):
    """One modality's two graph layers and gate: what each sample's vector becomes, owned or filled in.

    With vectors h, zero where the modality is absent, and the thresholded similarity S', columns of owners only:

        g  = relu(S' relu(S' h W1 + b1) W2 + b2)                for every sample
        h' = (a g + c h) / (a + c), a = sigmoid(w1 g), c = sigmoid(w2 h)    for owners, h' = g for the others

    Args:
        width: D. pairwise: the rows of non-owners count as empty too, as in the authors' code, so that their g is
            relu(b2), whoever is similar to them.
    """

    def __init__(self, width: int, pairwise: bool = False) -> None:
        super().__init__()
        self.pairwise = pairwise
        self.first = nn.Linear(width, width)
        self.second = nn.Linear(width, width)
        self.gate_graph = nn.Linear(width, 1)
        self.gate_own = nn.Linear(width, 1)

    def forward(self, h: Tensor, similarity: Tensor, owned: Tensor) -> Tensor:
        """h (B, D), S' (B, B), owners (B,) bool -> h' (B, D)."""
        return self.gate(self.aggregate(h, similarity, owned), h, owned)

    def aggregate(self, h: Tensor, similarity: Tensor, owned: Tensor) -> Tensor:
        """As `forward`, but returns g (B, D)."""
        from_donors = similarity.masked_fill(~owned[None], 0)  # (B, B)
        return self.second_hop(from_donors @ self.first_hop(from_donors @ h), owned)

    def first_hop(self, neighbourhood: Tensor) -> Tensor:
        """Sums over a sample's neighbours (B, D) -> (B, D)."""
        return F.relu(self.first(neighbourhood))

    def second_hop(self, neighbourhood: Tensor, owned: Tensor) -> Tensor:
        """Sums over neighbours' first-hop vectors (B, D) -> g (B, D)."""
        if self.pairwise:
            neighbourhood = neighbourhood.masked_fill(~owned[:, None], 0)
        return F.relu(self.second(neighbourhood))

    def gate(self, g: Tensor, h: Tensor, owned: Tensor) -> Tensor:
        """g (B, D), h (B, D) -> h' (B, D)."""
        # a / (a + c) from the logarithms, for a and c may both be too small to divide by their sum.
        share = torch.sigmoid(F.logsigmoid(self.gate_graph(g)) - F.logsigmoid(self.gate_own(h)))  # (B, 1)
        return torch.where(owned[:, None], (share * g + (1 - share) * h).to(g.dtype), g)


def prune(similarity: Tensor, threshold: Tensor) -> Tensor:
    """S' = relu(S - th) + th [S > th], the last th without gradient: keeps what lies above the threshold."""
    return F.relu(similarity - threshold) + threshold.detach() * (similarity > threshold)


def graph_density(edges: Tensor) -> Tensor:
    """Share of pairs of different samples that are connected: S' (B, B) -> scalar, 0 for a batch of one."""
    size = len(edges)
    connected = (edges > 0).sum() - (edges.diagonal() > 0).sum()
    return connected / max(size * size - size, 1)


class SupportSet(nn.Module):
    """Training samples that stand for the batch in evaluation, and all of them that a prediction needs.

    Buffers, and so part of the checkpoint; places beyond the samples given are nobody's:
        owned: (S, M) bool. h, raw, projected, hop: (M, S, D) vectors, both views, first-hop vectors of the owners.
        bandwidths: (M, 2) of the kernels on raw and projected vectors. mates: batch mates a sample had in training.
    """

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        modalities = len(MODALITIES)
        self.register_buffer("owned", torch.zeros(size, modalities, dtype=torch.bool))
        for name in ("h", "raw", "projected", "hop"):
            self.register_buffer(name, torch.zeros(modalities, size, width))
        self.register_buffer("bandwidths", torch.ones(modalities, 2))
        self.register_buffer("mates", torch.ones(()))
        self.filled = False

    def clear(self, owned: Tensor) -> None:
        """Forgets the old samples; owned (s, M) of the new ones, s <= S."""
        self.owned.zero_()
        self.owned[: len(owned)] = owned
        for values in (self.h, self.raw, self.projected, self.hop):
            values.zero_()
        self.filled = True

    def put(self, m: int, **values: Tensor) -> None:
        """Stores the samples' vectors (s, D) of the m-th modality, by buffer name; zero for those that lack it."""
        for name, vectors in values.items():
            lacks = ~self.owned[: len(vectors), m, None]
            getattr(self, name)[m, : len(vectors)] = vectors.masked_fill(lacks, 0)

    def share(self, others: Tensor) -> Tensor:
        """What one of that many other samples counts, for their sum to weigh as much as that over training's mates."""
        return self.mates / others.clamp(min=1)

    def _load_from_state_dict(self, *arguments: Any) -> None:
        super()._load_from_state_dict(*arguments)
        self.filled = True
