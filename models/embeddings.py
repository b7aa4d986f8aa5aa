"""The unimodal embedding layers of every model of the comparison: same class, own weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

from models.contract import MODALITIES, Batch, Bounds, Dimensions, Films, Layout, Packed, PositionInit, Slots
from models.ragged import positions

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def position_table(rows: int, width: int, init: PositionInit) -> nn.Parameter:
    """A learned positional table: zeros, or normal values of deviation 0.02 cut at two deviations."""
    table = torch.zeros(rows, width)
    return nn.Parameter(table if init == "zeros" else nn.init.trunc_normal_(table, std=0.02, a=-0.04, b=0.04))


class SequenceEmbedding(nn.Module):
    """One linear map per token and a learned positional table: packed (N, F) -> (N, D).

    Args:
        features: F. width: D. longest: rows of the positional table. init: its initial values.
    """

    def __init__(self, features: int, width: int, longest: int, init: PositionInit = "zeros") -> None:
        super().__init__()
        self.project = nn.Linear(features, width)
        self.position = position_table(longest, width, init)

    def forward(self, packed: Packed) -> Packed:
        longest = max(packed.layout.lengths)
        if longest > len(self.position):
            raise ValueError(f"a sequence of {longest} tokens; the positional table has {len(self.position)} rows")
        place = self.position.index_select(0, positions(packed.layout, packed.values.device))
        return packed.with_values(self.project(packed.values) + place)


class FilmEmbedding(nn.Module):
    """Non-overlapping patches, one linear map each, and a learned positional table of at least a row a patch.

    The map is a convolution over three ImageNet-normalised channels, as for colour images. A film's three channels
    are equal before normalisation, so normalisation and channel sum are folded into one grey patch weight: the same
    function with a third of the multiplications.

    Shape: films (n, H, W) in [0, 1] -> packed (n * P, D) with P = (H / patch)^2 tokens a film, in raster order.
    """

    def __init__(self, side: int, patch: int, width: int, rows: int = 0, init: PositionInit = "zeros") -> None:
        super().__init__()
        self.side, self.patch, self.tokens = side, patch, (side // patch) ** 2
        self.project = nn.Conv2d(3, width, patch, patch)
        self.position = position_table(max(rows, self.tokens), width, init)
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD), persistent=False)

    def forward(self, films: Films) -> Packed:
        n, height, width = films.pixels.shape
        if (height, width) != (self.side, self.side):
            raise ValueError(f"films of {height} x {width} pixels; this model was built for {self.side} x {self.side}")
        per_channel = self.project.weight / self.std[:, None, None]  # (D, 3, p, p)
        grey = per_channel.sum(1).flatten(1)  # (D, p * p)
        bias = self.project.bias - (per_channel.sum((2, 3)) * self.mean).sum(1)
        side = self.side // self.patch
        patches = films.pixels.view(n, side, self.patch, side, self.patch).transpose(2, 3).reshape(n * self.tokens, -1)
        tokens = F.linear(patches, grey, bias).view(n, self.tokens, -1) + self.position[: self.tokens]
        return Packed(tokens.flatten(0, 1), self._layout(films))

    def _layout(self, films: Films) -> Layout | Slots:
        lengths = (self.tokens,) * len(films.pixels)
        if isinstance(films.rows, tuple):
            return Layout(lengths, films.rows)
        size = len(films.joint)
        return Slots(Bounds.full(lengths), films.rows, self.tokens * (films.rows < size), size, films.joint)


class UnimodalEmbeddings(nn.Module):
    """Embeds a batch: packed (N, D) tokens for each of (ehr, cxr, note), or None where nobody owns the modality.

    Args:
        dimensions: shared sizes. modalities: names of those to embed; the others count as owned by nobody.
        rows: least number of rows of each positional table; by default no row is spare.
    """

    def __init__(
        self, dimensions: Dimensions, modalities: Sequence[str] = MODALITIES, rows: Sequence[int] = (0, 0, 0)
    ) -> None:
        super().__init__()
        d, init = dimensions, dimensions.position_init
        hours, note_tokens = max(rows[0], d.hours), max(rows[2], d.note_tokens)
        series = SequenceEmbedding(d.series_features, d.width, hours, init) if "ehr" in modalities else None
        film = FilmEmbedding(d.film, d.patch, d.width, rows[1], init) if "cxr" in modalities else None
        note = SequenceEmbedding(d.note_features, d.width, note_tokens, init) if "note" in modalities else None
        self.ehr, self.cxr, self.note = series, film, note

    def forward(self, batch: Batch) -> tuple[Packed | None, Packed | None, Packed | None]:
        return (
            None if batch.ehr is None or self.ehr is None else self.ehr(batch.ehr),
            None if batch.cxr is None or self.cxr is None else self.cxr(batch.cxr),
            None if batch.note is None or self.note is None else self.note(batch.note),
        )
