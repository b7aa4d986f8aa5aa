"""What follows a linear layer's product, as Triton kernels: bias, activation, dropout, residual sum in one pass.

A program works on SIZE neighbouring numbers of one seed. All tensors are contiguous, (S, rows, features); `bias` is
(S, features). `count`: numbers of a seed. `dice` (S, 4) int16: the seed's random number, of which dropout is made;
`level` of 65,536 values are dropped.
"""

from __future__ import annotations

import triton
import triton.language as tl

from models.random_kernels import kept, keys_of


@triton.jit
def forward(
    product, bias, residual, out, dice, count, features, level,
    ACTIVATION: tl.constexpr, RESIDUAL: tl.constexpr, DROPOUT: tl.constexpr, SIZE: tl.constexpr,
):  # fmt: skip
    """out = residual + dropout(activation(product + bias))"""
    seed = tl.program_id(1).to(tl.int64)
    place = tl.program_id(0) * SIZE + tl.arange(0, SIZE)
    there = place < count
    at = seed * count + place
    value = tl.load(product + at, mask=there, other=0.0).to(tl.float32)
    value += tl.load(bias + seed * features + place % features, mask=there, other=0.0).to(tl.float32)
    if ACTIVATION == "relu":
        value = tl.where(value < 0, 0.0, value)  # NaN stays NaN, so that it is seen
    if ACTIVATION == "gelu":
        value = 0.5 * value * (1 + tl.erf(value * 0.7071067811865476))
    if DROPOUT:
        value = tl.where(kept(*keys_of(dice, seed), place, level), value * (65536 / (65536 - level)), 0.0)
    if RESIDUAL:
        value += tl.load(residual + at, mask=there, other=0.0).to(tl.float32)
    tl.store(out + at, value.to(out.dtype.element_ty), mask=there)


@triton.jit
def backward(
    product, bias, d_out, d_product, dice, count, features, level,
    ACTIVATION: tl.constexpr, DROPOUT: tl.constexpr, SIZE: tl.constexpr,
):  # fmt: skip
    """Gradient of the product, for the same draw."""
    seed = tl.program_id(1).to(tl.int64)
    place = tl.program_id(0) * SIZE + tl.arange(0, SIZE)
    there = place < count
    at = seed * count + place
    gradient = tl.load(d_out + at, mask=there, other=0.0).to(tl.float32)
    if DROPOUT:
        gradient = tl.where(kept(*keys_of(dice, seed), place, level), gradient * (65536 / (65536 - level)), 0.0)
    if ACTIVATION != "none":
        value = tl.load(product + at, mask=there, other=0.0).to(tl.float32)
        value += tl.load(bias + seed * features + place % features, mask=there, other=0.0).to(tl.float32)
        if ACTIVATION == "relu":
            gradient = tl.where(value <= 0, 0.0, gradient)
        if ACTIVATION == "gelu":
            below = 0.5 * (1 + tl.erf(value * 0.7071067811865476))
            gradient *= below + value * 0.3989422804014327 * tl.exp(-0.5 * value * value)
    tl.store(d_product + at, gradient.to(d_product.dtype.element_ty), mask=there)
