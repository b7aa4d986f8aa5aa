"""FlexCare's transformer as the paper writes it: one padded sequence a sample, one attention under a boolean mask.

The reference for `models/encoder.py` and `models/joint_encoder.py`: the same parameters, the same function, written to
be read. Slow where samples differ in length or lack modalities.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from models.contract import Packed
from models.encoder import CombinationEncoder
from models.layers import EncoderLayer
from models.layout import on_device
from models.mask import COMBINATIONS, SINGLES, Mask


def pad_by_row(stream: Packed, size: int) -> tuple[Tensor, Tensor]:
    """Packed tokens -> (B, L, D) padded with zeros, and (B, L) bool, True at real tokens."""
    sequences = [stream.values.new_zeros(0, stream.values.shape[-1])] * size
    for row, sequence in zip(stream.layout.rows, stream.values.split(stream.layout.lengths), strict=True):
        sequences[row] = sequence
    padded = pad_sequence(sequences, batch_first=True)
    lengths = on_device([len(sequence) for sequence in sequences], padded.device)
    return padded, torch.arange(padded.shape[1], device=padded.device) < lengths[:, None]


def visibility(present: Tensor, real: Sequence[Tensor], mask: Mask) -> tuple[Tensor, Tensor]:
    """The paper's mask over [task; combinations; tokens of each modality], token by token.

    Args:
        present: (B, M) bool. real: for each modality (B, L_m) bool, True at real tokens. mask: with combinations.

    Returns:
        (B, N, N) bool, [query, key], who sees whom; and (B, N) bool, which tokens exist: not padding, not the
        combination of a single absent modality.
    """
    first, specials = mask.first, mask.specials
    modality = torch.cat([torch.full((tokens.shape[1],), m, device=tokens.device) for m, tokens in enumerate(real)])
    modality = torch.cat([modality.new_full((specials,), -1), modality])  # (N,), -1 for task and combinations
    seen = torch.zeros(len(present), *modality.shape * 2, dtype=torch.bool, device=present.device)
    if mask.task:
        seen[:, 0, 0] = True
        seen[:, 0, specials:] = True
    for c, members in enumerate(COMBINATIONS):
        seen[:, first + c, first + c] = True
        for m in range(SINGLES):
            if members[m]:
                seen[:, first + c, modality == m] = True
        if mask.task:
            whole = present[:, list(members)].all(1)
            seen[:, 0, first + c] = whole if c < SINGLES or not mask.task_sees_incomplete else True
    content = modality >= 0
    seen[:, specials:, specials:] = modality[content, None] == modality[None, content]
    task = torch.ones_like(present[:, :first])
    several = torch.ones_like(present[:, :1]).expand(-1, len(COMBINATIONS) - SINGLES)
    seen[:, :, specials:] &= torch.cat([*real], 1)[:, None, :]
    return seen, torch.cat([task, present, several, *real], 1)


class DenseCombinationEncoder(CombinationEncoder):
    """`CombinationEncoder` computed as one dense masked transformer; parameters and arguments are the same."""

    @staticmethod
    def _check(mask: Mask) -> None:
        if not mask.combinations or mask.modalities_meet:
            raise ValueError(f"{mask}: the dense reference is written for combinations and the paper's mask")

    def forward(self, readers: Tensor, streams: Sequence[Packed | None], present: Tensor) -> Tensor:
        """(B, S, D) readers, packed (N_m, D) tokens of each modality, (B, M) presence -> (B, S, D)."""
        empty = readers[:, :0], torch.ones_like(present[:, :0])
        padded = [empty if stream is None else pad_by_row(stream, len(present)) for stream in streams]
        tokens = torch.cat([readers, *(values for values, _ in padded)], 1)  # (B, N, D)
        seen, exists = visibility(present, [real for _, real in padded], self.mask)
        if self.mask.enforced:
            added = torch.zeros(seen.shape, dtype=tokens.dtype, device=seen.device).masked_fill(~seen, -torch.inf)
        else:
            added = (~seen).to(tokens.dtype).masked_fill(~exists[:, None], -torch.inf)
        for layer in self.layers:
            tokens = layer.finish(tokens, self._attention(layer, tokens, added[:, None]))
        return tokens[:, : self.mask.specials]

    def _attention(self, layer: EncoderLayer, tokens: Tensor, added: Tensor) -> Tensor:
        q, k, v = layer.split_heads(layer.qkv(tokens), 3)  # (B, heads, N, D/heads)
        scores = (q @ k.transpose(-1, -2)) * layer.scale + added
        # Tokens of padding see nothing: their rows are set to zero instead of 0 / 0.
        sees_any = (added > -torch.inf).any(-1, keepdim=True)
        weights = scores.masked_fill(~sees_any, 0.0).softmax(-1) * sees_any
        return layer.merge_heads(layer.drop(weights) @ v)
