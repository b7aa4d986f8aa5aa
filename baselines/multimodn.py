"""MultiModN: a state is updated by one module per modality in turn; a missing modality's module is skipped.

Paper: Swamy, Satayeva, Frej, Bossy, Vogels, Jaggi, Käser, Hartley. MultiModN: Multimodal, multi-task, interpretable
modular networks. NeurIPS 2023 (arXiv 2309.14118). Used here: state s_0 and modules s_j = Enc_j(s_{j-1}, x_j),
decoders that predict from every intermediate state, skipping of missing modalities, and the loss over all stages with
denominator (number of modules + 1).

Adapted to the embedding layers that all models of this comparison share: module j first encodes its modality's tokens
by a transformer, then updates the state from [encoding; state]. Order: series, film, note. One task, so one decoder.

Differs from the authors' code in:
- a module is skipped for the very samples that lack its modality (the code skips it for the whole batch as soon as
  one sample lacks it);
- decoders give logits to the loss (the code feeds sigmoid outputs to a cross-entropy, which squashes them twice);
- a sample's prediction is that of its last executed stage, so predictions and labels always belong together (the code
  collects outputs only when the last module ran);
- the penalty on changes of the state, which the authors' clinical runs switch off, is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from baselines.common import only_head
from models.checks import check_rate
from models.contract import MODALITIES, Batch, Dimensions, Head, ModelEntry, Output, Packed, Readout
from models.embeddings import UnimodalEmbeddings
from models.layers import ClsEncoder
from models.ragged import row_index


@dataclass(frozen=True)
class MultiModNConfig:
    """Options of MultiModN.

    Attributes:
        dropout: on the input [encoding; state] of each state update.
    """

    dropout: float = 0.2

    def __post_init__(self) -> None:
        check_rate("dropout", self.dropout)


class StateUpdate(nn.Module):
    """One modality's module: tokens (N, D) and the states (n, D) of the samples that own them -> new states (n, D)."""

    def __init__(self, dimensions: Dimensions, dropout: float) -> None:
        super().__init__()
        d, width = dimensions, dimensions.width
        self.encoder = ClsEncoder(width, d.layers, d.heads, d.dropout)
        self.update = nn.Sequential(
            nn.Dropout(dropout),
            nn.Linear(2 * width, width),
            nn.ReLU(),
            nn.Linear(width, width),
            nn.ReLU(),
            nn.Linear(width, width),
            nn.ReLU(),
        )

    def forward(self, tokens: Packed, states: Tensor) -> Tensor:
        return self.update(torch.cat([self.encoder(tokens), states], dim=1))


class MultiModN(nn.Module):
    """MultiModN for one task.

    Args:
        dimensions: shared sizes; `layers` is the depth of each modality's encoder, the state is as wide as the model.
        heads: the task's head. config: options.
    """

    def __init__(self, dimensions: Dimensions, heads: Sequence[Head], config: MultiModNConfig) -> None:
        super().__init__()
        head = only_head(heads, "MultiModN")
        width = dimensions.width
        self.embeddings = UnimodalEmbeddings(dimensions)
        self.state = nn.Parameter(torch.randn(width))
        self.stages = nn.ModuleList(StateUpdate(dimensions, config.dropout) for _ in MODALITIES)
        self.decoder = nn.Sequential(
            nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, head.classes)
        )

    def forward(self, batch: Batch) -> Output:
        weight = 1 / (len(self.stages) + 1)
        state = self.state.expand(batch.size, -1)  # (B, D)
        logits = self.decoder(self.state[None]).expand(batch.size, -1)  # (B, C): stage 0 is the same for all
        everyone = row_index(tuple(range(batch.size)), batch.device)
        readouts = [_readout(logits, everyone, weight)]
        for stage, tokens in zip(self.stages, self.embeddings(batch), strict=True):
            if tokens is None:
                continue
            rows = row_index(tokens.layout.rows, batch.device)
            updated = stage(tokens, state.index_select(0, rows))  # (n, D)
            decoded = self.decoder(updated)  # (n, C)
            readouts.append(_readout(decoded, rows, weight))
            state = state.index_copy(0, rows, updated.to(state.dtype))
            logits = logits.index_copy(0, rows, decoded)
        return Output(logits, readouts=tuple(readouts), diagnostics={"patient": state.detach()})


def _readout(logits: Tensor, rows: Tensor, weight: float) -> Readout:
    return Readout(logits, rows, torch.full((len(logits),), weight, dtype=torch.float32, device=logits.device))


ENTRY = ModelEntry(
    name="multimodn",
    title="MultiModN",
    config=MultiModNConfig,
    build=MultiModN,
    paper="Swamy et al., MultiModN: Multimodal, multi-task, interpretable modular networks, NeurIPS 2023",
)
