"""MT: one transformer over the tokens of all modalities; attention leaves missing modalities out.

Paper: Ma, Ren, Zhao, Testuggine, Peng. Are multimodal transformers robust to missing modality? CVPR 2022 (arXiv
2204.05454). Used here: the single-stream transformer over concatenated tokens whose attention masks a missing
modality, with early fusion. This is MT as FlexCare (Xu et al., KDD 2024) describes it in its comparison.

Adapted to three modalities and to the embedding layers that all models of this comparison share: a class token, then
the tokens of the present modalities, each with a learned vector of its modality; the output at the class token is
classified. The mask holds by construction: a sample's sequence contains its present modalities' tokens and nothing
else.

Differs from the authors' code in: no code of the authors was found. Differs from two public re-implementations in:
- absent modalities are neither computed nor visible to *any* token (one re-implementation shows tokens of zeros to
  all queries, the other hides absent modalities from the class token only);
- the class token is a registered, trained parameter, and no token position is written into the code;
- layers are those of FlexCare (post-norm, ReLU) instead of a pre-trained ViLT.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from baselines.common import only_head
from models.contract import MODALITIES, Batch, Dimensions, Head, ModelEntry, Output
from models.embeddings import UnimodalEmbeddings
from models.layers import ClsEncoder
from models.ragged import join


@dataclass(frozen=True)
class MTConfig:
    """Options of MT; depth and width are shared dimensions, and it has no others."""


class MT(nn.Module):
    """MT for one task.

    Args:
        dimensions: shared sizes; `layers` is the depth of the single stream.
        heads: the task's head. config: options.
    """

    def __init__(self, dimensions: Dimensions, heads: Sequence[Head], config: MTConfig) -> None:
        super().__init__()
        head = only_head(heads, "MT")
        d = dimensions
        self.embeddings = UnimodalEmbeddings(d)
        self.types = nn.Parameter(torch.randn(len(MODALITIES), d.width) * 0.02)
        self.encoder = ClsEncoder(d.width, d.layers, d.heads, d.dropout)
        self.norm = nn.LayerNorm(d.width)
        self.head = nn.Linear(d.width, head.classes)

    def forward(self, batch: Batch) -> Output:
        typed = [
            tokens.with_values(tokens.values + self.types[m])  # (N_m, D)
            for m, tokens in enumerate(self.embeddings(batch))
            if tokens is not None
        ]
        patient = self.norm(self.encoder(join(typed).packed))  # (B, D)
        return Output(self.head(patient), diagnostics={"patient": patient.detach()})


ENTRY = ModelEntry(
    name="mt",
    title="MT",
    config=MTConfig,
    build=MT,
    paper="Ma et al., Are multimodal transformers robust to missing modality?, CVPR 2022",
)
