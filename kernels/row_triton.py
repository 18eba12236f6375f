"""Triton functions over one row of logits: softmax statistics, and the gradient by the logits.

A row is read in tiles of T lanes with K logits each, as many as one load of 16 bytes brings. Each
lane keeps its own maximum, sum and moment, and the lanes meet once, after the loop: no barrier and
no shuffle stands in a loop. The maximum is subtracted before a logit is scaled, and it is kept
beside the sum and not added to its logarithm, so that logits far from 0 lose nothing. Full tiles
are read without a mask; only the last one, which may be partly outside the row, has one. PADDED
rows have room for whole loads of 16 bytes, so that an odd V is read by such loads to its end.

A row's score is softcap(scale * (logit + bias)) / temperature. Without a soft cap the scale is part
of `rate`, with one it is part of `slope`. Exponentials are of base 2. Offsets are int64:
V = 151,936 overflows int32 at row 14,135.
"""

from __future__ import annotations

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)
LN2 = tl.constexpr(0.6931471805599453)


@triton.jit
def capped(x, slope, cap):
    """(cap tanh(slope x), tanh(slope x)), without libdevice; exp overflows to inf: the limit."""
    t = 1.0 - 2.0 / (tl.exp2(slope * x * 2.8853900817779268) + 1.0)
    return cap * t, t


@triton.jit
def scores_at(
    row_ptr, bias_ptr, at, V, limit, slope, cap, HAS_BIAS: tl.constexpr, CAP: tl.constexpr,
    MASKED: tl.constexpr,
):  # fmt: skip
    """(what `rate` makes scores of, tanh) of one tile of a row; -inf past the end."""
    if MASKED:
        x = tl.load(row_ptr + at, mask=at < limit, other=-float("inf")).to(tl.float32)
        if HAS_BIAS:
            x += tl.load(bias_ptr + at, mask=at < V, other=0.0).to(tl.float32)
    else:
        x = tl.load(row_ptr + at).to(tl.float32)
        if HAS_BIAS:
            x += tl.load(bias_ptr + at).to(tl.float32)
    t = x
    if CAP:
        x, t = capped(x, slope, cap)
        if MASKED:
            x = tl.where(at < V, x, -float("inf"))
    return x, t


@triton.jit
def end_of_row(V, K: tl.constexpr, PADDED: tl.constexpr):
    """Where reading and writing must stop."""
    limit = V
    if PADDED:
        limit = (V + (K - 1)) // K * K
    return limit


@triton.jit
def fill_padding(row_ptr, V, K: tl.constexpr):
    """-inf behind the row, up to the end of the last load: it weighs nothing there."""
    at = V + tl.arange(0, K)
    tl.store(row_ptr + at, tl.full((K,), -float("inf"), tl.float32).to(row_ptr.dtype.element_ty),
             mask=at < end_of_row(V, K, True))  # fmt: skip
    tl.debug_barrier()


@triton.jit
def take_tile(x, top, total, moment, c):
    """The lanes' statistics with one more tile [T, K] in them; moment: sum of e (x - top) c."""
    new = tl.maximum(top, tl.max(x, 1))
    # All -inf so far: shift by 0, or exp(-inf + inf) would be NaN. Maxima drop NaN, sums keep it.
    base = tl.where(new == -float("inf"), 0.0, new)
    shifted = (x - base[:, None]) * c
    e = tl.exp2(shifted)
    gap = (tl.where(top == -float("inf"), base, top) - base) * c
    rescale = tl.exp2(gap)
    # e is 0 where the bound holds, and 0 * -inf would be NaN.
    moment = rescale * (moment + total * gap) + tl.sum(e * tl.maximum(shifted, -1e4), 1)
    return new, rescale * total + tl.sum(e, 1), moment


@triton.jit
def row_statistics(
    row_ptr, bias_ptr, V, rate, slope, cap, HAS_BIAS: tl.constexpr, CAP: tl.constexpr,
    T: tl.constexpr, K: tl.constexpr, PADDED: tl.constexpr,
):  # fmt: skip
    """(top, total, moment) of a row: the largest x (0 for a row of -inf), the sum of
    e = exp((x - top) rate), and the sum of e (x - top) rate."""
    lane = tl.arange(0, T)[:, None] * K + tl.arange(0, K)[None, :]
    top = tl.full((T,), -float("inf"), tl.float32)
    total = tl.zeros((T,), tl.float32)
    moment = tl.zeros((T,), tl.float32)
    c = rate * LOG2E
    B: tl.constexpr = T * K
    full = V // B * B
    if PADDED:
        fill_padding(row_ptr, V, K)
    for start in range(0, full, B):
        x, _ = scores_at(row_ptr, bias_ptr, start + lane, V, V, slope, cap, HAS_BIAS, CAP, False)
        top, total, moment = take_tile(x, top, total, moment, c)
    if full < V:
        limit = end_of_row(V, K, PADDED)
        x, _ = scores_at(row_ptr, bias_ptr, full + lane, V, limit, slope, cap, HAS_BIAS, CAP, True)
        top, total, moment = take_tile(x, top, total, moment, c)
    whole = tl.max(top, 0)
    whole = tl.where(whole == -float("inf"), 0.0, whole)
    gap = (tl.where(top == -float("inf"), whole, top) - whole) * c
    rescale = tl.exp2(gap)
    moment = tl.sum(rescale * (moment + total * gap), 0)
    return whole, tl.sum(rescale * total, 0), moment * LN2


