"""MMF: one transformer stream per modality; the streams exchange information through a few shared bottleneck tokens.

Papers: Lee, Lee, Hahn, Hyun, Choi, Ahn, Lee. Learning missing modal electronic health records with unified
multi-modal data embedding and modality-aware attention. MLHC 2023 (arXiv 2305.02504); on top of Nagrani et al.
Attention bottlenecks for multimodal fusion. NeurIPS 2021 (arXiv 2107.00135). Used here: of the former the skip
bottleneck (bottlenecks averaged over a sample's present streams) and the read-outs over present streams; of the latter
bottleneck fusion.

    for each layer l, each present stream m:   [cls_m; x_m; b_m] <- Layer_m^l([cls_m; x_m; b])
    after each but the last:                   b <- mean of b_m over the streams present in the sample

Adapted to the embedding layers that all models of this comparison share, in place of the unified embedding. By default
the read-out is the mean of the layer-normed class outputs of the present streams, because no modality is present in
every task, and the classifier is linear; the read-outs of the released variants are options.

Differs from the authors' code in:
- all seven patterns of presence (the code: four, the series always present);
- absent streams are not computed (the code runs the image stream on images of zeros and skips only its bottlenecks);
- presence comes from the batch, not from a text length with a special meaning; any batch size works (the code fixes
  the constructor's, so that smaller last batches are dropped from evaluation);
- the variants with bottlenecks, class tokens and classifiers of their own for each pattern of presence are left out:
  with seven patterns most of those parameters would see next to no samples;
- layers are those of FlexCare (post-norm, ReLU) with padding-free sequences; no demographics. With
  `encoder_layer="original"` they are pre-norm with ReLU, as in the authors' code, and the norm before the classifier
  follows the last. (Nagrani et al.'s own layer is pre-norm with GELU.) Not taken over: attention without an output
  projection, a norm with the unbiased standard deviation, dropout in the feed-forward part only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from baselines.common import LayerKind, check_depth, only_head
from models.checks import check_choice, check_count
from models.contract import MODALITIES, Batch, Dimensions, Head, ModelEntry, Output, Packed
from models.dense import padded
from models.embeddings import UnimodalEmbeddings
from models.layers import EncoderLayer
from models.ragged import add, prepend, repeat_token, take
from models.search import COMMON, Choice, SearchSpace

ReadOut = Literal["mean", "primary", "learned", "logit_mean"]
Classifier = Literal["linear", "mlp"]


@dataclass(frozen=True)
class MMFConfig:
    """Options of MMF.

    Attributes:
        bottlenecks: shared tokens through which the streams communicate; 0 separates them until the read-out.
        fusion_start: number of layers before the bottlenecks join the streams.
        readout: which class outputs are classified; "mean": the mean over the present streams; "primary": that of the
            modality that all samples of the task own, other streams only feeding the bottlenecks; "learned": a mean
            with learned weights of the modalities, renormalised over the present ones; "logit_mean": each present one,
            the mean of the logits being the result. With a linear classifier that is the same function as "mean".
        classifier: "linear", or "mlp": two linear maps with layer norm and ReLU between, as in the authors' code.
        encoder_layer: "shared": as in all models of the comparison; "original": pre-norm with ReLU, as in the authors'
            code.
    """

    bottlenecks: int = 4
    fusion_start: int = 0
    readout: ReadOut = "mean"
    classifier: Classifier = "linear"
    encoder_layer: LayerKind = "shared"

    def __post_init__(self) -> None:
        check_count("bottlenecks", self.bottlenecks, 0)
        check_count("fusion_start", self.fusion_start, 0)
        check_choice("readout", self.readout, get_args(ReadOut))
        check_choice("classifier", self.classifier, get_args(Classifier))
        check_choice("encoder_layer", self.encoder_layer, get_args(LayerKind))


@dataclass(frozen=True)
class Stream:
    """One modality's sequences [bottlenecks; class token; content] between two layers; attention knows no order.

    Attributes:
        modality: its number. tokens: packed (N, D). layers: the modality's own.
        cls: (n,) positions of the class tokens.
        shared: (n * K,) positions of the K bottlenecks, sample by sample; None before they have joined.
    """

    modality: int
    tokens: Packed
    layers: nn.ModuleList
    cls: Tensor
    shared: Tensor | None = None

    def step(self, layer: int) -> Stream:
        """(N, D) -> (N, D)."""
        return replace(self, tokens=self.layers[layer](self.tokens))

    def joined_by(self, bottlenecks: Tensor) -> Stream:
        """Puts the K bottlenecks (K, D), the same for all samples, into every sequence: (N, D) -> (n * K + N, D)."""
        joined = prepend(bottlenecks.expand(len(self.tokens.layout), -1, -1), self.tokens)
        shared, others = joined.where
        return replace(self, tokens=joined.packed, cls=others.index_select(0, self.cls), shared=shared)

    def exchange(self, bottlenecks: Tensor) -> Stream:
        """Puts the batch's bottlenecks (B, K, D) in place of the stream's own."""
        own = take(bottlenecks, self.tokens.layout).flatten(0, 1)  # (n * K, D)
        return replace(self, tokens=self.tokens.with_values(self.tokens.values.index_copy(0, self.shared, own)))

    def bottlenecks(self) -> Tensor:
        """(n, K, D)."""
        return self.tokens.values.index_select(0, self.shared).view(len(self.cls), -1, self.tokens.values.shape[1])

    def read(self) -> Tensor:
        """Class outputs (n, D) of the last layer, whose other outputs nobody uses."""
        return self.layers[-1].read(self.tokens, self.cls[:, None]).squeeze(1)


def skip_mean(parts: Sequence[Tensor], streams: Sequence[Stream], weights: Tensor) -> Tensor:
    """Weighted mean over the modalities that a sample owns.

    Args:
        parts: (n_m, ...) of each stream.
        weights: (B, len(parts)) of each sample's parts; 0 where it has none, not all 0.

    Returns:
        (B, ...).
    """
    shares = weights / weights.sum(1, keepdim=True)
    total = parts[0].new_zeros(len(weights), *parts[0].shape[1:])
    for m, (part, stream) in enumerate(zip(parts, streams, strict=True)):
        owners = stream.tokens.layout
        share = take(shares[:, m], owners).to(part.dtype)  # (n_m,)
        total = add(total, owners, part * share.view(-1, *[1] * (part.dim() - 1)))
    return total


class MMF(nn.Module):
    """MMF for one task.

    Args:
        dimensions: shared sizes; `layers` is the depth of each of the three streams.
        heads: the task's head. config: options.
    """

    fixed_shapes = True

    def __init__(self, dimensions: Dimensions, heads: Sequence[Head], config: MMFConfig) -> None:
        super().__init__()
        head = only_head(heads, "MMF")
        d = dimensions
        check_depth("fusion_start", config.fusion_start, d.layers)
        self.fusion_start, self.readout = config.fusion_start, config.readout
        self.primary = MODALITIES.index(head.primary)
        self.requires = (head.primary,) if config.readout == "primary" else ()
        self.embeddings = UnimodalEmbeddings(d)
        self.cls = nn.Parameter(torch.randn(len(MODALITIES), d.width) * 0.02)
        self.bottlenecks = nn.Parameter(torch.randn(config.bottlenecks, d.width) * 0.02)
        norm = "pre" if config.encoder_layer == "original" else "post"
        self.streams = nn.ModuleList(
            nn.ModuleList(EncoderLayer(d.width, d.heads, d.dropout, norm=norm) for _ in range(d.layers))
            for _ in MODALITIES
        )
        self.norm = nn.LayerNorm(d.width)
        self.scores = nn.Parameter(torch.zeros(len(MODALITIES))) if config.readout == "learned" else None
        self.head = nn.Linear(d.width, head.classes)
        if config.classifier == "mlp":
            self.head = nn.Sequential(
                nn.Linear(d.width, d.width), nn.LayerNorm(d.width), nn.ReLU(), nn.Linear(d.width, head.classes)
            )

    def forward(self, batch: Batch) -> Output:
        streams = [
            self.open_stream(m, content) for m, content in enumerate(self.embeddings(batch)) if content is not None
        ]
        for layer in range(len(self.streams[0]) - 1):
            if layer == self.fusion_start:
                streams = self.join_bottlenecks(streams)
            streams = [stream.step(layer) for stream in streams]
            if streams[0].shared is not None:
                weights = self.weights(streams, batch.present)  # (B, present streams)
                common = skip_mean([stream.bottlenecks() for stream in streams], streams, weights)  # (B, K, D)
                streams = [stream.exchange(common) for stream in streams]
        if self.fusion_start == len(self.streams[0]) - 1:
            streams = self.join_bottlenecks(streams)
        return self.classify(streams, batch.present)

    def open_stream(self, m: int, content: Packed) -> Stream:
        """The m-th modality's sequences [class token; content] before the first layer: (N_m, D) -> (n + N_m, D)."""
        joined = prepend(repeat_token(self.cls[m], content.layout), content)
        return Stream(m, joined.packed, self.streams[m], joined.where[0])

    def join_bottlenecks(self, streams: Sequence[Stream]) -> list[Stream]:
        """Streams with the learned bottlenecks, if the model has any."""
        return [stream.joined_by(self.bottlenecks) if len(self.bottlenecks) else stream for stream in streams]

    def weights(self, streams: Sequence[Stream], present: Tensor) -> Tensor:
        """1 where a sample owns a stream's modality: (B, M) -> (B, len(streams))."""
        return torch.stack([present[:, stream.modality] for stream in streams], 1).to(self.cls.dtype)

    def classify(self, streams: Sequence[Stream], present: Tensor) -> Output:
        """The last layer at the class tokens, and the read-out: logits (B, C)."""
        if self.readout == "primary":
            streams = [stream for stream in streams if stream.modality == self.primary]
            if not streams or len(streams[0].cls) < len(present):
                name = MODALITIES[self.primary]
                raise ValueError(f"a sample lacks {name}; the read-out 'primary' needs it in all samples of the task")
        weights = self.weights(streams, present)
        states = [self.norm(stream.read()) for stream in streams]  # (n_m, D) each
        if self.scores is not None:
            # Each sample's own softmax over its streams: one that it lacks may score highest by any margin.
            scores = torch.stack([self.scores[stream.modality] for stream in streams]).expand_as(weights)
            weights = scores.masked_fill(weights == 0, -torch.inf).softmax(1)
        patient = skip_mean(states, streams, weights)  # (B, D)
        diagnostics = {"patient": patient.detach()}
        if self.readout == "logit_mean":
            return Output(skip_mean([self.head(state) for state in states], streams, weights), diagnostics=diagnostics)
        return Output(self.head(patient), diagnostics=diagnostics)


ENTRY = ModelEntry(
    name="mmf",
    title="MMF",
    config=MMFConfig,
    build=MMF,
    dense=padded(MMF),
    paper="Lee et al., Learning missing modal electronic health records with unified multi-modal data embedding and "
    "modality-aware attention, MLHC 2023",
    divisible="samples",
    space=COMMON | SearchSpace(options={"bottlenecks": Choice((1, 4))}),
)
