"""Reading sequences with an LSTM, in both forms of a batch."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor, nn

from models.contract import Layout, Packed, Slots
from models.layout import index_cache, on_device
from models.slots import starts_in, steps

STEP_OVERHEAD = {"cpu": 2}
STEP_OVERHEAD_ELSEWHERE = 64
"""How many sequences' steps one step of an LSTM costs beyond those of its sequences, by type of device. On a CPU the
time grows with the sequences from two of them on; the number for other devices is not measured so far."""

State = tuple[Tensor, Tensor]
"""Hidden states and cells of an LSTM, each (layers, n, D)."""

Block = tuple[int, Tensor, Tensor]
"""How an LSTM reads n sequences at once, all first tokens, all second ones, ..., up to the longest one's last: n;
position among the tokens of what is read at each step (T * n,), a sequence's last one again after its end; and where,
among these, the last tokens themselves are (n,)."""


def last_state(lstm: nn.LSTM, packed: Packed) -> Tensor:
    """Top layer's hidden state after each sequence's own last token: packed (N, D) -> (n, D).

    What an LSTM reads after a sequence's end changes no earlier state, so sequences of similar length share a padded
    block: on CPU faster than torch's packed sequences, whose cost grows with the steps of the longest one.
    """
    layout, device = packed.layout, packed.values.device
    overhead = STEP_OVERHEAD.get(device.type, STEP_OVERHEAD_ELSEWHERE)
    blocks = _blocks_of_slots(layout, overhead) if isinstance(layout, Slots) else _blocks(layout, overhead, device)
    found = []
    for count, source, ends in blocks:
        states, _ = read_steps(lstm, packed.values.index_select(0, source).view(-1, count, packed.values.shape[1]))
        found.append(states.flatten(0, 1).index_select(0, ends))
    return torch.cat(found).index_select(0, _order(layout.lengths, overhead, device))


def last_state_of_present(lstm: nn.LSTM, vectors: Sequence[Tensor], present: Tensor) -> Tensor:
    """Hidden state of a one-layer LSTM after each sample's present vectors.

    An absent vector leaves hidden state and cell as they are, which is what a sequence without it does.

    Args:
        vectors: P tensors (B, D), in the order in which they are read. present: (B, P) bool.

    Returns:
        (B, D).
    """
    hidden = cell = lstm.weight_hh_l0.new_zeros(1, len(present), lstm.hidden_size)
    for vector, there in zip(vectors, present.unbind(1), strict=True):
        _, (after, cell_after) = read_steps(lstm, vector[None], (hidden, cell))
        hidden = torch.where(there[:, None], after, hidden)
        cell = torch.where(there[:, None], cell_after, cell)
    return hidden[0]


def read_steps(lstm: nn.LSTM, steps: Tensor, state: State | None = None) -> tuple[Tensor, State]:
    """(T, n, D) -> top states (T, n, D) after every step, and the last state of all layers.

    Not in half precision under autocast either: torch has an LSTM in bfloat16 for few CPUs only, and on a GPU its
    autocast turns to float16, whichever type was asked for, in which small gradients vanish.
    """
    if state is None:
        zero = steps.new_zeros(lstm.num_layers, steps.shape[1], lstm.hidden_size)
        state = (zero, zero)
    with torch.autocast(steps.device.type, enabled=False):
        dtype = lstm.weight_ih_l0.dtype
        return _run(lstm, steps.to(dtype), (state[0].to(dtype), state[1].to(dtype)))


def _run(lstm: nn.LSTM, steps: Tensor, state: State) -> tuple[Tensor, State]:
    """The layers with the values that the module has now; called itself, it would hold on to those of an earlier step
    where they are one seed's part of a stack."""
    weights = [getattr(lstm, name) for name in lstm._flat_weights_names]
    training, batch_first, bidirectional = lstm.training, False, False
    with warnings.catch_warnings():
        # The weights of a seed in a stack lie apart. cuDNN copies them together, which is little beside the layer.
        warnings.filterwarnings("ignore", "RNN module weights are not part of single contiguous chunk")
        top, hidden, cell = torch.lstm(
            steps, state, weights, lstm.bias, lstm.num_layers, 0.0, training, bidirectional, batch_first
        )
    # Where torch takes an LSTM apart, as for its counter of FLOPs, its older versions give the state one axis too many.
    return top, (hidden.view_as(state[0]), cell.view_as(state[1]))


# ------------------------------------------------------------------------------------------------------- blocks


@lru_cache(maxsize=64)
def _cut(lengths: tuple[int, ...], overhead: int) -> tuple[np.ndarray, ...]:
    """Sequences by length, longest first, cut where the steps that padding wastes exceed those of a further block."""
    runs: list[list[int]] = [[]]
    waste = 0
    for sequence in np.argsort(-np.asarray(lengths), kind="stable").tolist():
        waste += lengths[(runs[-1] or [sequence])[0]] - lengths[sequence]
        if waste > overhead * lengths[sequence]:
            runs.append([])
            waste = 0
        runs[-1].append(sequence)
    return tuple(np.array(run) for run in runs)


@index_cache(64)
def _order(lengths: tuple[int, ...], overhead: int, device: torch.device) -> Tensor:
    """(n,) where each sequence is among those of all blocks."""
    return on_device(np.argsort(np.concatenate(_cut(lengths, overhead))), device)


@index_cache(64)
def _members(lengths: tuple[int, ...], overhead: int, device: torch.device) -> tuple[Tensor, ...]:
    """(n,) the sequences of each block."""
    return tuple(on_device(run, device) for run in _cut(lengths, overhead))


@index_cache(32)
def _blocks(layout: Layout, overhead: int, device: torch.device) -> tuple[Block, ...]:
    blocks = []
    for run in _cut(layout.lengths, overhead):
        lengths, offsets = np.asarray(layout.lengths)[run], np.asarray(layout.offsets)[run]
        place = np.minimum(np.arange(lengths.max())[:, None], lengths - 1)  # (T, n)
        ends = (lengths - 1) * len(run) + np.arange(len(run))
        blocks.append((len(run), on_device((offsets + place).ravel(), device), on_device(ends, device)))
    return tuple(blocks)


def _blocks_of_slots(layout: Slots, overhead: int) -> tuple[Block, ...]:
    """As `_blocks`, cut by the most tokens of the slots; a slot of nobody counts as one token, some one's."""
    device = layout.used.device
    last = layout.used.clamp(min=1) - 1  # (n,)
    begin = starts_in(layout)  # (n,)
    blocks = []
    for members, run in zip(_members(layout.lengths, overhead, device), _cut(layout.lengths, overhead), strict=True):
        count, end = len(run), last.index_select(0, members)
        room = layout.lengths[run[0]]
        place = torch.minimum(steps(room, device)[:, None], end)  # (T, n)
        source = (begin.index_select(0, members) + place).flatten().clamp(max=layout.tokens - 1)
        blocks.append((count, source, end * count + steps(count, device)))
    return tuple(blocks)
