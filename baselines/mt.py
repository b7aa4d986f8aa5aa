"""MT: one transformer over the tokens of all modalities; attention leaves missing modalities out.

Paper: Ma, Ren, Zhao, Testuggine, Peng. Are multimodal transformers robust to missing modality? CVPR 2022 (arXiv
2204.05454). Used here: the single-stream transformer over concatenated tokens whose attention masks a missing
modality; and, as options, the paper's two further parts: training on the task of every subset of the modalities, each
with a class token of its own, and a choice of the layer from which on modalities may attend to one another (searched
for by gradient in the paper, an option to be searched over here). The defaults, early fusion and the one task of the
modalities that are there, are MT as FlexCare (Xu et al., KDD 2024) describes it in its comparison.

Adapted to three modalities and to the embedding layers that all models of this comparison share: a class token, then
the tokens of the present modalities, each with a learned vector of its modality; the output at the class token is
classified. The mask holds by construction: a sequence contains the tokens of its own modalities and nothing else.

Differs from the authors' code in: no code of the authors was found. Differs from two public re-implementations in:
- absent modalities are neither computed nor visible to *any* token (one re-implementation shows tokens of zeros to
  all queries, the other hides absent modalities from the class token only);
- the task of a subset is a sequence of its own, so that no token of it has ever seen another modality, not even in an
  earlier layer: the prediction is exactly that of a sample which owns the subset and nothing else;
- the class tokens are registered, trained parameters, and no token position is written into the code;
- layers are those of FlexCare (post-norm, ReLU) instead of a pre-trained ViLT. With `encoder_layer="original"` they are
  of ViLT's kind (Kim, Son, Kim, ICML 2021), on which the paper builds: pre-norm, GELU (exact), a norm after the last.
  Nothing else becomes ViLT's: depth, heads, dropout and random initial values stay those of all models.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from baselines.common import LayerKind, check_depth, copy_sequences, only_head
from models.checks import check_choice, check_count
from models.contract import MODALITIES, Batch, Dimensions, Head, ModelEntry, Output, Packed, Readout
from models.embeddings import UnimodalEmbeddings
from models.layers import EncoderLayer
from models.ragged import first_tokens, join, on_device, row_index, unit_layout
from models.search import COMMON, Choice, SearchSpace

SubsetTasks = Literal["off", "all", "one"]
SUBSETS = 2 ** len(MODALITIES) - 1
"""Non-empty sets of modalities, each a number from 1 whose bit m says whether modality m is in it."""


@dataclass(frozen=True)
class MTConfig:
    """Options of MT.

    Attributes:
        fusion_start: number of layers in which tokens see their own modality only, and the class token itself only; all
            later layers are open. 0: early fusion.
        subset_tasks: which tasks are trained beside the prediction from all that a sample owns; "off": none; "all":
            those of all other non-empty subsets of what it owns; "one": of one such subset, drawn anew in each step. A
            sample's tasks weigh the same and together as much as one.
        encoder_layer: "shared": as in all models of the comparison; "original": pre-norm with GELU, as in ViLT.
    """

    fusion_start: int = 0
    subset_tasks: SubsetTasks = "off"
    encoder_layer: LayerKind = "shared"

    def __post_init__(self) -> None:
        check_count("fusion_start", self.fusion_start, 0)
        check_choice("subset_tasks", self.subset_tasks, get_args(SubsetTasks))
        check_choice("encoder_layer", self.encoder_layer, get_args(LayerKind))


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
        check_depth("fusion_start", config.fusion_start, d.layers)
        self.fusion_start, self.subset_tasks = config.fusion_start, config.subset_tasks
        self.embeddings = UnimodalEmbeddings(d)
        self.types = nn.Parameter(torch.randn(len(MODALITIES), d.width) * 0.02)
        tokens = 1 if config.subset_tasks == "off" else SUBSETS
        self.tokens = nn.Parameter(torch.randn(tokens, d.width) * 0.02)
        kind = {"norm": "pre", "activation": "gelu"} if config.encoder_layer == "original" else {}
        self.layers = nn.ModuleList(EncoderLayer(d.width, d.heads, d.dropout, **kind) for _ in range(d.layers))
        self.norm = nn.LayerNorm(d.width)
        self.head = nn.Linear(d.width, head.classes)

    def forward(self, batch: Batch) -> Output:
        contents = [
            None if tokens is None else tokens.with_values(tokens.values + self.types[m])  # (N_m, D)
            for m, tokens in enumerate(self.embeddings(batch))
        ]
        owned = owned_sets(contents, batch.size)
        rows, sets = list(range(batch.size)), list(owned)
        if self.training:
            extra_rows, extra_sets = self.draw_tasks(owned)
            rows, sets = rows + extra_rows, sets + extra_sets
        patient = self.read(contents, rows, sets)  # (V, D): B final predictions, then those of further tasks
        logits = self.head(patient)  # (V, C)
        final = logits[: batch.size]  # (B, C)
        if self.training and self.subset_tasks != "off":
            return Output(final, readouts=(_readout(logits, rows),))
        return Output(final, diagnostics={"patient": patient.detach()})

    def draw_tasks(self, owned: Sequence[int]) -> tuple[list[int], list[int]]:
        """Batch rows and modality sets of the tasks to train beside the final predictions."""
        rows, sets = [], []
        for row, own in enumerate(owned):
            proper = [subset for subset in range(1, own) if subset & own == subset]
            if self.subset_tasks == "one" and proper:
                proper = [proper[int(torch.randint(len(proper), ()))]]
            if self.subset_tasks != "off":
                rows += [row] * len(proper)
                sets += proper
        return rows, sets

    def read(self, contents: Sequence[Packed | None], rows: Sequence[int], sets: Sequence[int]) -> Tensor:
        """Normed outputs at the class tokens (V, D).

        Args:
            contents: typed tokens (N_m, D) of each modality's owners, None where nobody owns it.
            rows: (V,) batch rows to read, the same one perhaps repeatedly. sets: (V,) modalities each reading may use.
        """
        device = self.tokens.device
        which = [0 if len(self.tokens) == 1 else chosen - 1 for chosen in sets]
        token = self.tokens.index_select(0, row_index(tuple(which), device))  # (V, D)
        readers = Packed(token, unit_layout(range(len(rows))))
        for layer in self.layers[: self.fusion_start]:  # streams apart; what a subset's task sees does not differ yet
            readers = layer(readers)  # (V, D): a class token alone sees itself
            contents = [None if content is None else layer(content) for content in contents]  # (N_m, D)
        parts = [readers]
        for m, content in enumerate(contents):
            if content is not None:
                number = {row: sequence for sequence, row in enumerate(content.layout.rows)}
                users = [v for v, chosen in enumerate(sets) if chosen >> m & 1]
                parts.append(copy_sequences(content, [number[rows[v]] for v in users], users))  # (N_m', D)
        sequences = join(parts).packed  # V sequences [class token; tokens of the set]: (N, D)
        for layer in self.layers[self.fusion_start : -1]:
            sequences = layer(sequences)
        first = first_tokens(sequences.layout, device)
        return self.norm(self.layers[-1].read(sequences, first[:, None]).squeeze(1))  # (V, D)


def owned_sets(contents: Sequence[Packed | None], size: int) -> list[int]:
    """The set of modalities that each batch row owns, as a number."""
    owned = [0] * size
    for m, content in enumerate(contents):
        for row in () if content is None else content.layout.rows:
            owned[row] |= 1 << m
    return owned


def _readout(logits: Tensor, rows: Sequence[int]) -> Readout:
    """All tasks of the batch (V, C); a row's tasks share a weight of one."""
    tasks = Counter(rows)
    weights = torch.tensor([1 / tasks[row] for row in rows], dtype=torch.float32)
    return Readout(logits, row_index(tuple(rows), logits.device), on_device(weights, logits.device))


ENTRY = ModelEntry(
    name="mt",
    title="MT",
    config=MTConfig,
    build=MT,
    paper="Ma et al., Are multimodal transformers robust to missing modality?, CVPR 2022",
    divisible=True,
    space=COMMON | SearchSpace(options={"fusion_start": Choice((0, 2, 3))}),
)
