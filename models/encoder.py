"""FlexCare's transformer over combination tokens, computed as streams and readers.

The paper runs one transformer over [task token; seven combination tokens; tokens of all modalities] under a mask:

    query \\ key          task   combination c'                        tokens of modality m
    task                 yes    of several modalities: yes;           if present
                                of one: if that modality is present
    combination c        no     itself only                           if m is in c and present
    token of m           no     no                                    the same m only

So the tokens of a modality never look outside their own sequence: each present sequence is a *stream* of plain
self-attention, absent ones do not exist. What crosses modalities are eight *readers* a sample, the task token and the
combination tokens, which are seen by no stream. A reader's softmax runs over several sequences; it is put together from
one partial softmax for each sequence and their log-sum-exps, which is exact. `models/dense_encoder.py` holds the same
function as one dense masked attention, for reading and for tests.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.contract import MODALITIES, Layout, Packed
from models.layers import EncoderLayer
from models.ragged import Group, Grouping, grouping, on_device

COMBINATIONS = (
    (True, False, False),
    (False, True, False),
    (False, False, True),
    (True, True, False),
    (True, False, True),
    (False, True, True),
    (True, True, True),
)
"""Members of each combination, in the order of `MODALITIES`; the three single modalities come first, in that order."""

SINGLES = len(MODALITIES)
"""Number of modalities M, and so of combinations of a single one."""

READERS = 1 + len(COMBINATIONS)
"""Readers of a sample: the task token at 0, combination c at 1 + c."""

READERS_OF = tuple((0, *(1 + c for c, members in enumerate(COMBINATIONS) if members[m])) for m in range(SINGLES))
"""Readers that see the tokens of each modality: the task token and the combinations that contain it."""


def complete_combinations(present: Tensor) -> Tensor:
    """(B, M) presence -> (B, 7) bool, True where all members of a combination are present."""
    return (present[:, None, :] | ~_members(present.device)).all(-1)


@lru_cache(maxsize=8)
@torch.inference_mode(False)
def _members(device: torch.device) -> Tensor:
    return on_device(COMBINATIONS, device)


def readers_seen_by_readers(present: Tensor) -> Tensor:
    """(B, M) presence -> (B, 8, 8) bool, [query, key]: the mask's corner of task and combination tokens."""
    size = present.shape[0]
    seen = torch.eye(READERS, dtype=torch.bool, device=present.device).repeat(size, 1, 1)
    seen[:, 0, 1 : 1 + SINGLES] = present
    seen[:, 0, 1 + SINGLES :] = True
    return seen


@dataclass(frozen=True)
class ReadingPlan:
    """Which reader reads which sequence, computed once a batch and used in every layer.

    Q = 5 readers read each of the S sequences (all modalities' together); sequences stand in the order of the groups.

    Attributes:
        layout: all modalities' sequences. grouping: their groups of similar length. sizes: sequences in each group.
        asking: (S * Q,) reader, among B * 8, behind each query.
        target: (S * Q,) place of each partial result among B * 8 * M.
        hidden: (B, 1, 8, 8) bool, True where one reader must not see another.
    """

    layout: Layout
    grouping: Grouping
    sizes: tuple[int, ...]
    asking: Tensor
    target: Tensor
    hidden: Tensor


def plan_reading(streams: Sequence[Packed | None], present: Tensor) -> ReadingPlan:
    """The plan for the present sequences of each modality (None: nobody owns it) and the presence flags (B, M).

    Raises:
        ValueError: if a sample owns no modality at all.
    """
    owned = [(m, stream.layout) for m, stream in enumerate(streams) if stream is not None]
    rows = tuple(row for _, layout in owned for row in layout.rows)
    modality = [m for m, layout in owned for _ in layout.rows]
    absent = sorted(set(range(present.shape[0])) - set(rows))
    if absent:
        raise ValueError(f"samples at batch rows {absent} own no modality; each needs one of {', '.join(MODALITIES)}")
    layout = Layout(tuple(length for _, part in owned for length in part.lengths), rows)
    device = present.device
    groups = grouping(layout, device)
    order = torch.cat([group.sequences for group in groups.groups])
    asking = [[row * READERS + reader for reader in READERS_OF[m]] for m, part in owned for row in part.rows]
    target = [[reader * SINGLES + m for reader in five] for five, m in zip(asking, modality, strict=True)]
    both = on_device([asking, target], device).index_select(1, order)  # (2, S, Q)
    return ReadingPlan(
        layout=layout,
        grouping=groups,
        sizes=tuple(len(group.sequences) for group in groups.groups),
        asking=both[0].flatten(),
        target=both[1].flatten(),
        hidden=~readers_seen_by_readers(present)[:, None],
    )


def _full_precision(values: Tensor) -> Tensor:
    return values.float() if values.dtype in (torch.bfloat16, torch.float16) else values


