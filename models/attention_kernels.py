"""Attention within slots as Triton kernels: forward pass, and backward passes by query and by key.

A program works on one block of rows of one slot, for one head of one seed. It goes through the slot's real keys (or
queries) block by block and never through filler; scores are kept nowhere. The softmax is put together as in
FlashAttention (Dao et al., 2022): the largest score so far and the sum of exponentials go along, and the backward
passes compute probabilities anew from the log-sum-exps.

Two kinds of queries: the tokens themselves (QUERIES 0), or so many questions to each slot (QUERIES > 0).

Legend: S seeds, N capacity for tokens, H heads, D features of a head. Tensors have rows of H * D features; `stride` is
the step from row to row and `step` that from seed to seed. `starts` and `used` (S, n): first token of each slot, and
number of its tokens. `blocks` (blocks, 2) int32: slot and first place of each block, as many as the fullest batch
needs. `most`: tokens of the largest slot. `queries`: rows of all slots together. `dice` (S, 4) int16: the seed's
random number, of which dropout is made; `level` of 65,536 probabilities are dropped. Tensors without a `stride` are
contiguous.
"""

from __future__ import annotations

import triton
import triton.language as tl

from models.random_kernels import kept, keys_of


@triton.jit
def _dropped(probabilities, first, second, query, key, most, level):
    """Probabilities (M, N) after dropout; what is dropped depends on the keys and on query and key alone."""
    keep = kept(first, second, query[:, None] * most + key[None, :], level)
    return tl.where(keep, probabilities * (65536 / (65536 - level)), 0.0)


@triton.jit
def _keys(dice, seed, head):
    """Those of a head: another draw for each."""
    first, second = keys_of(dice, seed)
    return first, second + head.to(tl.uint32) * 0x9E3779B9


@triton.jit
def _product(a, b, PRECISION: tl.constexpr):
    """(M, K) times (K, N) in float32; of different types, both in float32."""
    if a.dtype == b.dtype:
        product = tl.dot(a, b, input_precision=PRECISION)
    else:
        product = tl.dot(a.to(tl.float32), b.to(tl.float32), input_precision=PRECISION)
    return product


