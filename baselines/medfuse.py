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
from functools import lru_cache
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from baselines.common import only_head, primary_first
from models.checks import check_choice, check_count, check_rate
from models.contract import MODALITIES, Batch, Dimensions, Head, Layout, ModelEntry, Output, Packed, Readout, Slots
from models.dense import padded
from models.embeddings import UnimodalEmbeddings
from models.layers import ClsEncoder, Dropout
from models.layout import on_device
from models.ragged import only_owned, put, rows_of, token_means
from models.slots import starts, steps

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


@lru_cache(maxsize=32)
@torch.inference_mode(False)  # cached tensors outlive the mode they are made in
def _time_major(layout: Layout, device: torch.device) -> tuple[Tensor, Tensor]:
    """How an LSTM reads packed tokens: all first tokens, all second ones, ..., up to the longest sequence's last.

    Returns:
        Position of the token to read at each step (T * n,), a sequence's last one again after its end; and where, among
        these, the last tokens themselves are (n,).
    """
    lengths, offsets = np.asarray(layout.lengths), np.asarray(layout.offsets)
    steps = np.minimum(np.arange(lengths.max())[:, None], lengths - 1)  # (T, n)
    ends = (lengths - 1) * len(lengths) + np.arange(len(lengths))
    return on_device((offsets + steps).ravel(), device), on_device(ends, device)


def _time_major_slots(layout: Slots) -> tuple[Tensor, Tensor]:
    """As `_time_major`; a slot of nobody counts as one token."""
    device = layout.used.device
    last = layout.used.clamp(min=1) - 1  # (n,)
    place = torch.minimum(steps(max(layout.lengths), device)[:, None], last)  # (T, n)
    return (starts(layout.lengths, device) + place).flatten(), last * len(layout) + steps(len(layout), device)


State = tuple[Tensor, Tensor]
"""Hidden states and cells of an LSTM, each (layers, n, D)."""


def read_steps(lstm: nn.LSTM, steps: Tensor, state: State | None = None) -> tuple[Tensor, State]:
    """(T, n, D) -> top states (T, n, D) after every step, and the last state of all layers.

    On a CPU not in half precision under autocast either: torch has such an LSTM for few CPUs only.
    """
    if steps.device.type != "cpu":
        return lstm(steps, state)
    with torch.autocast("cpu", enabled=False):
        return lstm(steps.to(lstm.weight_ih_l0.dtype), state)


def last_state(lstm: nn.LSTM, packed: Packed) -> Tensor:
    """Top layer's hidden state after each sequence's own last token: packed (N, D) -> (n, D).

    What an LSTM reads after a sequence's end changes no earlier state, so the steps run over one padded block: on CPU
    two to seven times as fast as torch's packed sequences, whose cost grows with the steps of the longest one.
    """
    if isinstance(packed.layout, Slots):
        source, ends = _time_major_slots(packed.layout)
    else:
        source, ends = _time_major(packed.layout, packed.values.device)
    block = packed.values.index_select(0, source).view(-1, len(packed.layout), packed.values.shape[1])  # (T, n, D)
    states, _ = read_steps(lstm, block)
    return states.flatten(0, 1).index_select(0, ends)


def last_state_of_present(lstm: nn.LSTM, vectors: Sequence[Tensor], present: Tensor) -> Tensor:
    """Hidden state of a one-layer LSTM after each sample's present vectors.

    An absent vector leaves hidden state and cell as they are, which is what a sequence without it does.

    Args:
        vectors: P tensors (B, D), in the order in which they are read. present: (B, P) bool.

    Returns:
        (B, D).
    """
    hidden = cell = lstm.weight_hh_l0.new_zeros(1, len(present), lstm.hidden_size)
    for vector, there in zip(vectors, present.unbind(1), strict=True):
        _, (after, cell_after) = read_steps(lstm, vector[None], (hidden, cell))
        hidden = torch.where(there[:, None], after, hidden)
        cell = torch.where(there[:, None], cell_after, cell)
    return hidden[0]


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
        patient = self.norm(last_state_of_present(self.fusion, of_rows, batch.present[:, owned]))  # (B, D)
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
    divisible=True,
)
