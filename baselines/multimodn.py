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
- the weight of a sample's loss need not shrink with its number of modalities (`norm`);
- the change of the state is averaged over all samples, those whose module was skipped counting as unchanged (the code
  averages over the batch of an executed module, or skips the batch).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from baselines.common import only_head
from models.checks import check_choice, check_rate, check_weight
from models.contract import MODALITIES, Batch, Dimensions, Head, ModelEntry, Output, Packed, Readout
from models.dense import padded
from models.embeddings import UnimodalEmbeddings
from models.layers import Dropout, EncoderLayer
from models.ragged import first_tokens, only_owned, prepend, put, rows_of, take

Modality = Literal["ehr", "cxr", "note"]
Norm = Literal["all", "executed"]

STATE_PENALTY_SCALE = 0.01
"""Factor of the authors' code on the penalty of state changes."""


@dataclass(frozen=True)
class MultiModNConfig:
    """Options of MultiModN.

    Attributes:
        dropout: on the input [encoding; state] of each state update.
        order: in which the modules update the state.
        norm: what the sum of a sample's stage losses is divided by; "all": number of modules + 1, executed or not;
            "executed": its number of executed stages.
        state_penalty: weight of the mean squared change of the state, before the factor 0.01 of the authors' code.
        state_as_token: the state is the first token of a module's transformer, and its output there is the new state;
            there is then no other state update, and `dropout` has no place.
    """

    dropout: float = 0.2
    order: tuple[Modality, Modality, Modality] = MODALITIES
    norm: Norm = "all"
    state_penalty: float = 0.0
    state_as_token: bool = False

    def __post_init__(self) -> None:
        check_rate("dropout", self.dropout)
        if sorted(self.order) != sorted(MODALITIES):
            raise ValueError(f"order {', '.join(self.order)}; allowed is each of {', '.join(MODALITIES)} once")
        check_choice("norm", self.norm, get_args(Norm))
        check_weight("state_penalty", self.state_penalty)


class Stage(nn.Module):
    """One modality's module: tokens (N, D) and the states (n, D) of the samples that own them -> new states (n, D).

    s_j = MLP([e; s_{j-1}]),  e the output of a transformer at a learned first token        by default
    s_j = the output of a transformer at its first token, which is s_{j-1}                  `state_as_token`
    """

    def __init__(self, dimensions: Dimensions, config: MultiModNConfig) -> None:
        super().__init__()
        d, width = dimensions, dimensions.width
        self.token = None if config.state_as_token else nn.Parameter(torch.randn(width) * 0.02)
        self.layers = nn.ModuleList(EncoderLayer(width, d.heads, d.dropout) for _ in range(d.layers))
        self.update = None
        if not config.state_as_token:
            self.update = nn.Sequential(
                Dropout(config.dropout),
                nn.Linear(2 * width, width),
                nn.ReLU(),
                nn.Linear(width, width),
                nn.ReLU(),
                nn.Linear(width, width),
                nn.ReLU(),
            )

    def forward(self, tokens: Packed, states: Tensor) -> Tensor:
        first = states if self.token is None else self.token.expand(len(states), -1)  # (n, D)
        encoded = self.encode(first, tokens)  # (n, D)
        return encoded if self.update is None else self.update(torch.cat([encoded, states], dim=1))

    def encode(self, first: Tensor, tokens: Packed) -> Tensor:
        """Output (n, D) at the first tokens (n, D) put in front of the sequences (N, D)."""
        sequences = prepend(first[:, None], tokens).packed  # (n + N, D)
        for layer in self.layers[:-1]:
            sequences = layer(sequences)
        places = first_tokens(sequences.layout, sequences.values.device)
        return self.layers[-1].read(sequences, places[:, None]).squeeze(1)


class MultiModN(nn.Module):
    """MultiModN for one task.

        s_j    = Stage_m(s_{j-1}, tokens of m) for samples that own m = order[j], s_{j-1} for the others
        loss   = mean over samples of sum over executed stages of loss(decoder(s_j)) / (M + 1)
        answer = decoder(s_M)

    Args:
        dimensions: shared sizes; `layers` is the depth of each modality's encoder, the state is as wide as the model.
        heads: the task's head. config: options.
    """

    fixed_shapes = True

    def __init__(self, dimensions: Dimensions, heads: Sequence[Head], config: MultiModNConfig) -> None:
        super().__init__()
        head = only_head(heads, "MultiModN")
        width = dimensions.width
        self.order = tuple(MODALITIES.index(name) for name in config.order)
        self.norm = config.norm
        if config.state_penalty:
            self.aux_weights = {"state_change": STATE_PENALTY_SCALE * config.state_penalty}
        self.penalised = bool(config.state_penalty)
        self.embeddings = UnimodalEmbeddings(dimensions)
        self.state = nn.Parameter(torch.randn(width))
        self.stages = nn.ModuleList(Stage(dimensions, config) for _ in MODALITIES)
        self.decoder = nn.Sequential(
            nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, head.classes)
        )

    def forward(self, batch: Batch) -> Output:
        state = self.state.expand(batch.size, -1)  # (B, D)
        logits = self.decoder(self.state[None]).expand(batch.size, -1)  # (B, C): stage 0 is the same for all
        weight = self.stage_weights(batch.present)  # (B,)
        readouts = [Readout(logits, torch.arange(batch.size, device=batch.device), weight)]
        embedded = self.embeddings(batch)
        changes = []
        for m in self.order:
            tokens = embedded[m]
            if tokens is None:
                continue
            owners = tokens.layout
            before = take(state, owners)  # (n, D)
            updated = self.stages[m](tokens, before)  # (n, D)
            decoded = self.decoder(updated)  # (n, C)
            readouts.append(Readout(decoded, rows_of(owners, batch.device), only_owned(take(weight, owners), owners)))
            changes.append(only_owned(updated - before, owners).square().sum() / state.numel())
            state = put(state, owners, updated)
            logits = put(logits, owners, decoded)
        aux = {"state_change": sum(changes) / len(self.stages)} if self.training and self.penalised else {}
        return Output(logits, aux, tuple(readouts), {"patient": state.detach()})

    def stage_weights(self, present: Tensor) -> Tensor:
        """Weight (B,) of the loss of each of a sample's executed stages, s_0 among them."""
        executed = present.sum(1, dtype=torch.float32) + 1
        return 1 / (torch.full_like(executed, len(self.stages) + 1) if self.norm == "all" else executed)


ENTRY = ModelEntry(
    name="multimodn",
    title="MultiModN",
    config=MultiModNConfig,
    build=MultiModN,
    dense=padded(MultiModN),
    paper="Swamy et al., MultiModN: Multimodal, multi-task, interpretable modular networks, NeurIPS 2023",
    divisible="samples",
)