@triton.jit
def label_score(
    row_ptr, bias_ptr, label, first, V, whole, slope, cap, HAS_BIAS: tl.constexpr,
    CAP: tl.constexpr,
):  # fmt: skip
    """The label's x: -inf where it is of another shard, NaN where it is outside all `whole`."""
    at = label - first
    here = (at >= 0) & (at < V)
    safe = tl.where(here, at, 0)
    x = tl.load(row_ptr + safe).to(tl.float32)
    if HAS_BIAS:
        x += tl.load(bias_ptr + safe).to(tl.float32)
    if CAP:
        x, _ = capped(x, slope, cap)
    elsewhere = tl.where((label >= 0) & (label < whole), -float("inf"), float("nan"))
    return tl.where(here, x, elsewhere)


@triton.jit
def d_scores(x, t, top, log2_total, entropy, minus_g_logp, g_entropy, c, CAP: tl.constexpr,
             ENTROPY: tl.constexpr):  # fmt: skip
    """d / dx of one tile but for the label's own part; g are times what makes scores of logits."""
    q = (x - top) * c - log2_total
    p = tl.exp2(q)
    if ENTROPY:
        # p is 0 where the bound holds.
        d = p * (minus_g_logp - g_entropy * (tl.maximum(q, -1e4) * LN2 + entropy))
    else:
        d = p * minus_g_logp
    if CAP:
        d *= 1.0 - t * t
    return d


@triton.jit
def write_gradient(
    out_ptr, row_ptr, bias_ptr, label, first, whole, top, total, entropy, g_logp, g_entropy, V,
    rate, slope, cap, HAS_BIAS: tl.constexpr, CAP: tl.constexpr, ENTROPY: tl.constexpr,
    T: tl.constexpr, K: tl.constexpr, PADDED: tl.constexpr,
):  # fmt: skip
    """d logits of a row, possibly over the logits themselves."""
    wrong = (label < 0) | (label >= whole)
    factor = rate
    if CAP:
        factor = rate * cap * slope
    g_logp = tl.where(wrong, float("nan"), g_logp) * factor
    g_entropy = g_entropy * factor
    at = label - first
    here = (at >= 0) & (at < V)
    safe = tl.where(here, at, 0)
    c = rate * LOG2E
    log2_total = tl.log2(total)
    # The label's logit is read before anything is written over it.
    y, y_t = scores_at(row_ptr, bias_ptr, safe, V, V, slope, cap, HAS_BIAS, CAP, False)
    minus_g_logp = -g_logp
    d_label = d_scores(y, y_t, top, log2_total, entropy, minus_g_logp, g_entropy, c, CAP, ENTROPY)
    own = g_logp
    if CAP:
        own *= 1.0 - y_t * y_t
    # Every warp has read what it needs of other warps' places before any of them writes.
    tl.debug_barrier()
    B: tl.constexpr = T * K
    full = V // B * B
    for start in range(0, full, B):
        place = start + tl.arange(0, B)
        x, t = scores_at(row_ptr, bias_ptr, place, V, V, slope, cap, HAS_BIAS, CAP, False)
        d = d_scores(x, t, top, log2_total, entropy, minus_g_logp, g_entropy, c, CAP, ENTROPY)
        tl.store(out_ptr + place, d.to(out_ptr.dtype.element_ty))
    if full < V:
        limit = end_of_row(V, K, PADDED)
        place = full + tl.arange(0, B)
        x, t = scores_at(row_ptr, bias_ptr, place, V, limit, slope, cap, HAS_BIAS, CAP, True)
        d = d_scores(x, t, top, log2_total, entropy, minus_g_logp, g_entropy, c, CAP, ENTROPY)
        tl.store(out_ptr + place, d.to(out_ptr.dtype.element_ty), mask=place < limit)
    tl.debug_barrier()
    tl.store(out_ptr + safe, (own + d_label).to(out_ptr.dtype.element_ty), mask=here)


def row_shape(vocabulary: int, element_size: int) -> dict[str, int]:
    """Lanes, logits per lane (16 bytes of them) and warps. A wide row takes 512 lanes x 8 warps:
    each thread holds two lanes, and all values stay in registers."""
    width = max(4, 16 // element_size)
    lanes = min(512, max(32, triton.next_power_of_2(vocabulary) // width))
    return {"T": lanes, "K": width, "num_warps": max(1, lanes // 64)}
