"""A kernel that shows what `models/random_kernels.py` keeps. Triton looks names up in a kernel's module alone."""

from __future__ import annotations

import triton
import triton.language as tl

from models.random_kernels import kept, keys_of


@triton.jit
def mark(out, dice, level, SIZE: tl.constexpr):
    """out (SIZE,) int32: 1 for places that are kept."""
    place = tl.arange(0, SIZE)
    tl.store(out + place, kept(*keys_of(dice, 0), place, level).to(tl.int32))
