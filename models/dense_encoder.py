"""FlexCare's transformer as the paper writes it: one padded sequence a sample, one attention under a boolean mask.

The reference for `models/encoder.py`: the same parameters, the same function, written to be read. Slow where samples
differ in length or lack modalities.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from models.contract import MODALITIES, Packed
from models.encoder import COMBINATIONS, READERS, SINGLES, CombinationEncoder
from models.layers import EncoderLayer
from models.ragged import on_device


def pad_by_row(stream: Packed, size: int) -> tuple[Tensor, Tensor]:
    """Packed tokens -> (B, L, D) padded with zeros, and (B, L) bool, True at real tokens."""
    sequences = [stream.values.new_zeros(0, stream.values.shape[-1])] * size
    for row, sequence in zip(stream.layout.rows, stream.values.split(stream.layout.lengths), strict=True):
        sequences[row] = sequence
    padded = pad_sequence(sequences, batch_first=True)
    lengths = on_device([len(sequence) for sequence in sequences], padded.device)
    return padded, torch.arange(padded.shape[1], device=padded.device) < lengths[:, None]


def visibility(present: Tensor, real: Sequence[Tensor]) -> Tensor:
    """The paper's mask, (B, N, N) bool, [query, key], over [task; combinations; tokens of each modality].

    Args:
        present: (B, M) bool. real: for each modality (B, L_m) bool, True at real tokens.
    """
    valid = torch.cat([torch.ones_like(present[:, :1]).expand(-1, READERS), *real], 1)  # (B, N)
    modality = torch.cat([torch.full((mask.shape[1],), m, device=mask.device) for m, mask in enumerate(real)])
    modality = torch.cat([modality.new_full((READERS,), -1), modality])  # (N,), -1 for task and combinations
    seen = torch.zeros(*valid.shape, valid.shape[1], dtype=torch.bool, device=valid.device)
    seen[:, 0, 0] = True
    seen[:, 0, 1 : 1 + SINGLES] = present
    seen[:, 0, 1 + SINGLES : READERS] = True
    seen[:, 0, READERS:] = True
    for c, members in enumerate(COMBINATIONS):
        seen[:, 1 + c, 1 + c] = True
        for m in range(len(MODALITIES)):
            if members[m]:
                seen[:, 1 + c, modality == m] = True
    seen[:, READERS:, READERS:] = modality[READERS:, None] == modality[None, READERS:]
    return seen & valid[:, None, :]


class DenseCombinationEncoder(CombinationEncoder):
    """`CombinationEncoder` computed as one dense masked transformer; parameters and arguments are the same."""

    def forward(self, readers: Tensor, streams: Sequence[Packed | None], present: Tensor) -> Tensor:
        """(B, 8, D) readers, packed (N_m, D) tokens of each modality, (B, M) presence -> (B, 8, D)."""
        empty = readers[:, :0], torch.ones_like(present[:, :0])
        padded = [empty if stream is None else pad_by_row(stream, len(present)) for stream in streams]
        tokens = torch.cat([readers, *(values for values, _ in padded)], 1)  # (B, N, D)
        seen = visibility(present, [real for _, real in padded])
        for layer in self.layers:
            tokens = layer.finish(tokens, self._attention(layer, tokens, seen))
        return tokens[:, :READERS]

    def _attention(self, layer: EncoderLayer, tokens: Tensor, seen: Tensor) -> Tensor:
        q, k, v = layer.split_heads(layer.qkv(tokens), 3)  # (B, heads, N, D/heads)
        scores = (q @ k.transpose(-1, -2)) * q.shape[-1] ** -0.5
        scores = scores.masked_fill(~seen[:, None], -torch.inf)
        # Tokens of padding see nothing: their rows are set to zero instead of 0 / 0.
        sees_any = seen.any(-1)[:, None, :, None]
        weights = scores.masked_fill(~sees_any, 0.0).softmax(-1) * sees_any
        return layer.merge_heads(layer.drop(weights) @ v)
