"""What a model costs beside its score: memory at the peak, and operations of a sample's forward pass."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from benchmark.memory import peak_resident
from models.contract import Dimensions
from models.cost import COUPLED_BATCH, Inputs, forward_flops

_CLEAR = Path("/proc/self/clear_refs")
_PEAK = "5"
"""What Linux takes as the request to forget a process's peak."""


def forget_peak_memory(device: torch.device) -> None:
    """Begins to measure anew. Where the system cannot forget a process's peak it stays that of the whole process."""
    if device.type == "cuda":
        torch.cuda.empty_cache()  # what torch holds for tensors of models before
        torch.cuda.reset_peak_memory_stats(device)
    elif _CLEAR.exists():
        _CLEAR.write_text(_PEAK)


def peak_memory(device: torch.device) -> int:
    """Bytes: on the CPU of the whole process with its libraries and mapped files, on a GPU all that torch holds there.

    That is more than the tensors of any moment: recorded steps keep the memory of theirs, which nothing else may use.
    """
    if device.type == "cuda":
        return int(torch.cuda.max_memory_reserved(device))
    return peak_resident()


def sample_flops(
    module: nn.Module, dimensions: Dimensions, owned: Sequence[str], primary: str, couples_samples: bool
) -> dict[str, float]:
    """Operations of one sample's forward pass, by the modalities that it owns: all of `owned`, and `primary` alone.

    The sample has the usual hours and note tokens of `models.cost.Inputs`, or as many as the model takes. The module
    is left in double precision on the CPU.
    """
    usual = Inputs()
    hours, tokens = min(usual.hours, dimensions.hours), min(usual.note_tokens, dimensions.note_tokens)
    size = COUPLED_BATCH if couples_samples else 2
    wanted = dict.fromkeys([tuple(owned), (primary,)])
    return {
        "+".join(names): forward_flops(module.cpu(), Inputs(hours, tokens, names).batch(dimensions, size))
        for names in wanted
    }
