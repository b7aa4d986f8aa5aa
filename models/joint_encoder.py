"""FlexCare's transformer sample by sample: one attention over [special tokens; present tokens] of each sample.

Serves every mask, also those under which modalities see each other: the released code's, which adds 1 to the scores of
forbidden pairs, and the ablations without combination tokens. Only tokens of present modalities exist; samples of
similar length share a padded group. The mask of a sample is a small table over kinds of tokens (`models/mask.py`), laid
out over the pairs of a group once a batch and used in every layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from models.contract import Layout, Packed, Slots
from models.encoder import CombinationEncoder, check_presence
from models.layers import EncoderLayer
from models.mask import Mask
from models.ragged import Grouping, everyone, grouping, join, put, rows_of, take
from models.slots import Grouping as SlotGrouping


@dataclass(frozen=True)
class JointPlan:
    """The joint sequences of a batch.

    Attributes:
        tokens: (N, D), each sample's special tokens followed by its modalities' tokens.
        layout: of the joint sequences.
        special: (B * S,) positions of the special tokens. content: for each modality (N_m,) positions of its tokens.
        grouping: groups of similar length.
        biases: for each group (n, 1, L, L), what is added to the scores of [query, key].
    """

    tokens: Tensor
    layout: Layout | Slots
    special: Tensor
    content: tuple[Tensor | None, ...]
    grouping: Grouping | SlotGrouping
    biases: tuple[Tensor, ...]


def plan_joint(readers: Tensor, streams: Sequence[Packed | None], present: Tensor, mask: Mask) -> JointPlan:
    """Joins special tokens (B, S, D) and the modalities' tokens; arguments as in `CombinationEncoder.forward`."""
    size, count = readers.shape[:2]
    check_presence(streams, size)
    owned = [stream for stream in streams if stream is not None]
    special = [Packed(readers.flatten(0, 1), everyone(size, owned[0].layout, count))] if count else []
    parts = [*special, *owned]
    numbers = [torch.arange(count, device=readers.device).repeat(size)] if count else []
    numbers += [
        torch.full((stream.layout.tokens,), count + m, device=readers.device)
        for m, stream in enumerate(streams)
        if stream is not None
    ]
    joined = join(parts)
    kinds = join([part.with_values(kind[:, None]) for part, kind in zip(parts, numbers, strict=True)]).packed.values
    plan = grouping(joined.packed.layout, readers.device)
    # (B, K, K), in the order of the joint sequences
    table = mask.bias(present, readers.dtype).index_select(0, rows_of(joined.packed.layout, readers.device))
    biases = []
    for group, kind, own in zip(plan.groups, plan.pad(kinds), plan.split(table), strict=True):
        kind = kind.squeeze(-1)  # (n, L)
        sample = torch.arange(len(kind), device=readers.device)[:, None, None]
        bias = own[sample, kind[:, :, None], kind[:, None, :]]  # (n, L, L)
        if group.allowed is not None:
            bias = bias.masked_fill(~group.allowed[:, None, :], -torch.inf)
        # Filler may be of a kind that sees nobody; nothing reads it, but a softmax without keys is NaN.
        bias = bias.masked_fill(torch.isneginf(bias).all(-1, keepdim=True), 0.0)
        biases.append(bias[:, None])
    where = iter(joined.where)
    positions = next(where) if count else kinds.new_zeros(0)
    content = tuple(None if stream is None else next(where) for stream in streams)
    return JointPlan(joined.packed.values, joined.packed.layout, positions, content, plan, tuple(biases))


class JointEncoder(CombinationEncoder):
    """`CombinationEncoder` computed sample by sample, for any mask; parameters and arguments are the same."""

    @staticmethod
    def _check(mask: Mask) -> None:
        """Every mask is possible."""

    def forward(self, readers: Tensor, streams: Sequence[Packed | None], present: Tensor) -> Tensor:
        """(B, S, D) special tokens, packed (N_m, D) tokens of each modality, (B, M) presence -> (B, S, D)."""
        plan = plan_joint(readers, streams, present, self.mask)
        tokens = plan.tokens
        for layer in self.layers[:-1]:
            tokens = self._layer(layer, tokens, plan)
        return self._last_layer(self.layers[-1], tokens, plan).view_as(readers)

    def encode_all(
        self, readers: Tensor, streams: Sequence[Packed | None], present: Tensor
    ) -> tuple[Tensor, list[Packed | None]]:
        """As `forward`, and with the encoded tokens (N_m, D) of each modality."""
        plan = plan_joint(readers, streams, present, self.mask)
        tokens = plan.tokens
        for layer in self.layers:
            tokens = self._layer(layer, tokens, plan)
        content = [
            stream and stream.with_values(tokens.index_select(0, where))
            for stream, where in zip(streams, plan.content, strict=True)
        ]
        return tokens.index_select(0, plan.special).view_as(readers), content

    def _layer(self, layer: EncoderLayer, tokens: Tensor, plan: JointPlan) -> Tensor:
        qkv, mixed = layer.qkv(tokens), []
        for padded, bias in zip(plan.grouping.pad(qkv), plan.biases, strict=True):
            q, k, v = layer.split_heads(padded, 3)  # (n, heads, L, D/heads)
            mixed.append(layer.merge_heads(layer.attend(q, k, v, bias)))
        return layer.finish(tokens, plan.grouping.unpad(mixed))

    def _last_layer(self, layer: EncoderLayer, tokens: Tensor, plan: JointPlan) -> Tensor:
        """Only special tokens are used after this layer: of all others, keys and values suffice."""
        special = tokens.index_select(0, plan.special)  # (B * S, D)
        queries = F.linear(special, layer.qkv.weight[: self.width], layer.qkv.bias[: self.width])
        queries = queries.view(-1, self.mask.specials, self.width)  # (B, S, D)
        keys_values = F.linear(tokens, layer.qkv.weight[self.width :], layer.qkv.bias[self.width :])  # (N, 2D)
        asked = plan.grouping.split(take(queries, plan.layout))
        mixed = []
        for own, padded, bias in zip(asked, plan.grouping.pad(keys_values), plan.biases, strict=True):
            (q,) = layer.split_heads(own, 1)
            k, v = layer.split_heads(padded, 2)
            mixed.append(layer.merge_heads(layer.attend(q, k, v, bias[:, :, : self.mask.specials])))
        of_rows = put(torch.zeros_like(queries), plan.layout, plan.grouping.restore(mixed))  # (B, S, D)
        return layer.finish(special, of_rows.flatten(0, 1))
