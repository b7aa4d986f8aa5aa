"""Attention within the slots of a fixed batch, on a GPU: one kernel for all slots, heads and seeds.

Written out in torch's own operations, attention takes some twenty kernels for every run of slots of equal room, each a
few microseconds long, and most of a step's time goes into launching them (`models/layers.py` and `models/encoder.py`
have that form; it is used on the CPU). Here the tokens of all slots go through one kernel, which leaves filler out
(`models/attention_kernels.py`). The same mathematics: scores and softmax in float32, dropout on the probabilities.

Legend: N capacity for tokens, n slots, Q questions to each slot, H heads, W features, W / H of each head.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from torch import Tensor

from models.layout import Slots, index_cache, on_device
from models.noise import LEVELS, dice
from models.slots import starts_in

DEVICES = {"cuda"}
"""Kinds of devices that the kernels run on."""

HEAD_WIDTHS = (16, 32, 64, 128)
"""Features of a head that they are written for."""

_BLOCK = {torch.float32: 32, torch.bfloat16: 64}
"""Rows of a block of tokens; its products lie in registers."""

_FEW = 16
"""Rows of a block of few questions; products have no fewer."""


@cache
def _has_triton() -> bool:
    return find_spec("triton") is not None


def usable(device: torch.device) -> bool:
    """Whether kernels written in Triton run on the device; it comes with torch for CUDA."""
    return device.type in DEVICES and _has_triton()


def fits(layout: object, values: Tensor, head_width: int) -> bool:
    """Whether attention of tokens `values` (N, any) in this layout can be computed here."""
    return isinstance(layout, Slots) and usable(values.device) and values.dtype in _BLOCK and head_width in HEAD_WIDTHS


@dataclass(frozen=True)
class Setting:
    """What is the same in all steps of a batch's shape.

    Attributes:
        lengths: the most tokens of each slot. width, heads, scale: of the attention. dropout: rate, 0 for none.
        questions: Q. mix: whether the tokens attend to each other.
    """

    lengths: tuple[int, ...]
    width: int
    heads: int
    scale: float
    dropout: float
    questions: int = 0
    mix: bool = True

    def arguments(self, drawn: Tensor | None, questions: int) -> tuple:
        """Of a pass over the tokens (0) or the questions (Q), from all dice (S, 2, 4)."""
        dice = None if drawn is None else drawn[:, int(questions > 0)].contiguous()
        return dice, list(self.lengths), self.width, self.heads, questions, self.scale, round(self.dropout * LEVELS)


def attend_within(qkv: Tensor, layout: Slots, heads: int, scale: float, dropout: float) -> Tensor:
    """Tokens' attention to the tokens of their own slot: queries, keys, values (N, 3W) -> (N, W), 0 for filler."""
    setting = Setting(layout.lengths, qkv.shape[-1] // 3, heads, scale, dropout)
    return _apply(qkv, None, layout, setting)[0]


def read_within(
    keys_values: Tensor, questions: Tensor, layout: Slots, heads: int, scale: float, dropout: float
) -> tuple[Tensor, Tensor]:
    """Answers (n, Q, W) to questions (n, Q, W), each from the tokens of its slot with keys and values (N, 2W); and the
    log-sum-exps (n, Q, H) of the scores. Both are 0 where a slot is nobody's."""
    setting = Setting(layout.lengths, questions.shape[-1], heads, scale, dropout, questions.shape[1], mix=False)
    return _apply(keys_values, questions, layout, setting)[1:]


def attend_and_read_within(
    qkv: Tensor, questions: Tensor, layout: Slots, heads: int, scale: float, dropout: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Both at once: queries, keys, values (N, 3W) and questions (n, Q, W) -> (N, W), (n, Q, W) and (n, Q, H)."""
    setting = Setting(layout.lengths, questions.shape[-1], heads, scale, dropout, questions.shape[1])
    return _apply(qkv, questions, layout, setting)


def _apply(content: Tensor, questions: Tensor | None, layout: Slots, setting: Setting) -> tuple[Tensor, ...]:
    """One seed's; `torch.vmap` makes it all seeds'."""
    drawn = dice(2, content.device).view(2, 4) if setting.dropout else None
    asked = None if questions is None else questions.flatten(0, 1)[None]
    own = (starts_in(layout)[None], layout.used[None], None if drawn is None else drawn[None])
    found = _Attention.apply(content[None], asked, *own, setting)
    mixed, answers, sums = (part.squeeze(0) for part in found[:3])
    if questions is None:
        return mixed, answers, sums
    shape = questions.shape[:2]
    return mixed, answers.unflatten(0, shape), sums.unflatten(0, shape)


class _Attention(torch.autograd.Function):
    """Of S seeds: content (S, N, 3W or 2W), questions (S, n * Q, W), starts and used (S, n), dice (S, 2, 4) ->
    mixed (S, N, W), answers (S, n * Q, W) in float32, log-sum-exps (S, n * Q, H); empty where not asked for."""

    @staticmethod
    def forward(
        content: Tensor, questions: Tensor | None, starts: Tensor, used: Tensor, drawn: Tensor | None, setting: Setting
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        starts, used = starts.contiguous(), used.contiguous()
        seeds, tokens = content.shape[0], content.shape[1] if setting.mix else 0
        count = len(setting.lengths) * setting.questions
        # Kernels write what belongs to slots; filler stays zero.
        mixed, logs = content.new_zeros(seeds, tokens, setting.width), _floats(content, seeds, tokens, setting.heads)
        answers, sums = (_floats(content, seeds, count, width) for width in (setting.width, setting.heads))
        if setting.mix:
            attention(content, content, mixed, logs, starts, used, *setting.arguments(drawn, 0))
        if count:
            attention(questions, content, answers, sums, starts, used, *setting.arguments(drawn, setting.questions))
        return mixed, answers, sums, logs

    @staticmethod
    def setup_context(context: Any, inputs: tuple, output: tuple[Tensor, Tensor, Tensor, Tensor]) -> None:
        content, questions, starts, used, drawn, context.setting = inputs
        context.mark_non_differentiable(output[3])
        context.save_for_backward(content, questions, starts.contiguous(), used.contiguous(), drawn, *output)

    @staticmethod
    def backward(context: Any, d_mixed: Tensor, d_answers: Tensor, d_sums: Tensor, _: Tensor) -> tuple:
        content, questions, starts, used, drawn, mixed, answers, sums, logs = context.saved_tensors
        # New tensors, without the gaps that these may have between rows.
        setting, d_content, d_questions = context.setting, content.new_zeros(content.shape), None
        if setting.mix:
            found = (mixed, logs, d_mixed.contiguous(), None, d_content, d_content, False)
            attention_backward(content, content, *found, starts, used, *setting.arguments(drawn, 0))
        if setting.questions:
            d_questions = questions.new_empty(questions.shape)
            found = (answers, sums, d_answers.contiguous(), d_sums.contiguous(), d_questions, d_content, setting.mix)
            attention_backward(questions, content, *found, starts, used, *setting.arguments(drawn, setting.questions))
        return d_content, d_questions, None, None, None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple, *arguments: Any) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        found = _Attention.apply(*seeds_in_front(info.batch_size, in_dims, arguments))
        return tuple(part.unflatten(0, (info.batch_size, -1)) for part in found), (0,) * len(found)


def require_contiguous(**tensors: Tensor | None) -> None:
    """Refuses tensors with gaps, which kernels would read wrongly."""
    for name, tensor in tensors.items():
        if tensor is not None and not tensor.is_contiguous():
            raise ValueError(f"{name} {tuple(tensor.shape)} has strides {tensor.stride()}; it must be contiguous")


def seeds_in_front(seeds: int, in_dims: Sequence[int | None], arguments: Sequence[Any]) -> list[Any]:
    """Arguments of several seeds under `torch.vmap` for a function that has an axis of seeds in front already."""

    def together(value: Any, dim: int | None) -> Any:
        if not isinstance(value, Tensor):
            return value
        value = value.expand(seeds, *value.shape) if dim is None else value.movedim(dim, 0)
        return value.flatten(0, 1)

    return list(map(together, arguments, in_dims))


def _floats(like: Tensor, *shape: int) -> Tensor:
    return like.new_empty(shape, dtype=torch.float32)


@index_cache(256)
def _blocks(lengths: tuple[int, ...], rows: int, questions: int, device: torch.device) -> Tensor:
    """(blocks, 2) int32: slot and first place of each block of `rows` rows that a batch can need."""
    counts = np.full(len(lengths), questions) if questions else np.asarray(lengths)
    blocks = [(slot, first) for slot, count in enumerate(counts.tolist()) for first in range(0, count, rows)]
    return on_device(np.asarray(blocks, np.int32).reshape(-1, 2), device)


@dataclass(frozen=True)
class _Launch:
    """A pass over one kind of queries: of the tokens themselves (`questions` 0), or of so many questions a slot."""

    by_query: Tensor
    by_key: Tensor
    steps: tuple[int, ...]
    numbers: tuple[float, ...]
    constants: dict[str, Any]


def _launch(
    asked: Tensor,
    content: Tensor,
    lengths: Sequence[int],
    width: int,
    heads: int,
    questions: int,
    scale: float,
    level: int,
) -> _Launch:
    if asked.stride(-1) != 1 or content.stride(-1) != 1:
        raise ValueError(f"strides {asked.stride()}, {content.stride()}; the features of a row must lie side by side")
    keys = _BLOCK[content.dtype]
    rows = _FEW if questions and questions <= _FEW else keys
    by_query = _blocks(tuple(lengths), rows, questions, content.device)
    # Also where keys come in the backward pass alone: what a recording keeps is collected in the forward pass.
    by_key = _blocks(tuple(lengths), keys, 0, content.device)
    steps = (asked.stride(0), asked.stride(1), content.stride(0), content.stride(1))
    constants = {"H": heads, "D": width // heads, "M": rows, "N": keys, "QUERIES": questions, "DROPOUT": level > 0}
    constants |= {"PRECISION": "ieee", "num_warps": 4}
    numbers = (len(lengths), asked.shape[1], max(lengths), level, scale)
    return _Launch(by_query, by_key, steps, numbers, constants)


def _keys_values(content: Tensor, width: int) -> tuple[Tensor, Tensor]:
    first = content.shape[2] - 2 * width
    return content[..., first:], content[..., first + width :]


_SAME = "Tensor starts, Tensor used, Tensor? dice, int[] lengths, int width, int heads, int questions, float scale"
_SAME += ", int level"


@torch.library.custom_op(
    "flexcare::attention", mutates_args=("out", "sums"),
    schema=f"(Tensor asked, Tensor content, Tensor(a!) out, Tensor(b!) sums, {_SAME}) -> ()",
)  # fmt: skip
def attention(  # type: ignore[no-untyped-def]
    asked, content, out, sums, starts, used, dice, lengths, width, heads, questions, scale, level
) -> None:
    """Fills slots' rows of `out` (S, rows, W) and `sums` (S, rows, H) for queries in the first W features of `asked`
    (S, rows, any); keys and values are the last 2W features of `content`."""
    from models import attention_kernels as kernels

    require_contiguous(starts=starts, used=used, dice=dice)
    plan = _launch(asked, content, lengths, width, heads, questions, scale, level)
    kernels.forward[len(plan.by_query), heads, len(content)](
        asked, *_keys_values(content, width), out, sums, starts, used, plan.by_query,
        used if dice is None else dice, *plan.steps, *plan.numbers, **plan.constants,
    )  # fmt: skip


@torch.library.custom_op(
    "flexcare::attention_backward", mutates_args=("d_asked", "d_content"),
    schema="(Tensor asked, Tensor content, Tensor out, Tensor sums, Tensor d_out, Tensor? d_sums, Tensor(a!) d_asked, "
    f"Tensor(b!) d_content, bool add, {_SAME}) -> ()",
)  # fmt: skip
def attention_backward(  # type: ignore[no-untyped-def]
    asked, content, out, sums, d_out, d_sums, d_asked, d_content, add, starts, used, dice, lengths, width, heads,
    questions, scale, level,
) -> None:  # fmt: skip
    """Fills slots' rows of the queries' part of `d_asked`, and of keys' and values' part of `d_content`; adds to the
    latter if `add`."""
    from models import attention_kernels as kernels

    require_contiguous(starts=starts, used=used, dice=dice)
    plan = _launch(asked, content, lengths, width, heads, questions, scale, level)
    keys_values, d_keys_values = _keys_values(content, width), _keys_values(d_content, width)
    dice, shares = used if dice is None else dice, torch.empty_like(sums)
    kernels.backward_queries[len(plan.by_query), heads, len(content)](
        asked, *keys_values, out, sums, d_out, sums if d_sums is None else d_sums, d_asked, shares, starts, used,
        plan.by_query, dice, *plan.steps, d_asked.stride(0), d_asked.stride(1), *plan.numbers, **plan.constants,
    )  # fmt: skip
    kernels.backward_keys[len(plan.by_key), heads, len(content)](
        asked, *keys_values, sums, d_out, *d_keys_values, shares, starts, used, plan.by_key, dice, *plan.steps,
        d_content.stride(0), d_content.stride(1), *plan.numbers, **plan.constants, ADD=add,
    )  # fmt: skip


FORWARD, BACKWARD = torch.ops.flexcare.attention, torch.ops.flexcare.attention_backward
"""The passes as torch calls them, for who counts what they do."""
