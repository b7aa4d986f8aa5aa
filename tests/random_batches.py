"""Random samples and batches for tests of models: any presence pattern, any lengths, no data set needed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.contract import MODALITIES, Batch, Dimensions, Films, Head, Layout, Packed

SMALL = Dimensions(
    width=16,
    layers=3,
    heads=2,
    dropout=0.0,
    series_features=5,
    hours=7,
    note_features=6,
    note_tokens=6,
    film=8,
    patch=4,
)

PATTERNS = ("ehr", "cxr", "note", "ehr+cxr", "ehr+note", "cxr+note", "ehr+cxr+note")
"""The seven presence patterns, as `make_batch` takes them."""

BINARY = Head(classes=1, kind="binary", primary="ehr")


@dataclass(frozen=True)
class Sample:
    """Inputs of one sample: hourly series (T, F), film (H, W), note (L, F); None where absent."""

    ehr: Tensor | None
    cxr: Tensor | None
    note: Tensor | None

    @property
    def pattern(self) -> str:
        return "+".join(name for name in MODALITIES if getattr(self, name) is not None)


def make_samples(
    patterns: Iterable[str],
    *,
    lengths: Sequence[tuple[int, int]] | None = None,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
    dims: Dimensions = SMALL,
) -> list[Sample]:
    """Random samples.

    Args:
        patterns: one pattern a sample, e.g. "ehr+note".
        lengths: (hours, note tokens) a sample; by default random from 1 to the maximum. Ignored for what is absent.
        seed: sample i depends on the seed, i and its own lengths only, not on its pattern or the other samples.
        dtype: of the inputs. dims: sizes of features, film and longest sequences.
    """
    samples = []
    for i, pattern in enumerate(patterns):
        owned = set(pattern.split("+"))
        if not owned or owned - set(MODALITIES):
            raise ValueError(f"pattern {pattern!r}; allowed are {', '.join(PATTERNS)}")
        generator = torch.Generator().manual_seed(seed * 10_007 + i)
        hours = int(torch.randint(1, dims.hours + 1, (), generator=generator))
        tokens = int(torch.randint(1, dims.note_tokens + 1, (), generator=generator))
        if lengths is not None:
            hours, tokens = lengths[i]
        film = torch.rand(dims.film, dims.film, generator=generator, dtype=dtype)
        note = torch.randn(tokens, dims.note_features, generator=generator, dtype=dtype)
        series = torch.randn(hours, dims.series_features, generator=generator, dtype=dtype)
        samples.append(
            Sample(
                ehr=series if "ehr" in owned else None,
                cxr=film if "cxr" in owned else None,
                note=note if "note" in owned else None,
            )
        )
    return samples


def _pack(contents: Sequence[Tensor | None]) -> Packed | None:
    rows = tuple(i for i, content in enumerate(contents) if content is not None)
    if not rows:
        return None
    owned = [contents[i] for i in rows]
    return Packed(torch.cat(owned), Layout(tuple(len(content) for content in owned), rows))


def collate(samples: Sequence[Sample], *, task: int = 0) -> Batch:
    """The batch of the given samples, in the given order."""
    films = tuple(i for i, sample in enumerate(samples) if sample.cxr is not None)
    return Batch(
        ehr=_pack([sample.ehr for sample in samples]),
        cxr=Films(torch.stack([samples[i].cxr for i in films]), films) if films else None,
        note=_pack([sample.note for sample in samples]),
        present=torch.tensor([[getattr(sample, name) is not None for name in MODALITIES] for sample in samples]),
        task=task,
        sample=torch.arange(len(samples)),
    )


def make_labels(head: Head, size: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """Random labels: (B, C) of 0 and 1, or class indices (B,) for a multiclass head."""
    generator = torch.Generator().manual_seed(seed)
    if head.kind == "multiclass":
        return torch.randint(head.classes, (size,), generator=generator)
    return torch.randint(2, (size, head.classes), generator=generator).to(dtype)


def make_batch(
    patterns: Iterable[str] = PATTERNS,
    *,
    lengths: Sequence[tuple[int, int]] | None = None,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
    dims: Dimensions = SMALL,
    head: Head = BINARY,
    task: int = 0,
) -> tuple[Batch, Tensor]:
    """A random batch and labels that fit `head`; arguments as in `make_samples`."""
    samples = make_samples(patterns, lengths=lengths, seed=seed, dtype=dtype, dims=dims)
    return collate(samples, task=task), make_labels(head, len(samples), seed, dtype)


def randomise(module: nn.Module, seed: int = 0, scale: float = 0.3) -> nn.Module:
    """Adds noise to parameters whose entries are all equal, which would let many tests pass for trivial reasons."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            if bool((parameter == parameter.flatten()[0]).all()):
                parameter += scale * torch.randn(parameter.shape, generator=generator, dtype=torch.float64).to(
                    parameter
                )
    return module
