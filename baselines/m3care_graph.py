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


class BatchScale(nn.Module):
    """Batch normalisation without shift: (n, D) -> (n, D), n >= 1.

    In training, statistics are the batch's own, unless it has a single row; otherwise the running ones.
    """

    def __init__(self, width: int, momentum: float = 0.1) -> None:
        super().__init__()
        self.momentum = momentum
        self.weight = nn.Parameter(torch.ones(width))
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("variance", torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        own = self.training and len(x) > 1
        return F.batch_norm(x, self.mean, self.variance, self.weight, None, own, self.momentum)


def at_least_single(x: Tensor) -> Tensor:
    """x in single precision, unless it is more precise."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """(n, D), (k, D) -> (n, k), at least in single precision."""
    difference = at_least_single(x)[:, None] - at_least_single(y)[None]  # unlike x y^T: exact zeros and symmetry
    return difference.square().sum(-1)


def bandwidth(x: Tensor) -> Tensor:
    """b, the mean of ||x_i - x_j||^2 over pairs i != j, held constant; 1 if there is no pair, or none apart."""
    n = len(x)
    b = squared_distances(x, x).detach().sum() / max(n * n - n, 1)
    return torch.where(b < 1e-3, torch.ones_like(b), b)


def kernel(x: Tensor, y: Tensor | None = None, b: Tensor | None = None) -> Tensor:
    """Multi-scale Gaussian kernel: (n, D), (k, D) -> (n, k) in (0, 1]; by default among the rows of x, with their b.

    kappa_ij = mean over s of exp(-||x_i - y_j||^2 / (s b))
    """
    b = bandwidth(x) if b is None else b
    distance = squared_distances(x, x if y is None else y)
    return sum(torch.exp(-distance / (scale * b)) for scale in SCALES) / len(SCALES)


class Similarity(nn.Module):
    """Similarity of the owners of one modality: vectors h (n, D) -> K_m (n, n) and the stabilising term.

        r = BN(h),  q = BN(relu(phi(h)))                                   form "odir"
        K_m = [(1 - e) kappa(q) + e] * kappa(r)                            elementwise
        r = BN(h),  q = BN(phi(h))                                         form "ov"
        K_m = (1 - e) kappa(q) + e kappa(r)
        stabiliser = | ||phi(h)||_F - ||h||_F |

    Args:
        width: D. mixing: initial logit of e. form: "odir" or "ov".
        norms: batch norms of h and of the projected vectors.
    """

    def __init__(self, width: int, mixing: float, form: str, norms: Sequence[BatchScale]) -> None:
        super().__init__()
        self.form = form
        self.phi = nn.Sequential(
            nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width)
        )
        self.norm_raw, self.norm_projected = norms
        self.mixing = nn.Parameter(torch.tensor(float(mixing)))

    def forward(self, h: Tensor) -> tuple[Tensor, Tensor]:
        raw, projected, stabiliser = self.views(h)
        return self.mix(kernel(raw), kernel(projected)), stabiliser

    def views(self, h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """r (n, D), q (n, D) and the stabilising term."""
        projected = self.phi(h)
        stabiliser = (torch.linalg.norm(at_least_single(projected)) - torch.linalg.norm(at_least_single(h))).abs()
        raw = self.norm_raw(h)
        return raw, self.norm_projected(F.relu(projected) if self.form == "odir" else projected), stabiliser

    def mix(self, raw: Tensor, deep: Tensor) -> Tensor:
        """K_m from kappa(r) and kappa(q), all of one shape."""
        e = torch.sigmoid(self.mixing)
        return ((1 - e) * deep + e) * raw if self.form == "odir" else (1 - e) * deep + e * raw


class Imputation(nn.Module):
    """One modality's two graph layers and gate: what each sample's vector becomes, owned or filled in.

    With the owners' vectors h, rows of the thresholded similarity S' and columns of owners only:

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

    def forward(self, h: Tensor, similarity: Tensor, donors: Tensor) -> Tensor:
        """Owners' vectors h (n, D), S' (B, B), owners' rows (n,) -> h' (B, D)."""
        return self.gate(self.aggregate(h, similarity, donors), h, donors)

    def aggregate(self, h: Tensor, similarity: Tensor, donors: Tensor) -> Tensor:
        """As `forward`, but returns g (B, D)."""
        to_donors = similarity.index_select(1, donors)  # (B, n)
        among_donors = to_donors.index_select(0, donors)  # (n, n): the first hop is needed at donors only
        return self.second_hop(to_donors @ self.first_hop(among_donors @ h), donors)

    def first_hop(self, neighbourhood: Tensor) -> Tensor:
        """Sums over an owner's neighbours (n, D) -> (n, D)."""
        return F.relu(self.first(neighbourhood))

    def second_hop(self, neighbourhood: Tensor, donors: Tensor) -> Tensor:
        """Sums over neighbours' first-hop vectors (B, D) -> g (B, D)."""
        if self.pairwise:
            owned = neighbourhood.index_select(0, donors)
            neighbourhood = torch.zeros_like(neighbourhood).index_copy(0, donors, owned)
        return F.relu(self.second(neighbourhood))

    def gate(self, g: Tensor, h: Tensor, donors: Tensor) -> Tensor:
        """g (B, D), h (n, D) -> h' (B, D)."""
        g_owned = g.index_select(0, donors)
        # a / (a + c) from the logarithms, for a and c may both be too small to divide by their sum.
        share = torch.sigmoid(F.logsigmoid(self.gate_graph(g_owned)) - F.logsigmoid(self.gate_own(h)))  # (n, 1)
        return g.index_copy(0, donors, (share * g_owned + (1 - share) * h).to(g.dtype))


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

    def put(self, m: int, rows: Tensor, **values: Tensor) -> None:
        """Stores vectors (n, D) of the m-th modality at places `rows` (n,), by buffer name."""
        for name, vectors in values.items():
            buffer = getattr(self, name)
            buffer[m] = buffer[m].index_copy(0, rows, vectors.to(buffer.dtype))

    def share(self, others: Tensor) -> Tensor:
        """What one of that many other samples counts, for their sum to weigh as much as that over training's mates."""
        return self.mates / others.clamp(min=1)

    def _load_from_state_dict(self, *arguments: Any) -> None:
        super()._load_from_state_dict(*arguments)
        self.filled = True
