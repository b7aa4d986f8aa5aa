"""A linear layer with what follows it, on a GPU: after the product, bias, activation, dropout and residual sum are one
kernel instead of eight that each read and write all hidden units (`models/linear_kernels.py`).

The same mathematics as `residual + dropout(activation(linear(values)))`. What dropout keeps depends on a random number
for the call and on the place of the value, and is computed anew in the backward pass.

Legend: N tokens, F features of the output.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.fused_attention import require_contiguous, seeds_in_front, usable
from models.noise import LEVELS, dice

Activation = Literal["none", "relu", "gelu"]

_SIZE = 1024
"""Numbers a program works on."""


def fits(values: Tensor, features: int) -> bool:
    """Whether the kernels can take these values (N, any), for a layer of so many features."""
    known = usable(values.device) and values.dtype in (torch.float32, torch.bfloat16) and values.dim() == 2
    return known and len(values) * features < 2**31  # places are numbered in 32 bits


def linear(
    layer: nn.Linear, values: Tensor, rate: float, activation: Activation = "none", residual: Tensor | None = None
) -> Tensor:
    """residual + dropout(activation(layer(values))): (N, any) -> (N, F), in the residual's type if there is one.

    Args:
        rate: of dropout, 0 for none. residual: (N, F).
    """
    product = F.linear(values, layer.weight)
    drawn = dice(1, values.device)[None] if rate else None
    rest = None if residual is None else residual[None]
    return _Tail.apply(product[None], layer.bias[None], rest, drawn, activation, round(rate * LEVELS)).squeeze(0)


_SAME = "Tensor? dice, str activation, int level"


@torch.library.custom_op(
    "flexcare::tail", mutates_args=("out",),
    schema=f"(Tensor product, Tensor bias, Tensor? residual, Tensor(a!) out, {_SAME}) -> ()",
)  # fmt: skip
def tail(product, bias, residual, out, dice, activation, level) -> None:  # type: ignore[no-untyped-def]
    """Fills `out` (S, N, F)."""
    from models import linear_kernels as kernels

    require_contiguous(product=product, bias=bias, residual=residual, dice=dice)
    count, features = product[0].numel(), product.shape[-1]
    kernels.forward[(count + _SIZE - 1) // _SIZE, len(product)](
        product, bias, product if residual is None else residual, out, product if dice is None else dice, count,
        features, level, ACTIVATION=activation, RESIDUAL=residual is not None, DROPOUT=dice is not None, SIZE=_SIZE,
    )  # fmt: skip


@torch.library.custom_op(
    "flexcare::tail_backward", mutates_args=("d_product",),
    schema=f"(Tensor product, Tensor bias, Tensor d_out, Tensor(a!) d_product, {_SAME}) -> ()",
)  # fmt: skip
def tail_backward(product, bias, d_out, d_product, dice, activation, level) -> None:  # type: ignore[no-untyped-def]
    """Fills `d_product` (S, N, F)."""
    from models import linear_kernels as kernels

    require_contiguous(product=product, bias=bias, d_out=d_out, dice=dice)
    count, features = product[0].numel(), product.shape[-1]
    kernels.backward[(count + _SIZE - 1) // _SIZE, len(product)](
        product, bias, d_out, d_product, product if dice is None else dice, count, features, level,
        ACTIVATION=activation, DROPOUT=dice is not None, SIZE=_SIZE,
    )  # fmt: skip


class _Tail(torch.autograd.Function):
    """Of S seeds: product (S, N, F), bias (S, F), residual (S, N, F), dice (S, 4) -> (S, N, F)."""

    @staticmethod
    def forward(
        product: Tensor, bias: Tensor, residual: Tensor | None, drawn: Tensor | None, activation: str, level: int
    ) -> Tensor:
        out = torch.empty_like(product if residual is None else residual, memory_format=torch.contiguous_format)
        rest = None if residual is None else residual.contiguous()
        dice = None if drawn is None else drawn.contiguous()
        tail(product.contiguous(), bias.contiguous(), rest, out, dice, activation, level)
        return out

    @staticmethod
    def setup_context(context: Any, inputs: tuple, output: Tensor) -> None:
        product, bias, residual, drawn, context.activation, context.level = inputs
        context.residual = None if residual is None else residual.dtype
        # Without an activation the product itself is not needed; its type and shape are.
        context.like = product.dtype
        dice = None if drawn is None else drawn.contiguous()
        context.save_for_backward(product if context.activation != "none" else None, bias, dice)

    @staticmethod
    def backward(context: Any, d_out: Tensor) -> tuple:
        product, bias, drawn = context.saved_tensors
        d_out = d_out.contiguous()
        d_product = torch.empty_like(d_out, dtype=context.like)
        if drawn is None and context.activation == "none":
            d_product.copy_(d_out)
        else:
            given = d_product if product is None else product.contiguous()
            tail_backward(given, bias.contiguous(), d_out, d_product, drawn, context.activation, context.level)
        d_bias = d_product.sum(1, dtype=bias.dtype)
        d_residual = None if context.residual is None else d_out.to(context.residual)
        return d_product, d_bias, d_residual, None, None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple, *arguments: Any) -> tuple[Tensor, int]:
        found = _Tail.apply(*seeds_in_front(info.batch_size, in_dims, arguments))
        return found.unflatten(0, (info.batch_size, -1)), 0