@triton.jit
def forward(
    q, k, v, out, sums, starts, used, blocks, dice,
    q_step, q_stride, k_step, k_stride, slots, queries, most, level, scale,
    H: tl.constexpr, D: tl.constexpr, M: tl.constexpr, N: tl.constexpr,
    QUERIES: tl.constexpr, DROPOUT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Mixed values `out` (S, queries, H * D) and log-sum-exps of scores `sums` (S, queries, H); zeros for questions to
    slots of nobody. Filler is left as it is."""
    block, head, seed = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    slot, first = tl.load(blocks + 2 * block), tl.load(blocks + 2 * block + 1)
    start = tl.load(starts + seed * slots + slot).to(tl.int32)
    length = tl.load(used + seed * slots + slot).to(tl.int32)
    place, feature = first + tl.arange(0, M), tl.arange(0, D)
    if QUERIES > 0:
        row, there = slot * QUERIES + place, place < QUERIES
    else:
        row, there = start + place, place < length
    at = head * D + feature[None, :]
    asked = tl.load(q + seed * q_step + row[:, None] * q_stride + at, mask=there[:, None], other=0.0)
    largest = tl.full([M], float("-inf"), tl.float32)
    total = tl.zeros([M], tl.float32)
    mixed = tl.zeros([M, D], tl.float32)
    end = length
    if QUERIES == 0:
        end = tl.where(first < length, length, 0)  # a block of filler alone
    if DROPOUT:
        first_key, second_key = _keys(dice, seed, head)
    for begin in range(0, end, N):
        key = begin + tl.arange(0, N)
        real = key < length
        here = seed * k_step + (start + key)[:, None] * k_stride + at
        keys = tl.load(k + here, mask=real[:, None], other=0.0)
        values = tl.load(v + here, mask=real[:, None], other=0.0)
        scores = _product(asked, tl.trans(keys), PRECISION) * scale
        scores = tl.where(real[None, :], scores, float("-inf"))
        larger = tl.maximum(largest, tl.max(scores, 1))
        shrink = tl.exp(largest - larger)
        probabilities = tl.exp(scores - larger[:, None])
        total = total * shrink + tl.sum(probabilities, 1)
        if DROPOUT:
            probabilities = _dropped(probabilities, first_key, second_key, row, key, most, level)
        mixed = mixed * shrink[:, None] + tl.dot(probabilities.to(values.dtype), values, input_precision=PRECISION)
        largest = larger
    if QUERIES > 0:
        full = place < tl.where(length > 0, QUERIES, 0)
    else:
        full = place < length
    mixed = tl.where(full[:, None], mixed / tl.where(full, total, 1.0)[:, None], 0.0)
    logs = tl.where(full, tl.where(full, largest, 0.0) + tl.log(tl.where(full, total, 1.0)), 0.0)
    place_out = (seed * queries + row)[:, None] * (H * D) + at
    tl.store(out + place_out, mixed.to(out.dtype.element_ty), mask=there[:, None])
    tl.store(sums + (seed * queries + row) * H + head, logs, mask=there)


@triton.jit
def backward_queries(
    q, k, v, out, sums, d_out, d_sums, d_q, shares, starts, used, blocks, dice,
    q_step, q_stride, k_step, k_stride, dq_step, dq_stride, slots, queries, most, level, scale,
    H: tl.constexpr, D: tl.constexpr, M: tl.constexpr, N: tl.constexpr,
    QUERIES: tl.constexpr, DROPOUT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Gradient `d_q` of the queries; and `shares` (S, queries, H), what every score's gradient has taken off it."""
    block, head, seed = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    slot, first = tl.load(blocks + 2 * block), tl.load(blocks + 2 * block + 1)
    start = tl.load(starts + seed * slots + slot).to(tl.int32)
    length = tl.load(used + seed * slots + slot).to(tl.int32)
    place, feature = first + tl.arange(0, M), tl.arange(0, D)
    if QUERIES > 0:
        row, there = slot * QUERIES + place, place < QUERIES
        real_query = place < tl.where(length > 0, QUERIES, 0)
    else:
        row, there = start + place, place < length
        real_query = place < length
    at = head * D + feature[None, :]
    asked = tl.load(q + seed * q_step + row[:, None] * q_stride + at, mask=real_query[:, None], other=0.0)
    place_out = (seed * queries + row)[:, None] * (H * D) + at
    mixed = tl.load(out + place_out, mask=real_query[:, None], other=0.0).to(tl.float32)
    incoming = tl.load(d_out + place_out, mask=real_query[:, None], other=0.0)
    place_sum = (seed * queries + row) * H + head
    logs = tl.load(sums + place_sum, mask=real_query, other=0.0)
    share = tl.sum(mixed * incoming.to(tl.float32), 1)
    if QUERIES > 0:
        share -= tl.load(d_sums + place_sum, mask=real_query, other=0.0)
    tl.store(shares + place_sum, share, mask=there)
    gradient = tl.zeros([M, D], tl.float32)
    end = length
    if QUERIES == 0:
        end = tl.where(first < length, length, 0)
    if DROPOUT:
        first_key, second_key = _keys(dice, seed, head)
    for begin in range(0, end, N):
        key = begin + tl.arange(0, N)
        real = key < length
        here = seed * k_step + (start + key)[:, None] * k_stride + at
        keys = tl.load(k + here, mask=real[:, None], other=0.0)
        values = tl.load(v + here, mask=real[:, None], other=0.0)
        scores = _product(asked, tl.trans(keys), PRECISION) * scale
        probabilities = tl.where(real[None, :] & real_query[:, None], tl.exp(scores - logs[:, None]), 0.0)
        of_probabilities = _product(incoming, tl.trans(values), PRECISION)
        if DROPOUT:
            of_probabilities = _dropped(of_probabilities, first_key, second_key, row, key, most, level)
        of_scores = probabilities * (of_probabilities - share[:, None])
        gradient += tl.dot(of_scores.to(keys.dtype), keys, input_precision=PRECISION)
    place_q = seed * dq_step + row[:, None] * dq_stride + at
    tl.store(d_q + place_q, (gradient * scale).to(d_q.dtype.element_ty), mask=there[:, None])


@triton.jit
def backward_keys(
    q, k, v, sums, d_out, d_k, d_v, shares, starts, used, blocks, dice,
    q_step, q_stride, k_step, k_stride, dk_step, dk_stride, slots, queries, most, level, scale,
    H: tl.constexpr, D: tl.constexpr, M: tl.constexpr, N: tl.constexpr,
    QUERIES: tl.constexpr, DROPOUT: tl.constexpr, PRECISION: tl.constexpr, ADD: tl.constexpr,
):  # fmt: skip
    """Gradients `d_k`, `d_v` of keys and values; added to what is there if ADD."""
    block, head, seed = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    slot, first = tl.load(blocks + 2 * block), tl.load(blocks + 2 * block + 1)
    start = tl.load(starts + seed * slots + slot).to(tl.int32)
    length = tl.load(used + seed * slots + slot).to(tl.int32)
    key, feature = first + tl.arange(0, N), tl.arange(0, D)
    real = key < length
    at = head * D + feature[None, :]
    here = seed * k_step + (start + key)[:, None] * k_stride + at
    keys = tl.load(k + here, mask=real[:, None], other=0.0)
    values = tl.load(v + here, mask=real[:, None], other=0.0)
    of_keys = tl.zeros([N, D], tl.float32)
    of_values = tl.zeros([N, D], tl.float32)
    if QUERIES > 0:
        count = QUERIES
    else:
        count = length
    if DROPOUT:
        first_key, second_key = _keys(dice, seed, head)
    for begin in range(0, tl.where(first < length, count, 0), M):
        place = begin + tl.arange(0, M)
        asking = place < count
        if QUERIES > 0:
            row = slot * QUERIES + place
        else:
            row = start + place
        asked = tl.load(q + seed * q_step + row[:, None] * q_stride + at, mask=asking[:, None], other=0.0)
        place_out = (seed * queries + row)[:, None] * (H * D) + at
        incoming = tl.load(d_out + place_out, mask=asking[:, None], other=0.0)
        place_sum = (seed * queries + row) * H + head
        logs = tl.load(sums + place_sum, mask=asking, other=0.0)
        share = tl.load(shares + place_sum, mask=asking, other=0.0)
        scores = _product(asked, tl.trans(keys), PRECISION) * scale
        probabilities = tl.where(asking[:, None] & real[None, :], tl.exp(scores - logs[:, None]), 0.0)
        of_probabilities = _product(incoming, tl.trans(values), PRECISION)
        passed = probabilities
        if DROPOUT:
            passed = _dropped(probabilities, first_key, second_key, row, key, most, level)
            of_probabilities = _dropped(of_probabilities, first_key, second_key, row, key, most, level)
        of_values += tl.dot(tl.trans(passed).to(incoming.dtype), incoming, input_precision=PRECISION)
        of_scores = probabilities * (of_probabilities - share[:, None])
        of_keys += tl.dot(tl.trans(of_scores).to(asked.dtype), asked, input_precision=PRECISION)
    of_keys, mask = of_keys * scale, real[:, None]
    target = seed * dk_step + (start + key)[:, None] * dk_stride + at
    if ADD:
        of_keys += tl.load(d_k + target, mask=mask, other=0.0).to(tl.float32)
        of_values += tl.load(d_v + target, mask=mask, other=0.0).to(tl.float32)
    tl.store(d_k + target, of_keys.to(d_k.dtype.element_ty), mask=mask)
    tl.store(d_v + target, of_values.to(d_v.dtype.element_ty), mask=mask)
