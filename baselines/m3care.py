"""M3Care: patients similar to one another, within the batch, fill in each other's missing modalities.

Paper: Zhang, Chu, Ma, Zhu, Wang, Wang, Zhao. M3Care: Learning with missing modalities in multimodal healthcare data.
KDD 2022 (arXiv 2210.17292). Used here: unimodal encoders; similarity over the modalities that two patients share,
with a deep kernel and a learned threshold; graph aggregation of the missing vector from similar patients; the
adaptive gate; the multimodal transformer over all tokens; the stabilising term on the deep kernel.

    h_m  = encoder_m(tokens of m), at a class token                     unimodal encoders
    K_m  = similarity of the owners of m, from kernels on h_m and on phi_m(h_m)
    S    = mean of K_m over the modalities that both samples own; S' = S above a learned threshold, else 0
    g_m  = two graph layers over S', from the samples that own m        aggregation
    h'_m = gate of h_m and g_m for owners, g_m for the others           imputation
    z    = transformer over all [h'_m; tokens of m], at the three h'_m  multimodal interaction
    loss = prediction + lambda * sum over m of | ||phi_m(h_m)||_F - ||h_m||_F |

The formulas of K_m, S', g_m and the gate stand at the parts, in `baselines/m3care_graph.py`.

Adapted to the embedding layers that all models of this comparison share: half of the depth encodes each modality, the
other half reads all of them. Where the authors' two notebooks (OV, ODIR) differ, this follows ODIR; OV is an option.

Differs from the authors' code in:
- **donors**: a sample that lacks a modality aggregates over the samples that own it. The code's mask demands that
  both own it, which zeroes the whole row of the sample in need and makes every imputed vector one and the same
  constant (`donor_mask="pairwise"` has it so);
- samples that lack a modality have no placeholder vectors: batch statistics, bandwidth and norms count owners only;
- batch norms are kept apart by modality and by use (the code shares one, as `batch_norm="shared"`); they scale without
  shifting, because no distance would notice a shift; a single owner in a training batch is normalised by the running
  statistics;
- bandwidth 1 where it cannot be estimated (one owner, or equal vectors), so a batch of one sample is finite;
- similarity divides by the number of modalities that both samples own, at least 1 (the code: by 0 where there is none);
- the threshold starts at 0.5 (OV) instead of 0.88 (ODIR), above which hardly any pair of patients lies;
- layers are those of FlexCare (post-norm, ReLU), on packed sequences instead of per sample. With
  `encoder_layer="original"` they are those of ODIR: a modality's encoder is pre-norm with ReLU and a norm after the
  last layer; the layers that read all modalities are residual sums without any norm, because the code computes their
  norms and then uses the unnormed input. Not taken over: SELU (OV), a linear map before each of the latter, a ReLU
  after these and the encoders, numbers of heads and dropout rates of their own, a norm with the unbiased standard
  deviation.

By default an eval-mode output depends on the other samples of its batch, and the harness evaluates in fixed batches.
With `evaluation="bank"` a frozen set of training samples takes the place of the batch: each prediction then depends on
its own sample alone. The two are different predictions of the same trained model; one table should hold one of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from baselines.common import LayerKind, only_head
from baselines.m3care_graph import (
    BatchScale,
    Imputation,
    Similarity,
    SupportSet,
    bandwidth,
    graph_density,
    kernel,
    prune,
)
from models.checks import check_choice, check_count, check_rate, check_weight
from models.contract import MODALITIES, Batch, Dimensions, Head, ModelEntry, Output, Packed
from models.dense import padded
from models.embeddings import UnimodalEmbeddings
from models.layers import ClsEncoder, Dropout, EncoderLayer
from models.parts import samplewise
from models.ragged import everyone, join, put
from models.search import COMMON, Choice, LogUniform, SearchSpace

DonorMask = Literal["columns", "pairwise"]
Evaluation = Literal["permutation", "bank"]
Form = Literal["odir", "ov"]
BatchNorm = Literal["separate", "shared"]
Depth = Literal["half", "one"]


@dataclass(frozen=True)
class M3CareConfig:
    """Options of M3Care.

    Attributes:
        donor_mask: whom a sample's missing vector is aggregated from; "columns": from all that own the modality;
            "pairwise": as in the authors' code, from nobody.
        evaluation: what a sample is compared with in evaluation; "permutation": the others of its batch, the batches
            being cut from a fixed permutation of the partition; "bank": a frozen set of training samples.
        support_samples: size of that set.
        form: of the similarity; "odir" or "ov" for the notebook it is taken from.
        batch_norm: "separate" by modality and use, or one "shared" by all.
        depth: layers that encode each modality before all are read together; "half" of the shared number, or "one" with
            the shared number of layers after it.
        stabiliser: weight of the stabilising term.
        threshold: initial logit of the similarity threshold (0: threshold 0.5).
        mixing: initial logit of e_m, the share of the deep kernel's constant part (2: 0.88).
        dropout: before the last linear map.
        encoder_layer: "shared": as in all models of the comparison; "original": pre-norm in a modality's encoder, no
            norm in the layers that read all modalities, as in the authors' code.
    """

    donor_mask: DonorMask = "columns"
    evaluation: Evaluation = "permutation"
    support_samples: int = 512
    form: Form = "odir"
    batch_norm: BatchNorm = "separate"
    depth: Depth = "half"
    stabiliser: float = 1e-7
    threshold: float = 0.0
    mixing: float = 2.0
    dropout: float = 0.5
    encoder_layer: LayerKind = "shared"

    def __post_init__(self) -> None:
        check_choice("donor_mask", self.donor_mask, get_args(DonorMask))
        check_choice("evaluation", self.evaluation, get_args(Evaluation))
        check_count("support_samples", self.support_samples, 1)
        check_choice("form", self.form, get_args(Form))
        check_choice("batch_norm", self.batch_norm, get_args(BatchNorm))
        check_choice("depth", self.depth, get_args(Depth))
        check_weight("stabiliser", self.stabiliser)
        check_rate("dropout", self.dropout)
        check_choice("encoder_layer", self.encoder_layer, get_args(LayerKind))


class M3Care(nn.Module):
    """M3Care for one task.

    Args:
        dimensions: shared sizes; half of `layers`, rounded down, encode each modality, the others all together; at
            least one each. heads: the task's head. config: options.

    Attributes:
        couples_samples: whether an eval-mode output depends on its batch. support_samples: 0 if so.
    """

    fixed_shapes = True

    def __init__(self, dimensions: Dimensions, heads: Sequence[Head], config: M3CareConfig) -> None:
        super().__init__()
        head = only_head(heads, "M3Care")
        d, width = dimensions, dimensions.width
        unimodal = max(d.layers // 2, 1) if config.depth == "half" else 1
        multimodal = max(d.layers - unimodal, 1) if config.depth == "half" else d.layers
        norm, joint_norm = ("pre", "none") if config.encoder_layer == "original" else ("post", "post")
        one = BatchScale(width) if config.batch_norm == "shared" else None
        norms = [(one or BatchScale(width), one or BatchScale(width)) for _ in MODALITIES]
        self.aux_weights = {"stabiliser": config.stabiliser}
        self.couples_samples = config.evaluation == "permutation"
        self.support_samples = 0 if self.couples_samples else config.support_samples
        self.embeddings = UnimodalEmbeddings(d)
        self.encoders = nn.ModuleList(ClsEncoder(width, unimodal, d.heads, d.dropout, norm=norm) for _ in MODALITIES)
        self.norms = nn.ModuleList([one] if one else [norm for pair in norms for norm in pair])
        self.similarities = nn.ModuleList(Similarity(width, config.mixing, config.form, pair) for pair in norms)
        pairwise = config.donor_mask == "pairwise"
        self.imputations = nn.ModuleList(Imputation(width, pairwise) for _ in MODALITIES)
        self.threshold = nn.Parameter(torch.tensor(float(config.threshold)))
        self.types = nn.Parameter(torch.randn(len(MODALITIES), width) * 0.02)
        self.layers = nn.ModuleList(EncoderLayer(width, d.heads, d.dropout, norm=joint_norm) for _ in range(multimodal))
        self.head = nn.Sequential(
            nn.Linear(3 * width, 2 * width), nn.ReLU(), Dropout(config.dropout), nn.Linear(2 * width, head.classes)
        )
        self.support = SupportSet(self.support_samples, width) if self.support_samples else None

    def forward(self, batch: Batch) -> Output:
        vectors, contents = samplewise(self.encode, batch.present, batch)
        if self.support is not None and not self.training:
            filled, diagnostics = self.impute_from_support(vectors, batch.present), {}
        else:
            similarity, stabiliser = self.similarity(vectors, batch.present)  # (B, B), ()
            edges = self.prune(similarity)  # (B, B)
            filled = self.impute(vectors, edges, batch.present)  # (B, D) each
            diagnostics = {"graph_density": graph_density(edges.detach())}
        patient = samplewise(self.fuse, batch.present, filled, contents)  # (B, 3D)
        logits = self.head(patient)  # (B, C)
        if self.training:
            if self.support is not None:
                self.support.mates.fill_(batch.size - 1)
            return Output(logits, {"stabiliser": stabiliser})
        return Output(logits, diagnostics={"patient": patient.detach(), **diagnostics})

    def encode(self, batch: Batch) -> tuple[list[Tensor | None], list[Packed | None]]:
        """Vectors h_m (B, D), zero for samples without m, and encoded content tokens; None where nobody owns m."""
        vectors, contents = [], []
        for encoder, tokens in zip(self.encoders, self.embeddings(batch), strict=True):
            h, content = (None, None) if tokens is None else encoder.tokens(tokens)
            vectors.append(None if h is None else put(h.new_zeros(batch.size, h.shape[1]), content.layout, h))
            contents.append(content)
        return vectors, contents

    def similarity(self, vectors: Sequence[Tensor | None], present: Tensor) -> tuple[Tensor, Tensor]:
        """S (B, B): mean of K_m over the modalities that both samples own, 0 if they share none; and the stabiliser."""
        owned = present.to(self.threshold.dtype)  # (B, M)
        total, stabiliser = owned.new_zeros(len(owned), len(owned)), owned.new_zeros(())
        for m, (module, h) in enumerate(zip(self.similarities, vectors, strict=True)):
            if h is not None:
                within, term = module(h, present[:, m])  # (B, B), ()
                total = total + within.masked_fill(~(present[:, m, None] & present[None, :, m]), 0)
                stabiliser = stabiliser + term
        return total / (owned @ owned.T).clamp(min=1), stabiliser

    def impute(self, vectors: Sequence[Tensor | None], edges: Tensor, present: Tensor) -> list[Tensor]:
        """h'_m (B, D) of each modality from h_m and S' (B, B)."""
        return [
            module(self.or_zeros(h, len(edges)), edges, present[:, m])
            for m, (module, h) in enumerate(zip(self.imputations, vectors, strict=True))
        ]

    def prune(self, similarity: Tensor) -> Tensor:
        """S' from S, of any shape."""
        return prune(similarity, torch.sigmoid(self.threshold))

    def or_zeros(self, h: Tensor | None, size: int) -> Tensor:
        """h (B, D), zeros if nobody owns the modality."""
        return self.types.new_zeros(size, self.types.shape[1]) if h is None else h

    def fuse(self, filled: Sequence[Tensor], contents: Sequence[Packed | None]) -> Tensor:
        """Reads [h'_ehr; ehr tokens; h'_cxr; cxr tokens; h'_note; note tokens]; outputs at the three h' (B, 3D).

        Args:
            filled: h'_m (B, D) of each modality, owned or imputed, always visible. contents: encoded tokens of owners.
        """
        some = next(content for content in contents if content is not None)
        one_each = everyone(len(filled[0]), some.layout)
        parts, summaries = [], []
        for m, (vector, content) in enumerate(zip(filled, contents, strict=True)):
            summaries.append(len(parts))
            parts.append(Packed(vector + self.types[m], one_each))  # (B, D)
            if content is not None:
                parts.append(content.with_values(content.values + self.types[m]))  # (N_m, D)
        joined = join(parts)
        sequences = joined.packed  # (3B + N, D)
        for layer in self.layers[:-1]:
            sequences = layer(sequences)
        readers = torch.stack([joined.where[part] for part in summaries], dim=1)  # (B, 3)
        return self.layers[-1].read_rows(sequences, readers).flatten(1)  # (B, 3D)

    @torch.no_grad()
    def remember(self, batch: Batch) -> None:
        """Takes the batch's s samples as support set: vectors, kernels' views and bandwidths, first-hop vectors.

        A sample's sum over its neighbours is scaled to the number of batch mates that it had in training, because the
        graph's rows are not normalised; the sample itself counts once, as in training.
        """
        support = self.support
        support.clear(batch.present)
        vectors, _ = self.encode(batch)
        edges = self.prune(self.similarity(vectors, batch.present)[0])  # (s, s)
        others = edges * support.share(support.owned.any(1).sum() - 1)
        edges = others.diagonal_scatter(edges.diagonal())
        for m, h in enumerate(vectors):
            if h is not None:
                owned = batch.present[:, m]
                raw, projected, _ = self.similarities[m].views(h, owned)  # (s, D) each
                hop = self.imputations[m].first_hop(edges.to(h.dtype) @ h)  # (s, D)
                support.put(m, h=h, raw=raw, projected=projected, hop=hop)
                support.bandwidths[m] = torch.stack([bandwidth(raw, owned), bandwidth(projected, owned)])

    def impute_from_support(self, vectors: Sequence[Tensor | None], present: Tensor) -> list[Tensor]:
        """h'_m (B, D) of each modality when a sample's neighbours are the support set and itself."""
        support = self.support
        if not support.filled:
            raise RuntimeError("M3Care predicts from a support set, but has been given none")
        dtype = self.threshold.dtype
        owned, known = present.to(dtype), support.owned.to(dtype)  # (B, M), (S, M)
        total = owned.new_zeros(len(owned), len(known))  # (B, S)
        for m, h in enumerate(vectors):
            if h is not None:
                raw, projected, _ = self.similarities[m].views(h, present[:, m])  # (B, D) each
                b_raw, b_projected = support.bandwidths[m]
                near = kernel(raw, support.raw[m], b_raw), kernel(projected, support.projected[m], b_projected)
                total = total + self.similarities[m].mix(*near) * owned[:, m, None] * known[:, m]
        similarity = total / (owned @ known.T).clamp(min=1)
        edges = self.prune(similarity) * support.share(support.owned.any(1).sum()).to(dtype)  # (B, S)
        itself = self.prune(torch.ones_like(self.threshold)).to(dtype)  # S_ii is 1
        filled = []
        for m, (module, vector) in enumerate(zip(self.imputations, vectors, strict=True)):
            h = self.or_zeros(vector, len(edges))  # (B, D)
            # Places without the modality hold zeros, so that only its columns count.
            own_hop = module.first_hop(edges @ support.h[m].to(dtype) + itself * h)  # (B, D)
            neighbourhood = edges @ support.hop[m].to(dtype) + itself * own_hop * owned[:, m, None]  # (B, D)
            filled.append(module.gate(module.second_hop(neighbourhood, present[:, m]), h, present[:, m]))
        return filled


ENTRY = ModelEntry(
    name="m3care",
    title="M3Care",
    config=M3CareConfig,
    build=M3Care,
    dense=padded(M3Care),
    paper="Zhang et al., M3Care: Learning with missing modalities in multimodal healthcare data, KDD 2022",
    clip_norm=20.0,
    couples_samples=True,
    divisible="stages",
    # The threshold is a logit: 0.3, 0.5 and 0.88 as similarities.
    space=COMMON | SearchSpace(options={"stabiliser": LogUniform(1e-8, 0.1), "threshold": Choice((-0.85, 0.0, 2.0))}),
)
