"""MedFuse: an LSTM reads one vector per modality; absent modalities shorten the sequence.

Paper: Hayat, Geras, Shamout. MedFuse: Multi-modal fusion with clinical time-series data and chest X-ray images. MLHC
2022 (arXiv 2207.07027). Used here: the encoder of clinical series, the fusion module (an LSTM over the sequence of
unimodal vectors) and its way with missing images, a shorter sequence.

Adapted to three modalities and to the embedding layers that all models of this comparison share: the ICU series keeps
the paper's stacked LSTM; film and note are each read by a transformer encoder and projected, in place of the
ResNet-34; the modality that every sample of the task owns stands first, as the image does in the authors' radiology
task.

Differs from the authors' code in:
- three modalities: present vectors are moved together before fusion, so a missing middle modality leaves no gap (the
  code knows sequences of length one and two, and zeroes the features of missing images);
- absent films run through no encoder at all (the code encodes images of zeros, which also enter batch statistics);
- a batch of one sample is nothing special (the code squeezes the batch axis away and half repairs it);
- the dropout of the LSTM's own constructor, which does nothing in single-layer modules, is left out;
- the series' LSTM starts from torch's default values (the code: recurrent weights orthogonal, input weights Xavier,
  biases zero);
- every vector has the width of the model, so that a film's or note's projection is square; a layer norm precedes the
  classifier; logits are returned;
- one stage by default. With `pretrain_epochs` the encoders are first trained alone, as in the paper, in the first
  epochs of the same run instead of runs of their own: all at once, each through a classifier that is not used later,
  and without a choice among those epochs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from baselines.common import only_head, primary_first
from baselines.recurrent import last_state, last_state_of_present
from models.checks import check_choice, check_count, check_rate
from models.contract import MODALITIES, Batch, Dimensions, Head, ModelEntry, Output, Packed, Readout
from models.dense import padded
from models.embeddings import UnimodalEmbeddings
from models.layers import ClsEncoder, Dropout
from models.ragged import only_owned, put, rows_of, token_means

Pool = Literal["cls", "mean"]
Order = Literal["primary", "fixed"]


@dataclass(frozen=True)
class MedFuseConfig:
    """Options of MedFuse.

    Attributes:
        series_layers: stacked LSTM layers that read the ICU series.
        dropout: on the last state of the ICU series.
        pool: what a film or note becomes before its projection; "cls": the class output of a transformer encoder;
            "mean": the mean of its embedded tokens, so that its whole path is linear.
        order: of the vectors in the fusion sequence; "primary": the modality that all samples of the task own first;
            "fixed": series, film, note in every task.
        pretrain_epochs: epochs at the start that train each modality's encoder alone; fewer than there are epochs.
    """

    series_layers: int = 2
    dropout: float = 0.3
    pool: Pool = "cls"
    order: Order = "primary"
    pretrain_epochs: int = 0

    def __post_init__(self) -> None:
        check_count("series_layers", self.series_layers, 1)
        check_rate("dropout", self.dropout)
        check_choice("pool", self.pool, get_args(Pool))
        check_choice("order", self.order, get_args(Order))
        check_count("pretrain_epochs", self.pretrain_epochs, 0)


class MeanPool(nn.Module):
    """Mean token of each sequence: packed (N, D) -> (n, D)."""

    def forward(self, packed: Packed) -> Tensor:
        return token_means(packed)


class MedFuse(nn.Module):
    """MedFuse for one task.

        v_ehr = dropout(last state of the stacked LSTM over the series)
        v_m   = Linear(encoder_m(tokens of m))                              m = cxr, note
        h     = last state of the LSTM over the present v, e.g. [v_ehr, v_note]
        logit = Linear(LayerNorm(h))

    Args:
        dimensions: shared sizes; `layers` is the depth of the film and note encoders.
        heads: the task's head. config: options.

    Attributes:
        vmappable: False, because torch has no rule for an LSTM.
        fixed_shapes: False where encoders are pretrained: a step that was recorded would not turn to the next stage.
    """

    vmappable = False

    def __init__(self, dimensions: Dimensions, heads: Sequence[Head], config: MedFuseConfig) -> None:
        super().__init__()
        head = only_head(heads, "MedFuse")
        d, width = dimensions, dimensions.width
        self.order = primary_first(head.primary if config.order == "primary" else MODALITIES[0])
        self.embeddings = UnimodalEmbeddings(d)
        self.series = nn.LSTM(width, width, num_layers=config.series_layers)
        self.series_dropout = Dropout(config.dropout)
        self.encoders = nn.ModuleDict(
            {
                name: ClsEncoder(width, d.layers, d.heads, d.dropout) if config.pool == "cls" else MeanPool()
                for name in MODALITIES[1:]
            }
        )
        self.projections = nn.ModuleDict({name: nn.Linear(width, width) for name in MODALITIES[1:]})
        self.fusion = nn.LSTM(width, width)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, head.classes)
        self.pretrain_epochs, self.pretraining = config.pretrain_epochs, False
        self.fixed_shapes = not config.pretrain_epochs
        own_heads = MODALITIES if config.pretrain_epochs else ()
        self.unimodal_heads = nn.ModuleDict({name: nn.Linear(width, head.classes) for name in own_heads})

    def begin_epoch(self, epoch: int) -> bool:
        """Turns to the stage of the epoch, which are counted from 1; False as long as the fusion is not trained."""
        self.pretraining = epoch <= self.pretrain_epochs
        return not self.pretraining

    def encode(self, name: str, tokens: Packed) -> Tensor:
        """One vector for each sample that owns the modality: packed (N, D) -> (n, D)."""
        if name == "ehr":
            return self.series_dropout(last_state(self.series, tokens))
        return self.projections[name](self.encoders[name](tokens))

    def forward(self, batch: Batch) -> Output:
        embedded = self.embeddings(batch)
        vectors = [
            None if tokens is None else self.encode(name, tokens)  # (n_m, D)
            for name, tokens in zip(MODALITIES, embedded, strict=True)
        ]
        owned = [m for m in self.order if vectors[m] is not None]
        of_rows = [
            put(vectors[m].new_zeros(batch.size, vectors[m].shape[1]), embedded[m].layout, vectors[m]) for m in owned
        ]  # (B, D) each
        present = torch.stack([batch.present[:, m] for m in owned], 1)  # a list as index would be copied to the device
        patient = self.norm(last_state_of_present(self.fusion, of_rows, present))  # (B, D)
        logits = self.head(patient)  # (B, C)
        if self.training and self.pretraining:
            return Output(logits, readouts=self.read_unimodal(vectors, embedded))
        return Output(logits, diagnostics={"patient": patient.detach()})

    def read_unimodal(self, vectors: Sequence[Tensor | None], embedded: Sequence[Packed | None]) -> tuple[Readout, ...]:
        """Each modality's own prediction (n_m, C) for the samples that own it, from their vectors (n_m, D)."""
        readouts = []
        for name, vector, tokens in zip(MODALITIES, vectors, embedded, strict=True):
            if vector is not None:
                logits = self.unimodal_heads[name](vector)
                weight = only_owned(torch.ones(len(logits), device=logits.device), tokens.layout)
                readouts.append(Readout(logits, rows_of(tokens.layout, logits.device), weight))
        return tuple(readouts)


ENTRY = ModelEntry(
    name="medfuse",
    title="MedFuse",
    config=MedFuseConfig,
    build=MedFuse,
    dense=padded(MedFuse),
    paper="Hayat et al., MedFuse: Multi-modal fusion with clinical time-series data and chest X-ray images, MLHC 2022",
    divisible="samples",
)
