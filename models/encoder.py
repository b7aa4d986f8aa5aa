"""FlexCare's transformer over combination tokens, computed as streams and readers.

The paper runs one transformer over [task token; seven combination tokens; tokens of all modalities] under the mask of
`models/mask.py`. Where that mask is enforced, the tokens of a modality never look outside their own sequence: each
present sequence is a *stream* of plain self-attention, absent ones do not exist. What crosses modalities are eight
*readers* a sample, the task token and the combination tokens, which are seen by no stream. A reader's softmax runs over
several sequences; it is put together from one partial softmax for each sequence and their log-sum-exps, which is exact.
`models/dense_encoder.py` holds the same function as one dense masked attention, for reading and for tests;
`models/joint_encoder.py` holds it sample by sample, for masks under which modalities do see each other.

S special tokens a sample are the readers: 8, 7 without a task token, 1 without combination tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models import fused_attention
from models.contract import MODALITIES, Layout, Packed, Slots
from models.layers import AttentionScale, EncoderLayer, LayerInit, encoder_layers, full_precision
from models.layout import index_cache, on_device
from models.mask import SINGLES, Mask
from models.ragged import Group, Grouping, apart, grouping, rows_of, rows_or_beyond, together
from models.slots import Group as SlotGroup
from models.slots import Grouping as SlotGrouping


@dataclass(frozen=True)
class ReadingPlan:
    """Which reader reads which sequence, computed once a batch and used in every layer.

    Q readers (5, or 4 without a task token; 1 without combination tokens) read each of the n sequences (all modalities'
    together); sequences stand in the order of the groups.

    Attributes:
        readers: S. per_sequence: Q.
        layout: all modalities' sequences. grouping: their groups of similar length. sizes: sequences in each group.
        asking: (n * Q,) reader, among B * S, behind each query.
        target: (n * Q,) place of each partial result among (B + 1) * S * M; the last row is that of nobody.
        hidden: (B, 1, S, S) bool, True where one reader must not see another.
    """

    readers: int
    per_sequence: int
    layout: Layout | Slots
    grouping: Grouping | SlotGrouping
    sizes: tuple[int, ...]
    asking: Tensor
    target: Tensor
    hidden: Tensor


def check_presence(streams: Sequence[Packed | None], size: int) -> None:
    """Refuses a packed batch of `size` samples one of which has no sequence at all.

    Of a fixed batch the device alone knows; who puts samples into slots sees to it.
    """
    layouts = [stream.layout for stream in streams if stream is not None]
    if any(isinstance(layout, Slots) for layout in layouts):
        return
    absent = set(range(size)).difference(*(layout.rows for layout in layouts))
    if absent:
        rows = sorted(absent)
        raise ValueError(f"samples at batch rows {rows} own no modality; each needs one of {', '.join(MODALITIES)}")


def plan_reading(layout: Layout | Slots, counts: tuple[int, ...], present: Tensor, mask: Mask) -> ReadingPlan:
    """The plan for the present sequences of all modalities together, `counts` of each, and presence flags (B, M)."""
    device, size = present.device, mask.specials
    readers, places = _readers(mask, counts, device)  # (n, Q) each
    groups = grouping(layout, device)
    asking = groups.split(rows_of(layout, device)[:, None] * size + readers)
    target = groups.split(rows_or_beyond(layout, device)[:, None] * (size * SINGLES) + places)
    return ReadingPlan(
        readers=size,
        per_sequence=readers.shape[1],
        layout=layout,
        grouping=groups,
        sizes=tuple(map(len, asking)),
        asking=torch.cat(asking).flatten(),
        target=torch.cat(target).flatten(),
        hidden=~mask.visible(present)[:, None, :size, :size],
    )


@index_cache(256)
def _readers(mask: Mask, counts: tuple[int, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """(n, Q) readers of each sequence, `counts` sequences of each modality; and their places among S * M."""
    modality = [m for m, count in enumerate(counts) for _ in range(count)]
    readers = on_device([mask.readers_of(m) for m in modality], device)
    return readers, readers * SINGLES + on_device(modality, device)[:, None]


class CombinationEncoder(nn.Module):
    """The encoder as streams and readers.

    Args:
        width: D. layers: number of layers. heads, dropout, scale: of each. init: of all layers together.
        mask: the special tokens and who sees whom.
    """

    def __init__(
        self,
        width: int,
        layers: int,
        heads: int,
        dropout: float,
        *,
        mask: Mask = Mask(),
        scale: AttentionScale = "head",
        init: LayerInit = "independent",
    ) -> None:
        super().__init__()
        self._check(mask)
        self.width, self.mask = width, mask
        self.layers = encoder_layers(width, layers, heads, dropout, scale, init)

    @staticmethod
    def _check(mask: Mask) -> None:
        if not mask.separates:
            raise ValueError(f"{mask}: streams and readers need special tokens and an enforced mask between modalities")

    def forward(self, readers: Tensor, streams: Sequence[Packed | None], present: Tensor) -> Tensor:
        """Encodes the readers.

        Args:
            readers: (B, S, D) task and combination tokens.
            streams: embedded tokens (N_m, D) of each modality's present samples; None where nobody owns it.
            present: (B, M) bool.

        Returns:
            (B, S, D): z_task at 0, then z_c.
        """
        tokens, plan = self._begin(readers, streams, present)
        for layer in self.layers[:-1]:
            tokens = self._layer(layer, tokens, plan)
        return self._last_layer(self.layers[-1], tokens, plan).view_as(readers)

    def encode_all(
        self, readers: Tensor, streams: Sequence[Packed | None], present: Tensor
    ) -> tuple[Tensor, list[Packed | None]]:
        """As `forward`, and with the encoded tokens (N_m, D) of each modality."""
        tokens, plan = self._begin(readers, streams, present)
        for layer in self.layers:
            tokens = self._layer(layer, tokens, plan)
        of_streams, encoded = tokens.split([plan.layout.tokens, len(tokens) - plan.layout.tokens])
        content = iter(apart(of_streams, plan.layout, [stream for stream in streams if stream is not None]))
        return encoded.view_as(readers), [stream and stream.with_values(next(content)) for stream in streams]

    def _begin(self, readers: Tensor, streams: Sequence[Packed | None], present: Tensor) -> tuple[Tensor, ReadingPlan]:
        """All tokens as one matrix, so that all but attention is one product a layer: N of the streams, then B * S
        readers; and the plan.

        Raises:
            ValueError: a sample owns no modality at all.
        """
        check_presence(streams, present.shape[0])
        owned = together([stream for stream in streams if stream is not None])
        counts = tuple(0 if stream is None else len(stream.layout) for stream in streams)
        return torch.cat([owned.values, readers.flatten(0, 1)]), plan_reading(owned.layout, counts, present, self.mask)

    def _layer(self, layer: EncoderLayer, tokens: Tensor, plan: ReadingPlan) -> Tensor:
        of_streams, of_readers = layer.qkv(tokens).split([plan.layout.tokens, len(tokens) - plan.layout.tokens])
        if fused_attention.fits(plan.layout, of_streams, layer.width // layer.heads):
            mixed, *partial = fused_attention.attend_and_read_within(
                of_streams, _asked(layer, of_readers, plan), plan.layout, layer.heads, layer.scale, layer.dropping
            )
            read = _merge(layer, of_readers, [_by_head(layer, *partial)], plan)
            return layer.finish(tokens, torch.cat([mixed, read]))
        questions = _questions(layer, of_readers, plan)
        mixed, partials = [], []
        groups, padded = plan.grouping.groups, plan.grouping.pad(of_streams)
        for group, question, tokens_of_group in zip(groups, questions, padded, strict=True):
            q, k, v = layer.split_heads(tokens_of_group, 3)
            mixed.append(layer.merge_heads(layer.attend(q, k, v, group.keys)))
            partials.append(_read_group(layer, question, k, v, group))
        read = _merge(layer, of_readers, partials, plan)
        return layer.finish(tokens, torch.cat([plan.grouping.unpad(mixed), read]))

    def _last_layer(self, layer: EncoderLayer, tokens: Tensor, plan: ReadingPlan) -> Tensor:
        """Streams are not used after this layer: only their keys and values are computed."""
        streams, readers = tokens.split([plan.layout.tokens, len(tokens) - plan.layout.tokens])
        of_readers = layer.qkv(readers)
        keys_values = F.linear(streams, layer.qkv.weight[self.width :], layer.qkv.bias[self.width :])
        if fused_attention.fits(plan.layout, keys_values, layer.width // layer.heads):
            partial = fused_attention.read_within(
                keys_values, _asked(layer, of_readers, plan), plan.layout, layer.heads, layer.scale, layer.dropping
            )
            return layer.finish(readers, _merge(layer, of_readers, [_by_head(layer, *partial)], plan))
        partials, questions = [], _questions(layer, of_readers, plan)
        groups, padded = plan.grouping.groups, plan.grouping.pad(keys_values)
        for group, question, tokens_of_group in zip(groups, questions, padded, strict=True):
            k, v = layer.split_heads(tokens_of_group, 2)
            partials.append(_read_group(layer, question, k, v, group))
        return layer.finish(readers, _merge(layer, of_readers, partials, plan))


def _asked(layer: EncoderLayer, of_readers: Tensor, plan: ReadingPlan) -> Tensor:
    """(n, Q, D) queries of the readers (B * S, 3D) for each sequence."""
    asked = of_readers[:, : layer.width].index_select(0, plan.asking).view(-1, plan.per_sequence, layer.width)
    return full_precision(asked)


def _questions(layer: EncoderLayer, of_readers: Tensor, plan: ReadingPlan) -> tuple[Tensor, ...]:
    """Queries of the readers (B * S, 3D) for each group: (n, heads, Q, D/heads), scaled."""
    (heads,) = layer.split_heads(_asked(layer, of_readers, plan) * layer.scale, 1)
    return heads.split(plan.sizes)


def _by_head(layer: EncoderLayer, answers: Tensor, sums: Tensor) -> tuple[Tensor, Tensor]:
    """Answers (n, Q, D) and log-sum-exps (n, Q, heads), as `_read_group` gives them."""
    (mixes,) = layer.split_heads(answers, 1)
    return sums.transpose(1, 2).unsqueeze(-1), mixes


def _read_group(
    layer: EncoderLayer, q: Tensor, k: Tensor, v: Tensor, group: Group | SlotGroup
) -> tuple[Tensor, Tensor]:
    """Readers' attention within sequences: log-sum-exp of scores (n, heads, Q, 1), mixed values (n, heads, Q, D/heads).

    Dropout falls on the probabilities within the sequence. Times the sequence's weight in `_merge`, these are the
    probabilities of the whole row, so it is dropout on the whole row.
    """
    with torch.autocast(q.device.type, enabled=False):
        scores = q @ full_precision(k).transpose(-1, -2)
        if group.allowed is not None:
            scores = scores.masked_fill(~group.allowed[:, None, None, :], -torch.inf)
        total = torch.logsumexp(scores, -1, keepdim=True)
        return total, layer.drop(torch.exp(scores - total)) @ full_precision(v)


def _merge(
    layer: EncoderLayer, of_readers: Tensor, partials: Sequence[tuple[Tensor, Tensor]], plan: ReadingPlan
) -> Tensor:
    """Puts the readers' softmax together: their queries, keys, values (B * S, 3D) and partial results -> (B * S, D)."""
    size = plan.hidden.shape[0]
    q, k, v = layer.split_heads(full_precision(of_readers).view(size, plan.readers, -1), 3)  # (B, heads, S, D/heads)
    with torch.autocast(q.device.type, enabled=False):
        among = (q @ k.transpose(-1, -2)) * layer.scale
        among = among.masked_fill(plan.hidden, -torch.inf)  # (B, heads, S, S)
        totals = torch.cat([total for total, _ in partials]).transpose(1, 2).flatten(0, 1)  # (n * Q, heads, 1)
        mixes = torch.cat([mix for _, mix in partials]).transpose(1, 2).flatten(0, 1)  # (n * Q, heads, D/heads)
        places, real = (size + 1) * plan.readers * SINGLES, size * plan.readers * SINGLES
        totals = totals.new_full((places, *totals.shape[1:]), -torch.inf).index_copy(0, plan.target, totals)[:real]
        mixes = mixes.new_zeros(places, *mixes.shape[1:]).index_copy(0, plan.target, mixes)[:real]
        totals = totals.view(size, plan.readers, SINGLES, -1).permute(0, 3, 1, 2)  # (B, heads, S, M)
        mixes = mixes.view(size, plan.readers, SINGLES, layer.heads, -1).permute(0, 3, 1, 2, 4)
        # Each reader sees itself, so no row is without a key.
        weights = torch.cat([among, totals], -1).softmax(-1)
        of_reader, of_sequence = weights.split([plan.readers, SINGLES], -1)
        mixed = layer.drop(of_reader) @ v + (of_sequence.unsqueeze(-1) * mixes).sum(-2)  # (B, heads, S, D/heads)
    return layer.merge_heads(mixed).flatten(0, 1)
