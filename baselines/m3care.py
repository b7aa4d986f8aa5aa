"""M3Care: patients similar to one another, within the batch, fill in each other's missing modalities.

Paper: Zhang, Chu, Ma, Zhu, Wang, Wang, Zhao. M3Care: Learning with missing modalities in multimodal healthcare data.
KDD 2022 (arXiv 2210.17292). Used here: unimodal encoders; similarity over the modalities that two patients share,
with a deep kernel and a learned threshold; graph aggregation of the missing vector from similar patients; the
adaptive gate; the multimodal transformer over all tokens; the stabilising term on the deep kernel.

Adapted to the embedding layers that all models of this comparison share: half of the depth encodes each modality, the
other half reads all of them. Where the authors' two notebooks (OV, ODIR) differ, this follows ODIR.

Differs from the authors' code in:
- **donors**: a sample that lacks a modality aggregates over the samples that own it. The code's mask demands that
  both own it, which zeroes the whole row of the sample in need and makes every imputed vector one and the same
  constant;
- samples that lack a modality have no placeholder vectors: batch statistics, bandwidth and norms count owners only;
- batch norms are kept apart by modality and by use (the code shares one); they scale without shifting, because no
  distance would notice a shift; a single owner in a training batch is normalised by the running statistics;
- bandwidth 1 where it cannot be estimated (one owner, or equal vectors), so a batch of one sample is finite;
- the threshold starts at 0.5 (OV) instead of 0.88 (ODIR), above which hardly any pair of patients lies;
- layers are those of FlexCare, whose norms and residual sums all take part, on packed sequences instead of per
  sample.

An eval-mode output depends on the other samples of its batch: `couples_samples`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from baselines.common import only_head
from models.checks import check_rate, check_weight
from models.contract import MODALITIES, Batch, Dimensions, Head, ModelEntry, Output, Packed
from models.embeddings import UnimodalEmbeddings
from models.layers import ClsEncoder, EncoderLayer
from models.ragged import join, row_index, unit_layout

SCALES = (0.5, 1.0, 2.0)
"""Bandwidths of the multi-scale kernel, in units of the mean squared distance."""


@dataclass(frozen=True)
class M3CareConfig:
    """Options of M3Care.

    Attributes:
        stabiliser: weight of the stabilising term.
        threshold: initial logit of the similarity threshold (0: threshold 0.5).
        mixing: initial logit of e_m, the share of the deep kernel's constant part (2: 0.88).
        dropout: before the last linear map.
    """

    stabiliser: float = 1e-7
    threshold: float = 0.0
    mixing: float = 2.0
    dropout: float = 0.5

    def __post_init__(self) -> None:
        check_rate("dropout", self.dropout)
        check_weight("stabiliser", self.stabiliser)


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


def kernel(x: Tensor) -> Tensor:
    """Multi-scale Gaussian kernel: (n, D) -> (n, n) in (0, 1], symmetric, ones on the diagonal.

    kappa_ij = mean over s of exp(-||x_i - x_j||^2 / (s b)), b = mean ||x_i - x_j||^2 over pairs i != j, held constant.
    """
    n = len(x)
    distance = (x[:, None] - x[None]).square().sum(-1)  # differences rather than x x^T: exact zeros and symmetry
    bandwidth = distance.detach().sum() / max(n * n - n, 1)
    bandwidth = torch.where(bandwidth < 1e-3, torch.ones_like(bandwidth), bandwidth)
    return sum(torch.exp(-distance / (scale * bandwidth)) for scale in SCALES) / len(SCALES)


class Similarity(nn.Module):
    """Similarity of the owners of one modality: vectors (n, D) -> K_m (n, n) and the stabilising term.

    K_m = [(1 - e) kappa(BN(relu(phi(h)))) + e] * kappa(BN(h)), elementwise.
    """

    def __init__(self, width: int, mixing: float) -> None:
        super().__init__()
        self.phi = nn.Sequential(
            nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width)
        )
        self.norm_raw = BatchScale(width)
        self.norm_projected = BatchScale(width)
        self.mixing = nn.Parameter(torch.tensor(float(mixing)))

    def forward(self, h: Tensor) -> tuple[Tensor, Tensor]:
        projected = self.phi(h)
        e = torch.sigmoid(self.mixing)
        deep = kernel(self.norm_projected(F.relu(projected)))
        stabiliser = (torch.linalg.norm(projected) - torch.linalg.norm(h)).abs()
        return ((1 - e) * deep + e) * kernel(self.norm_raw(h)), stabiliser


class Imputation(nn.Module):
    """One modality's two graph layers and gate: what each sample's vector becomes, owned or filled in.

    With the owners' vectors h, rows of the thresholded similarity S' and columns of owners only:

        g  = relu(S' relu(S' h W1 + b1) W2 + b2)                for every sample
        h' = (a g + c h) / (a + c), a = sigmoid(w1 g), c = sigmoid(w2 h)    for owners, h' = g for the others
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Linear(width, width)
        self.second = nn.Linear(width, width)
        self.gate_graph = nn.Linear(width, 1)
        self.gate_own = nn.Linear(width, 1)

    def aggregate(self, h: Tensor, similarity: Tensor, donors: Tensor) -> Tensor:
        """Owners' vectors h (n, D), S' (B, B), owners' rows (n,) -> g (B, D)."""
        to_donors = similarity.index_select(1, donors)  # (B, n)
        among_donors = to_donors.index_select(0, donors)  # (n, n): the first hop is needed at donors only
        hop = F.relu(self.first(among_donors @ h))  # (n, D)
        return F.relu(self.second(to_donors @ hop))

    def forward(self, h: Tensor, similarity: Tensor, donors: Tensor) -> Tensor:
        """As `aggregate`, but returns h' (B, D)."""
        g = self.aggregate(h, similarity, donors)
        g_owned = g.index_select(0, donors)
        a, c = torch.sigmoid(self.gate_graph(g_owned)), torch.sigmoid(self.gate_own(h))  # (n, 1)
        return g.index_copy(0, donors, ((a * g_owned + c * h) / (a + c)).to(g.dtype))


