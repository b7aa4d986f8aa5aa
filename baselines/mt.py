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
from models.contract import MODALITIES, Batch, Dimensions, Head, ModelEntry, Output, Packed, Readout, Slots
from models.dense import padded
from models.embeddings import UnimodalEmbeddings
from models.layers import EncoderLayer
from models.layout import on_device
from models.ragged import everyone, join, row_index
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

    Attributes:
        fixed_shapes: False where subsets are trained: their number differs from batch to batch.
    """

    def __init__(self, dimensions: Dimensions, heads: Sequence[Head], config: MTConfig) -> None:
        super().__init__()
        head = only_head(heads, "MT")
        d = dimensions
        check_depth("fusion_start", config.fusion_start, d.layers)
        self.fusion_start, self.subset_tasks = config.fusion_start, config.subset_tasks
        self.fixed_shapes = config.subset_tasks == "off"
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
        if self.training and self.subset_tasks != "off":
            return self.train_subsets(contents, batch.size)
        patient = self.read(contents, self.owned_token(batch.present))  # (B, D)
        return Output(self.head(patient), diagnostics={"patient": patient.detach()})

    def owned_token(self, present: Tensor) -> Tensor:
        """Each sample's class token (B, D), that of the set of modalities which it owns: presence (B, M)."""
        if len(self.tokens) == 1:
            return self.tokens.expand(len(present), -1)
        return self.tokens.index_select(0, sum(present[:, m].long() << m for m in range(len(MODALITIES))) - 1)

    def train_subsets(self, contents: Sequence[Packed | None], size: int) -> Output:
        """The B final predictions and those of further tasks, V readings altogether."""
        if any(content is not None and isinstance(content.layout, Slots) for content in contents):
            raise ValueError("the number of subsets differs from batch to batch; MT trains them on packed batches only")
        owned = owned_sets(contents, size)
        extra_rows, extra_sets = self.draw_tasks(owned)
        rows, sets = [*range(size), *extra_rows], [*owned, *extra_sets]
        token = self.tokens.index_select(0, row_index(tuple(chosen - 1 for chosen in sets), self.tokens.device))
        logits = self.head(self.read(contents, token, (rows, sets)))  # (V, C)
        return Output(logits[:size], readouts=(_readout(logits, rows),))

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

    def read(
        self,
        contents: Sequence[Packed | None],
        token: Tensor,
        tasks: tuple[Sequence[int], Sequence[int]] | None = None,
    ) -> Tensor:
        """Normed outputs at the class tokens (V, D).

        Args:
            contents: typed tokens (N_m, D) of each modality's owners, None where nobody owns it.
            token: (V, D) class tokens.
            tasks: batch rows to read (V), the same one perhaps repeatedly, and the modalities that each reading may
                use (V); None: all rows, each with all that it owns, and V is B.
        """
        some = next(content for content in contents if content is not None)
        readers = Packed(token, everyone(len(token), some.layout))
        for layer in self.layers[: self.fusion_start]:  # streams apart; what a subset's task sees does not differ yet
            readers = layer(readers)  # (V, D): a class token alone sees itself
            contents = [None if content is None else layer(content) for content in contents]  # (N_m, D)
        if tasks is not None:
            contents = readings(contents, *tasks)  # (N_m', D)
        joined = join([readers, *(content for content in contents if content is not None)])
        sequences = joined.packed  # V sequences [class token; tokens of the set]: (N, D)
        for layer in self.layers[self.fusion_start : -1]:
            sequences = layer(sequences)
        return self.norm(self.layers[-1].read_rows(sequences, joined.where[0][:, None]).squeeze(1))  # (V, D)


def readings(contents: Sequence[Packed | None], rows: Sequence[int], sets: Sequence[int]) -> list[Packed | None]:
    """Each modality's sequences as the V readings use them: reading v is of batch row rows[v], sequence v of the result
    if the set of modalities sets[v] has it."""
    copies: list[Packed | None] = []
    for m, content in enumerate(contents):
        users = [v for v, chosen in enumerate(sets) if chosen >> m & 1]
        if content is None or not users:
            copies.append(None)
            continue
        number = {row: sequence for sequence, row in enumerate(content.layout.rows)}
        copies.append(copy_sequences(content, [number[rows[v]] for v in users], users))
    return copies


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
    dense=padded(MT),
    paper="Ma et al., Are multimodal transformers robust to missing modality?, CVPR 2022",
    divisible="samples",
    space=COMMON | SearchSpace(options={"fusion_start": Choice((0, 2, 3))}),
)
