"""Random numbers of kernels: which values dropout keeps, computed from the value's place in forward and backward pass.

A number of 64 bits for a call and the place of a value are mixed by shifts and multiplications, in the manner of
MurmurHash's last step with the constants that C. Wellons found to leave little bias. Triton's own generator (Philox)
was half of the instructions in the loops of the attention kernels in bfloat16.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def keys_of(dice, seed):
    """The two keys, uint32, in a seed's row of `dice` (S, 4) int16."""
    words = dice + 4 * seed
    first = (tl.load(words).to(tl.uint32) << 16) | (tl.load(words + 1).to(tl.uint32) & 65535)
    second = (tl.load(words + 2).to(tl.uint32) << 16) | (tl.load(words + 3).to(tl.uint32) & 65535)
    return first, second


@triton.jit
def kept(first, second, place, level):
    """bool: False for `level` of 65,536 places, at random."""
    mixed = place.to(tl.uint32) ^ first
    mixed ^= mixed >> 16
    mixed *= 0x7FEB352D
    mixed ^= mixed >> 15
    mixed += second
    mixed *= 0x846CA68B
    mixed ^= mixed >> 16
    mixed *= 0x7FEB352D
    mixed ^= mixed >> 15
    mixed *= 0x846CA68B
    mixed ^= mixed >> 16
    return (mixed >> 16) >= level