class M3Care(nn.Module):
    """M3Care for one task.

    Args:
        dimensions: shared sizes; half of `layers`, rounded down, encode each modality, the others all together; at
            least one each.
        heads: the task's head. config: options.
    """

    def __init__(self, dimensions: Dimensions, heads: Sequence[Head], config: M3CareConfig) -> None:
        super().__init__()
        head = only_head(heads, "M3Care")
        d, width = dimensions, dimensions.width
        unimodal = max(d.layers // 2, 1)
        multimodal = max(d.layers - unimodal, 1)
        self.aux_weights = {"stabiliser": config.stabiliser}
        self.embeddings = UnimodalEmbeddings(d)
        self.encoders = nn.ModuleList(ClsEncoder(width, unimodal, d.heads, d.dropout) for _ in MODALITIES)
        self.similarities = nn.ModuleList(Similarity(width, config.mixing) for _ in MODALITIES)
        self.imputations = nn.ModuleList(Imputation(width) for _ in MODALITIES)
        self.threshold = nn.Parameter(torch.tensor(float(config.threshold)))
        self.types = nn.Parameter(torch.randn(len(MODALITIES), width) * 0.02)
        self.layers = nn.ModuleList(EncoderLayer(width, d.heads, d.dropout) for _ in range(multimodal))
        self.head = nn.Sequential(
            nn.Linear(3 * width, 2 * width), nn.ReLU(), nn.Dropout(config.dropout), nn.Linear(2 * width, head.classes)
        )

    def forward(self, batch: Batch) -> Output:
        vectors, contents = self.encode(batch)
        donors = [row_index(() if part is None else part.layout.rows, batch.device) for part in contents]
        similarity, stabiliser = self.similarity(vectors, donors, batch.present)
        edges = self.prune(similarity)
        filled = [self.imputations[m](vectors[m], edges, donors[m]) for m in range(len(MODALITIES))]  # (B, D) each
        patient = self.fuse(filled, contents)  # (B, 3D)
        logits = self.head(patient)
        if self.training:
            return Output(logits, {"stabiliser": stabiliser})
        return Output(logits, diagnostics={"patient": patient.detach(), "graph_density": graph_density(edges.detach())})

    def encode(self, batch: Batch) -> tuple[list[Tensor], list[Packed | None]]:
        """Owners' vectors h_m (n_m, D) and encoded content tokens; no rows and None where nobody owns the modality."""
        vectors, contents = [], []
        for encoder, tokens in zip(self.encoders, self.embeddings(batch), strict=True):
            h, content = (
                (self.types.new_zeros(0, self.types.shape[1]), None) if tokens is None else encoder.tokens(tokens)
            )
            vectors.append(h)
            contents.append(content)
        return vectors, contents

    def similarity(self, vectors: Sequence[Tensor], donors: Sequence[Tensor], present: Tensor) -> tuple[Tensor, Tensor]:
        """S (B, B): mean of K_m over the modalities that both samples own, 0 if they share none; and the stabiliser."""
        owned = present.to(vectors[0].dtype)
        total, stabiliser = owned.new_zeros(len(owned), len(owned)), owned.new_zeros(())
        for module, h, rows in zip(self.similarities, vectors, donors, strict=True):
            if len(h):
                within, term = module(h)
                total = total.index_put((rows[:, None], rows[None]), within.to(total.dtype), accumulate=True)
                stabiliser = stabiliser + term
        return total / (owned @ owned.T).clamp(min=1), stabiliser

    def prune(self, similarity: Tensor) -> Tensor:
        """S' = relu(S - th) + th [S > th], the last th without gradient: keeps what lies above the threshold."""
        threshold = torch.sigmoid(self.threshold)
        return F.relu(similarity - threshold) + threshold.detach() * (similarity > threshold)

    def fuse(self, filled: Sequence[Tensor], contents: Sequence[Packed | None]) -> Tensor:
        """Reads [h'_ehr; ehr tokens; h'_cxr; cxr tokens; h'_note; note tokens]; outputs at the three h' (B, 3D).

        Args:
            filled: h'_m (B, D) of each modality, owned or imputed, always visible. contents: encoded tokens of owners.
        """
        everyone = unit_layout(range(len(filled[0])))
        parts, summaries = [], []
        for m, (vector, content) in enumerate(zip(filled, contents, strict=True)):
            summaries.append(len(parts))
            parts.append(Packed(vector + self.types[m], everyone))
            if content is not None:
                parts.append(content.with_values(content.values + self.types[m]))
        joined = join(parts)
        sequences = joined.packed
        for layer in self.layers[:-1]:
            sequences = layer(sequences)
        readers = torch.stack([joined.where[part] for part in summaries], dim=1)  # (B, 3)
        return self.layers[-1].read(sequences, readers).flatten(1)


def graph_density(edges: Tensor) -> Tensor:
    """Share of pairs of different samples that are connected: S' (B, B) -> scalar, 0 for a batch of one."""
    size = len(edges)
    connected = (edges > 0).sum() - (edges.diagonal() > 0).sum()
    return connected / max(size * size - size, 1)


ENTRY = ModelEntry(
    name="m3care",
    title="M3Care",
    config=M3CareConfig,
    build=M3Care,
    paper="Zhang et al., M3Care: Learning with missing modalities in multimodal healthcare data, KDD 2022",
    clip_norm=20.0,
    couples_samples=True,
)
