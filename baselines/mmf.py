"""MMF: one transformer stream per modality; the streams exchange information through a few shared bottleneck tokens.

Papers: Lee, Lee, Hahn, Hyun, Choi, Ahn, Lee. Learning missing modal electronic health records with unified
multi-modal data embedding and modality-aware attention. MLHC 2023 (arXiv 2305.02504); on top of Nagrani et al.
Attention bottlenecks for multimodal fusion. NeurIPS 2021 (arXiv 2107.00135). Used here: of the former the skip
bottleneck (bottlenecks averaged over a sample's present streams) and a read-out over present streams; of the latter
bottleneck fusion, from layer 1 on.

    for each layer l, each present stream m:   [cls_m; b_m; x_m] <- Layer_m^l([cls_m; b; x_m])
    after each but the last:                   b <- mean of b_m over the streams present in the sample

Adapted to the embedding layers that all models of this comparison share, in place of the unified embedding. The
read-out is the mean of the layer-normed class outputs of the present streams, because no modality is present in every
task.

Differs from the authors' code in:
- all seven patterns of presence (the code: four, the series always present);
- absent streams are not computed (the code runs the image stream on images of zeros and skips only its bottlenecks);
- presence comes from the batch, not from a text length with a special meaning; any batch size works (the code fixes
  the constructor's, so that smaller last batches are dropped from evaluation);
- layers are those of FlexCare with padding-free sequences; no demographics, no batch norm in the head.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from baselines.common import only_head
from models.checks import check_count
from models.contract import MODALITIES, Batch, Dimensions, Head, Layout, ModelEntry, Output, Packed
from models.embeddings import UnimodalEmbeddings
from models.layers import EncoderLayer
from models.ragged import join, repeat_token, row_index


@dataclass(frozen=True)
class MMFConfig:
    """Options of MMF.

    Attributes:
        bottlenecks: shared tokens through which the streams communicate; 0 separates them until the read-out.
    """

    bottlenecks: int = 4

    def __post_init__(self) -> None:
        check_count("bottlenecks", self.bottlenecks, 0)


@dataclass(frozen=True)
class Stream:
    """One modality's sequences [class token; bottlenecks; content] between two layers.

    Attributes:
        tokens: packed (N, D). layers: the modality's own.
        cls: (n,) positions of the class tokens. shared: (n * K,) positions of the K bottlenecks, sample by sample.
        rows: (n,) batch rows.
    """

    tokens: Packed
    layers: nn.ModuleList
    cls: Tensor
    shared: Tensor
    rows: Tensor

    def step(self, layer: int) -> Stream:
        return self._with(self.layers[layer](self.tokens))

    def exchange(self, bottlenecks: Tensor) -> Stream:
        """Puts the batch's bottlenecks (B, K, D) in place of the stream's own."""
        own = bottlenecks.index_select(0, self.rows).flatten(0, 1)  # (n * K, D)
        return self._with(self.tokens.with_values(self.tokens.values.index_copy(0, self.shared, own)))

    def bottlenecks(self) -> Tensor:
        """(n, K, D)."""
        return self.tokens.values.index_select(0, self.shared).view(len(self.rows), -1, self.tokens.values.shape[1])

    def read(self) -> Tensor:
        """Class outputs (n, D) of the last layer, whose other outputs nobody uses."""
        return self.layers[-1].read(self.tokens, self.cls[:, None]).squeeze(1)

    def _with(self, tokens: Packed) -> Stream:
        return Stream(tokens, self.layers, self.cls, self.shared, self.rows)


def skip_mean(parts: Sequence[Tensor], rows: Sequence[Tensor], present: Tensor) -> Tensor:
    """Mean over the modalities that a sample owns: parts (n_m, ...) of batch rows `rows` (n_m,) -> (B, ...)."""
    total = parts[0].new_zeros(len(present), *parts[0].shape[1:])
    for part, where in zip(parts, rows, strict=True):
        total = total.index_add(0, where, part)
    count = present.sum(1).to(total)
    return total / count.view(-1, *[1] * (total.dim() - 1))


class MMF(nn.Module):
    """MMF for one task.

    Args:
        dimensions: shared sizes; `layers` is the depth of each of the three streams.
        heads: the task's head. config: options.
    """

    def __init__(self, dimensions: Dimensions, heads: Sequence[Head], config: MMFConfig) -> None:
        super().__init__()
        head = only_head(heads, "MMF")
        d = dimensions
        self.embeddings = UnimodalEmbeddings(d)
        self.cls = nn.Parameter(torch.randn(len(MODALITIES), d.width) * 0.02)
        self.bottlenecks = nn.Parameter(torch.randn(config.bottlenecks, d.width) * 0.02)
        self.streams = nn.ModuleList(
            nn.ModuleList(EncoderLayer(d.width, d.heads, d.dropout) for _ in range(d.layers)) for _ in MODALITIES
        )
        self.norm = nn.LayerNorm(d.width)
        self.head = nn.Linear(d.width, head.classes)

    def open_stream(self, m: int, content: Packed) -> Stream:
        """The m-th modality's sequences before the first layer."""
        rows, count = content.layout.rows, len(self.bottlenecks)
        parts = [repeat_token(self.cls[m], rows), content]
        if count:
            parts.insert(1, Packed(self.bottlenecks.repeat(len(rows), 1), Layout((count,) * len(rows), rows)))
        joined = join(parts)
        shared = joined.where[1] if count else joined.where[0][:0]
        device = content.values.device
        return Stream(joined.packed, self.streams[m], joined.where[0], shared, row_index(rows, device))

    def forward(self, batch: Batch) -> Output:
        streams = [
            self.open_stream(m, content) for m, content in enumerate(self.embeddings(batch)) if content is not None
        ]
        rows = [stream.rows for stream in streams]
        for layer in range(len(self.streams[0]) - 1):
            streams = [stream.step(layer) for stream in streams]
            if len(self.bottlenecks):
                common = skip_mean([stream.bottlenecks() for stream in streams], rows, batch.present)  # (B, K, D)
                streams = [stream.exchange(common) for stream in streams]
        patient = skip_mean([self.norm(stream.read()) for stream in streams], rows, batch.present)  # (B, D)
        return Output(self.head(patient), diagnostics={"patient": patient.detach()})


ENTRY = ModelEntry(
    name="mmf",
    title="MMF",
    config=MMFConfig,
    build=MMF,
    paper="Lee et al., Learning missing modal electronic health records with unified multi-modal data embedding and "
    "modality-aware attention, MLHC 2023",
)
