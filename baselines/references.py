"""Simple references: each modality alone, and the average of the three. They tell what the deep fusions earn.

Not from a paper. Everything is shared with the models of the comparison: embedding layers, encoder layers, depth,
width, training. What is missing is fusion: no part of these models ever sees two modalities of a sample together.

    v_m     = LayerNorm(transformer over [class token; tokens of m], output at the class token)
    logit_m = W_m v_m + b_m                         for samples that own m
    logit_m = b_m                                   for samples that do not: `ehr-only`, `cxr-only`, `note-only`
    logit   = mean of logit_m over the modalities that a sample owns                            `late-fusion`

A model of one modality answers for a sample without it as well, so that all models are scored on the same samples. It
can only give one and the same answer, b_m. Nothing else holds it: v_m ends with a layer norm whose own shift can carry
whatever constant the owners need, so training takes b_m to the prior of the samples without m. Where all samples of a
task own m, as with the series in five of the tasks, the case does not occur.

Ties make one metric flatter such a model: the area under a precision-recall curve joined by straight lines counts equal
scores as if their order could be chosen, and gives constant predictions (1 + prevalence) / 2. Average precision gives
them the prevalence; of samples that mostly lack a modality, it is the one to read.

In late fusion each modality's predictor is trained by its own loss, not by that of the average; a sample's losses weigh
the same and together as much as one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from baselines.common import only_head
from models.contract import MODALITIES, Batch, Dimensions, Head, ModelEntry, Output, Packed, Readout
from models.dense import padded
from models.embeddings import UnimodalEmbeddings
from models.layers import ClsEncoder
from models.ragged import add, only_owned, put, rows_of, take


@dataclass(frozen=True)
class ReferenceConfig:
    """Options of the references; depth and width are shared dimensions, and they have no others."""


class Reader(nn.Module):
    """Reads one modality: packed (N, D) -> (n, D), one vector for each sample that owns it."""

    def __init__(self, dimensions: Dimensions) -> None:
        super().__init__()
        d = dimensions
        self.encoder = ClsEncoder(d.width, d.layers, d.heads, d.dropout)
        self.norm = nn.LayerNorm(d.width)

    def forward(self, packed: Packed) -> Tensor:
        return self.norm(self.encoder(packed))


class Unimodal(nn.Module):
    """One modality alone, for one task.

    Args:
        modality: its name. dimensions: shared sizes. heads: the task's head. config: has no options.
    """

    fixed_shapes = True

    def __init__(self, modality: str, dimensions: Dimensions, heads: Sequence[Head], config: ReferenceConfig) -> None:
        super().__init__()
        head = only_head(heads, f"{modality}-only")
        self.modality = MODALITIES.index(modality)
        self.embeddings = UnimodalEmbeddings(dimensions, (modality,))
        self.reader = Reader(dimensions)
        self.head = nn.Linear(dimensions.width, head.classes)

    def forward(self, batch: Batch) -> Output:
        tokens = self.embeddings(batch)[self.modality]  # (N, D)
        patient = self.head.weight.new_zeros(batch.size, self.head.in_features)  # (B, D): 0 leaves b_m of the head
        if tokens is not None:
            vectors = self.reader(tokens)  # (n, D)
            patient = put(patient.to(vectors.dtype), tokens.layout, vectors)
        return Output(self.head(patient), diagnostics={"patient": patient.detach()})


class LateFusion(nn.Module):
    """The mean of the logits of the modalities that a sample owns, for one task.

    Args:
        dimensions: shared sizes. heads: the task's head. config: has no options.
    """

    fixed_shapes = True

    def __init__(self, dimensions: Dimensions, heads: Sequence[Head], config: ReferenceConfig) -> None:
        super().__init__()
        head = only_head(heads, "Late fusion")
        self.embeddings = UnimodalEmbeddings(dimensions)
        self.readers = nn.ModuleList(Reader(dimensions) for _ in MODALITIES)
        self.heads = nn.ModuleList(nn.Linear(dimensions.width, head.classes) for _ in MODALITIES)

    def forward(self, batch: Batch) -> Output:
        share = 1 / batch.present.sum(1, dtype=torch.float32)  # (B,)
        logits, readouts = None, []
        for reader, head, tokens in zip(self.readers, self.heads, self.embeddings(batch), strict=True):
            if tokens is None:
                continue
            own = head(reader(tokens))  # (n_m, C)
            weight = only_owned(take(share, tokens.layout), tokens.layout)  # (n_m,)
            readouts.append(Readout(own, rows_of(tokens.layout, batch.device), weight))
            if logits is None:
                logits = own.new_zeros(batch.size, own.shape[1])  # (B, C)
            logits = add(logits, tokens.layout, own * weight[:, None].to(own.dtype))
        return Output(logits, readouts=tuple(readouts))


ENTRIES = (
    *(
        ModelEntry(
            name=f"{modality}-only",
            title=title,
            config=ReferenceConfig,
            build=partial(Unimodal, modality),
            dense=padded(partial(Unimodal, modality)),
            paper="reference: one modality, shared embeddings and encoder",
            divisible="samples",
            group="reference",
            reads=(modality,),
        )
        for modality, title in zip(MODALITIES, ("Series only", "Film only", "Note only"), strict=True)
    ),
    ModelEntry(
        name="late-fusion",
        title="Late fusion",
        config=ReferenceConfig,
        build=LateFusion,
        dense=padded(LateFusion),
        paper="reference: mean of the predictions from each modality alone",
        divisible="samples",
        group="reference",
    ),
)
