"""What a loss does to its rows before the first product and after the last one: a launch each.

One program goes over all rows, so sums have one order, and nothing between two sums has to wait.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .logprob_triton import on_device
from .loss_config import PolicyLossConfig
from .loss_metrics import METRICS
from .loss_terms import IGNORE, RowResults

BLOCK, WARPS = 2048, 8
# The ratio of a row that counts and that no chunk has brought yet; a real one is above 0 or NaN.
ABSENT = tl.constexpr(-1.0)


@triton.jit
def rows_at(
    labels, mask, advantages, at, count, ignore, HAS_MASK: tl.constexpr, SIGNAL: tl.constexpr
):
    """(live, scored) of some rows; SIGNAL: a row of advantage 0 is not scored."""
    here = at < count
    live = (tl.load(labels + at, mask=here, other=ignore) != ignore) & here
    if HAS_MASK:
        live = live & (tl.load(mask + at, mask=here, other=0) != 0)
    scored = live
    if SIGNAL:
        scored = live & (tl.load(advantages + at, mask=here, other=0.0) != 0.0)
    return live, scored


@triton.jit
def open_loss_kernel(
    labels,
    mask,
    advantages,
    normalizer,
    given_weights,
    weights_out,
    scale_out,
    scored_out,
    rows_out,
    counts_out,
    logp_out,
    entropy_out,
    loss_out,
    ratio_out,
    kl_out,
    count,
    ignore,
    HAS_MASK: tl.constexpr,
    HAS_NORMALIZER: tl.constexpr,
    HAS_WEIGHTS: tl.constexpr,
    SIGNAL: tl.constexpr,
    B: tl.constexpr,
):
    lane = tl.arange(0, B)
    lives = tl.zeros((B,), tl.int32)
    scoreds = tl.zeros((B,), tl.int32)
    largest = tl.full((B,), 1.1754943508222875e-38, tl.float32)
    for start in range(0, count, B):
        at = start + lane
        live, scored = rows_at(labels, mask, advantages, at, count, ignore, HAS_MASK, SIGNAL)
        lives += live.to(tl.int32)
        scoreds += scored.to(tl.int32)
        if HAS_WEIGHTS:
            weight = tl.load(given_weights + at, mask=at < count, other=0.0)
            largest = tl.where(weight > largest, weight, largest)
    whole = tl.sum(lives, 0)
    first_dead = tl.sum(scoreds, 0)
    if HAS_WEIGHTS:
        scale = tl.max(largest, 0)
    else:
        divisor = tl.maximum(whole, 1).to(tl.float32)
        if HAS_NORMALIZER:
            divisor = tl.load(normalizer).to(tl.float32)
        # Where nothing counts, a global count may be 0 too.
        scale = tl.where(whole == 0, 1.1754943508222875e-38, 1.0 / divisor)
    tl.store(scale_out, scale)
    tl.store(counts_out, first_dead.to(tl.int64))
    tl.store(counts_out + 1, whole.to(tl.int64))
    before = tl.zeros((), tl.int32)
    for start in range(0, count, B):
        at = start + lane
        here = at < count
        live, scored = rows_at(labels, mask, advantages, at, count, ignore, HAS_MASK, SIGNAL)
        weight = live.to(tl.float32)
        if HAS_WEIGHTS:
            weight = tl.load(given_weights + at, mask=here, other=0.0) / scale
        tl.store(weights_out + at, weight, mask=here)
        tl.store(scored_out + at, scored, mask=here)
        one = scored.to(tl.int32)
        ahead = before + tl.cumsum(one, 0) - one
        place = tl.where(scored, ahead, first_dead + at - ahead)
        tl.store(rows_out + place, at.to(tl.int64), mask=here)
        before += tl.sum(one, 0)
        unknown = tl.where(scored, float("nan"), 0.0)
        tl.store(logp_out + at, unknown, mask=here)
        tl.store(entropy_out + at, unknown, mask=here)
        tl.store(loss_out + at, unknown, mask=here)
        tl.store(ratio_out + at, tl.where(scored, ABSENT, 0.0), mask=here)
        tl.store(kl_out + at, unknown, mask=here)


@triton.jit
def close_loss_kernel(
    losses,
    weights,
    scored_in,
    ratios,
    kls,
    entropies,
    advantages,
    scale_in,
    counts,
    loss_out,
    scale_out,
    metrics_out,
    count,
    low,
    high,
    B: tl.constexpr,
):
    lane = tl.arange(0, B)
    zero = tl.zeros((B,), tl.float32)
    loss, ratio_sum, kl, entropy = zero, zero, zero, zero
    lows, highs, lefts = zero, zero, zero
    largest = tl.full((B,), -float("inf"), tl.float32)
    smallest = tl.full((B,), float("inf"), tl.float32)
    for start in range(0, count, B):
        at = start + lane
        here = at < count
        scored = tl.load(scored_in + at, mask=here, other=0) != 0
        ratio = tl.load(ratios + at, mask=here, other=0.0)
        left = scored & (ratio == ABSENT)
        ratio = tl.where(left, float("nan"), ratio)
        advantage = tl.load(advantages + at, mask=here, other=0.0).to(tl.float32)
        weight = tl.load(weights + at, mask=here, other=0.0)
        loss += tl.load(losses + at, mask=here, other=0.0) * weight
        ratio_sum += ratio
        kl += tl.load(kls + at, mask=here, other=0.0)
        entropy += tl.load(entropies + at, mask=here, other=0.0)
        lows += (scored & (ratio < low) & (advantage < 0)).to(tl.float32)
        highs += (scored & (ratio > high) & (advantage > 0)).to(tl.float32)
        lefts += left.to(tl.float32)
        largest = tl.where(scored & (ratio > largest), ratio, largest)
        smallest = tl.where(scored & (ratio < smallest), ratio, smallest)
    scale = tl.load(scale_in)
    tl.store(loss_out, tl.sum(loss, 0) * scale)
    tl.store(scale_out, tl.where(tl.sum(lefts, 0) > 0, float("nan"), scale))
    scored_count = tl.load(counts)
    live_count = tl.load(counts + 1)
    size = tl.maximum(scored_count, 1).to(tl.float32)
    share = tl.maximum(live_count, 1).to(tl.float32)
    total = tl.sum(ratio_sum, 0)
    # Comparisons leave NaN out; the sum has it.
    extreme = tl.where(total == total, 0.0, float("nan"))
    none = scored_count == 0
    tl.store(metrics_out, total / size)
    tl.store(metrics_out + 1, tl.where(none, 1.0, tl.max(largest, 0)) + extreme)
    tl.store(metrics_out + 2, tl.where(none, 1.0, tl.min(smallest, 0)) + extreme)
    tl.store(metrics_out + 3, tl.sum(lows, 0) / share)
    tl.store(metrics_out + 4, tl.sum(highs, 0) / share)
    tl.store(metrics_out + 5, tl.sum(kl, 0) / size)
    tl.store(metrics_out + 6, tl.sum(entropy, 0) / size)
    tl.store(metrics_out + 7, live_count.to(tl.float32))


def open_rows(
    labels: Tensor,
    mask: Tensor | None,
    advantages: Tensor,
    normalizer: Tensor | None,
    weights: Tensor | None,
    *,
    signal: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, RowResults]:
    """(weights relative to the largest [N], the largest, scored [N], rows [N], counts, results).

    rows: positions of the scored rows, and then of the others. counts: (scored, live). results: 0
    where a row is not scored, and not known yet where it is. weights: given, or made of the counts.
    """
    count, device = len(labels), labels.device
    numbers = [torch.empty(count, dtype=torch.float32, device=device) for _ in range(6)]
    scale = torch.empty((), dtype=torch.float32, device=device)
    scored = torch.empty(count, dtype=torch.bool, device=device)
    rows = torch.empty(count, dtype=torch.int64, device=device)
    counts = torch.empty(2, dtype=torch.int64, device=device)
    results = RowResults(*numbers[1:])
    labels = labels.contiguous()
    with on_device(labels):
        open_loss_kernel[(1,)](
            labels=labels,
            mask=labels if mask is None else mask.contiguous(),
            advantages=advantages.contiguous(),
            normalizer=scale if normalizer is None else normalizer,
            given_weights=scale if weights is None else weights,
            weights_out=numbers[0],
            scale_out=scale,
            scored_out=scored,
            rows_out=rows,
            counts_out=counts,
            **{f"{name}_out": one for name, one in results._asdict().items()},
            count=count,
            ignore=IGNORE,
            HAS_MASK=mask is not None,
            HAS_NORMALIZER=normalizer is not None,
            HAS_WEIGHTS=weights is not None,
            SIGNAL=signal,
            B=BLOCK,
            num_warps=WARPS,
        )
    return numbers[0], scale, scored, rows, counts, results


def close_rows(
    results: RowResults,
    weights: Tensor,
    scored: Tensor,
    advantages: Tensor,
    scale: Tensor,
    counts: Tensor,
    config: PolicyLossConfig,
) -> tuple[Tensor, Tensor, Tensor]:
    """(loss, the largest weight, metrics). A scored row that no chunk brought makes them NaN."""
    loss, factor = torch.empty_like(scale), torch.empty_like(scale)
    metrics = scale.new_empty(len(METRICS))
    with on_device(scale):
        close_loss_kernel[(1,)](
            losses=results.loss,
            weights=weights,
            scored_in=scored,
            ratios=results.ratio,
            kls=results.kl,
            entropies=results.entropy,
            advantages=advantages.contiguous(),
            scale_in=scale,
            counts=counts,
            loss_out=loss,
            scale_out=factor,
            metrics_out=metrics,
            count=len(scored),
            low=1.0 - config.clip_low,
            high=1.0 + config.clip_high,
            B=BLOCK,
            num_warps=WARPS,
        )
    return loss, factor, metrics