class CombinationEncoder(nn.Module):
    """The encoder as streams and readers.

    Args:
        width: D. layers: number of layers. heads, dropout: of each.
    """

    def __init__(self, width: int, layers: int, heads: int, dropout: float) -> None:
        super().__init__()
        if layers < 1:
            raise ValueError(f"layers {layers}; an encoder needs at least one")
        self.width = width
        self.layers = nn.ModuleList(EncoderLayer(width, heads, dropout) for _ in range(layers))

    def forward(self, readers: Tensor, streams: Sequence[Packed | None], present: Tensor) -> Tensor:
        """Encodes the readers.

        Args:
            readers: (B, 8, D) task and combination tokens.
            streams: embedded tokens (N_m, D) of each modality's present samples; None where nobody owns it.
            present: (B, M) bool.

        Returns:
            (B, 8, D): z_task at 0, z_c at 1 + c.
        """
        plan = plan_reading(streams, present)
        # One matrix of all tokens, so that all but attention is one product a layer: N stream tokens, B * 8 readers.
        tokens = torch.cat([*(stream.values for stream in streams if stream is not None), readers.flatten(0, 1)])
        for layer in self.layers[:-1]:
            tokens = self._layer(layer, tokens, plan)
        return self._last_layer(self.layers[-1], tokens, plan).view_as(readers)

    def _layer(self, layer: EncoderLayer, tokens: Tensor, plan: ReadingPlan) -> Tensor:
        of_streams, of_readers = layer.qkv(tokens).split([plan.layout.tokens, len(tokens) - plan.layout.tokens])
        questions = _questions(layer, of_readers, plan)
        mixed, partials = [], []
        for group, question in zip(plan.grouping.groups, questions, strict=True):
            q, k, v = layer.split_heads(group.pad(of_streams), 3)
            mixed.append(layer.merge_heads(layer.attend(q, k, v, group)))
            partials.append(_read_group(layer, question, k, v, group))
        read = _merge(layer, of_readers, partials, plan)
        return layer.finish(tokens, torch.cat([plan.grouping.unpad(mixed), read]))

    def _last_layer(self, layer: EncoderLayer, tokens: Tensor, plan: ReadingPlan) -> Tensor:
        """Streams are not used after this layer: only their keys and values are computed."""
        streams, readers = tokens.split([plan.layout.tokens, len(tokens) - plan.layout.tokens])
        of_readers = layer.qkv(readers)
        keys_values = F.linear(streams, layer.qkv.weight[self.width :], layer.qkv.bias[self.width :])
        partials = []
        for group, question in zip(plan.grouping.groups, _questions(layer, of_readers, plan), strict=True):
            k, v = layer.split_heads(group.pad(keys_values), 2)
            partials.append(_read_group(layer, question, k, v, group))
        return layer.finish(readers, _merge(layer, of_readers, partials, plan))


def _questions(layer: EncoderLayer, of_readers: Tensor, plan: ReadingPlan) -> tuple[Tensor, ...]:
    """Queries of the readers (B * 8, 3D) for each group: (n, heads, Q, D/heads), scaled."""
    asked = of_readers[:, : layer.width].index_select(0, plan.asking).view(-1, len(READERS_OF[0]), layer.width)
    (heads,) = layer.split_heads(_full_precision(asked) * (layer.width // layer.heads) ** -0.5, 1)
    return heads.split(plan.sizes)


def _read_group(layer: EncoderLayer, q: Tensor, k: Tensor, v: Tensor, group: Group) -> tuple[Tensor, Tensor]:
    """Readers' attention within sequences: log-sum-exp of scores (n, heads, Q, 1), mixed values (n, heads, Q, D/heads).

    Dropout falls on the probabilities within the sequence. Times the sequence's weight in `_merge`, these are the
    probabilities of the whole row, so it is dropout on the whole row.
    """
    with torch.autocast(q.device.type, enabled=False):
        scores = q @ _full_precision(k).transpose(-1, -2)
        if group.allowed is not None:
            scores = scores.masked_fill(~group.allowed[:, None, None, :], -torch.inf)
        total = torch.logsumexp(scores, -1, keepdim=True)
        return total, layer.drop(torch.exp(scores - total)) @ _full_precision(v)


def _merge(
    layer: EncoderLayer, of_readers: Tensor, partials: Sequence[tuple[Tensor, Tensor]], plan: ReadingPlan
) -> Tensor:
    """Puts the readers' softmax together: their queries, keys, values (B * 8, 3D) and partial results -> (B * 8, D)."""
    size = plan.hidden.shape[0]
    q, k, v = layer.split_heads(_full_precision(of_readers).view(size, READERS, -1), 3)  # (B, heads, 8, D/heads)
    with torch.autocast(q.device.type, enabled=False):
        among = (q @ k.transpose(-1, -2)) * q.shape[-1] ** -0.5
        among = among.masked_fill(plan.hidden, -torch.inf)  # (B, heads, 8, 8)
        totals = torch.cat([total for total, _ in partials]).transpose(1, 2).flatten(0, 1)  # (S * Q, heads, 1)
        mixes = torch.cat([mix for _, mix in partials]).transpose(1, 2).flatten(0, 1)  # (S * Q, heads, D/heads)
        places = size * READERS * SINGLES
        totals = totals.new_full((places, *totals.shape[1:]), -torch.inf).index_copy(0, plan.target, totals)
        mixes = mixes.new_zeros(places, *mixes.shape[1:]).index_copy(0, plan.target, mixes)
        totals = totals.view(size, READERS, SINGLES, -1).permute(0, 3, 1, 2)  # (B, heads, 8, M)
        mixes = mixes.view(size, READERS, SINGLES, layer.heads, -1).permute(0, 3, 1, 2, 4)
        # Each reader sees itself, so no row is without a key.
        weights = torch.cat([among, totals], -1).softmax(-1)
        of_reader, of_sequence = weights.split([READERS, SINGLES], -1)
        mixed = layer.drop(of_reader) @ v + (of_sequence.unsqueeze(-1) * mixes).sum(-2)  # (B, heads, 8, D/heads)
    return layer.merge_heads(mixed).flatten(0, 1)
