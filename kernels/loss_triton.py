"""Triton form of `token_terms`: one pass over the tokens, everything read and written once."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .logprob_triton import on_device
from .loss_terms import KINDS, RATIOS, PolicyLossConfig, Terms


@triton.jit
def bounded(x, low, high):
    """clamp that keeps NaN, which tl.minimum and tl.maximum drop."""
    return tl.where(x < low, low, tl.where(x > high, high, x))


@triton.jit
def token_terms_kernel_part(
    now,
    gain,
    log_ratio,
    old,
    ref,
    rollout,
    entropy,
    clip_low,
    clip_high,
    dual_clip,
    kl_coef,
    entropy_coef,
    tis_cap,
    bound,
    sapo_pos,
    sapo_neg,
    RATIO: tl.constexpr,
    KL: tl.constexpr,
    UNBIASED: tl.constexpr,
    HAS_REF: tl.constexpr,
):
    """`token_terms` on registers; dual_clip and tis_cap are 0 where they are off. RATIO: an index
    of RATIOS, where a sequence's ratio is as a token's."""
    nan = float("nan")
    inside = tl.abs(log_ratio) <= bound
    ratio = tl.exp(bounded(log_ratio, -bound, bound))
    clipped = bounded(ratio, 1.0 - clip_low, 1.0 + clip_high)
    zero = tl.where(now == now, 0.0, 0.0)
    if RATIO == 2:
        loss = -clipped * gain * now
        d_ratio = zero
        d_direct = -clipped * gain
    elif RATIO == 3:
        tau = tl.where(gain > 0.0, sapo_pos, sapo_neg)
        reach = tau * (ratio - 1.0)
        loss = -(4.0 / tau) * tl.sigmoid(reach) * gain
        slope = 4.0 * tl.sigmoid(reach) * tl.sigmoid(-reach)
        d_ratio = tl.where(inside, -slope * ratio * gain, 0.0)
        d_direct = zero
    else:
        free = ratio * gain <= clipped * gain
        loss = -tl.where(free, ratio * gain, clipped * gain)
        d_ratio = tl.where(free & inside, -ratio * gain, 0.0)
        ceiling = -dual_clip * gain
        over = (dual_clip > 0.0) & (gain < 0.0) & (loss > ceiling)
        loss = tl.where(over, ceiling, loss)
        d_ratio = tl.where(over, 0.0, d_ratio)
        d_direct = zero
    kl = zero
    if HAS_REF:
        raw = ref - now
        d = bounded(raw, -bound, bound)
        # exp(d) - 1 without libdevice: its series where the difference would cancel.
        series = d * (1.0 + d * (0.5 + d * (1.0 / 6.0 + d / 24.0)))
        above = tl.where(tl.abs(d) < 0.05, series, tl.exp(d) - 1.0)
        square = d * d * (0.5 + d * (1.0 / 6.0 + d * (1.0 / 24.0 + d / 120.0)))
        if KL == 1:
            kl = -d
            bend = zero + 1.0
        elif KL == 2:
            kl = d * d * 0.5
            bend = -d
        else:
            kl = tl.where(tl.abs(d) < 0.05, square, above - d)
            bend = -above
        on = kl_coef != 0.0
        coef = zero + kl_coef
        if UNBIASED:
            coef *= ratio
            d_ratio += tl.where(on & inside, coef * kl, 0.0)
        loss += tl.where(on, coef * kl, 0.0)
        d_direct += tl.where(on & (tl.abs(raw) <= bound), coef * bend, 0.0)
    loss -= tl.where(entropy_coef != 0.0, entropy_coef * entropy, 0.0)
    trust = tl.exp(bounded(old - rollout, -bound, bound))
    trust = tl.where(tis_cap > 0.0, tl.where(trust > tis_cap, tis_cap, trust), 1.0)
    loss *= trust
    d_entropy = -entropy_coef * trust
    bad = (loss != loss) | (now != now) | (gain != gain)
    loss = tl.where(bad, nan, loss)
    d_ratio = tl.where(bad, nan, d_ratio * trust)
    return loss, d_ratio, d_direct * trust, d_entropy, ratio, kl


@triton.jit
def policy_loss_kernel(
    now_ptr,
    gain_ptr,
    log_ratio_ptr,
    old_ptr,
    ref_ptr,
    rollout_ptr,
    entropy_ptr,
    loss_ptr,
    d_ratio_ptr,
    d_direct_ptr,
    d_entropy_ptr,
    ratio_ptr,
    kl_ptr,
    count,
    clip_low,
    clip_high,
    dual_clip,
    kl_coef,
    entropy_coef,
    tis_cap,
    bound,
    sapo_pos,
    sapo_neg,
    RATIO: tl.constexpr,
    KL: tl.constexpr,
    UNBIASED: tl.constexpr,
    HAS_REF: tl.constexpr,
    HAS_ROLLOUT: tl.constexpr,
    HAS_ENTROPY: tl.constexpr,
    B: tl.constexpr,
):
    at = tl.program_id(0).to(tl.int64) * B + tl.arange(0, B)
    here = at < count
    now = tl.load(now_ptr + at, mask=here, other=0.0)
    old = tl.load(old_ptr + at, mask=here, other=0.0)
    ref = now
    rollout = old
    entropy = tl.zeros((B,), tl.float32)
    if HAS_REF:
        ref = tl.load(ref_ptr + at, mask=here, other=0.0)
    if HAS_ROLLOUT:
        rollout = tl.load(rollout_ptr + at, mask=here, other=0.0)
    if HAS_ENTROPY:
        entropy = tl.load(entropy_ptr + at, mask=here, other=0.0)
    loss, d_ratio, d_direct, d_entropy, ratio, kl = token_terms_kernel_part(
        now,
        tl.load(gain_ptr + at, mask=here, other=0.0),
        tl.load(log_ratio_ptr + at, mask=here, other=0.0),
        old,
        ref,
        rollout,
        entropy,
        clip_low,
        clip_high,
        dual_clip,
        kl_coef,
        entropy_coef,
        tis_cap,
        bound,
        sapo_pos,
        sapo_neg,
        RATIO,
        KL,
        UNBIASED,
        HAS_REF,
    )
    tl.store(loss_ptr + at, loss, mask=here)
    tl.store(d_ratio_ptr + at, d_ratio, mask=here)
    tl.store(d_direct_ptr + at, d_direct, mask=here)
    tl.store(d_entropy_ptr + at, d_entropy, mask=here)
    tl.store(ratio_ptr + at, ratio, mask=here)
    tl.store(kl_ptr + at, kl, mask=here)


def loss_options(config: PolicyLossConfig, has_ref: bool) -> dict:
    """The configuration as arguments of a kernel: numbers at run time, kinds compiled in."""
    low, high, dual, kl_coef, entropy_coef, cap, bound, pos, neg = config.numbers()
    return {
        **{"clip_low": low, "clip_high": high, "dual_clip": dual, "kl_coef": kl_coef},
        **{"entropy_coef": entropy_coef, "tis_cap": cap, "bound": bound},
        **{"sapo_pos": pos, "sapo_neg": neg},
        "RATIO": RATIOS.index(config.ratio),
        "KL": KINDS.index(config.kl) + 1,
        "UNBIASED": config.kl_unbiased,
        "HAS_REF": has_ref,
    }


def token_terms_triton(
    now: Tensor,
    gain: Tensor,
    log_ratio: Tensor,
    old: Tensor,
    ref: Tensor | None,
    rollout: Tensor | None,
    entropy: Tensor | None,
    config: PolicyLossConfig,
) -> Terms:
    terms = Terms(*(torch.empty_like(now) for _ in Terms._fields))
    block = 1024
    if len(now):
        with on_device(now):
            policy_loss_kernel[(triton.cdiv(len(now), block),)](
                now,
                gain,
                log_ratio,
                old,
                now if ref is None else ref,
                now if rollout is None else rollout,
                now if entropy is None else entropy,
                *terms,
                len(now),
                **loss_options(config, ref is not None),
                HAS_ROLLOUT=rollout is not None,
                HAS_ENTROPY=entropy is not None,
                B=block,
                num_warps=4,
            )
    return terms
