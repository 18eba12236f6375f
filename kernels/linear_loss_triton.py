"""The row kernel of `linear_policy_loss`: statistics, loss and d logits of a row, in one launch."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .logprob_triton import (
    head_options,
    label_score,
    on_device,
    row_shape,
    row_statistics,
    write_gradient,
)
from .loss_terms import PolicyLossConfig
from .loss_triton import loss_options, token_terms_kernel_part


@triton.jit
def linear_loss_kernel(
    logits,
    labels,
    gains,
    olds,
    refs,
    rollouts,
    weights,
    bias,
    logp_out,
    entropy_out,
    loss_out,
    ratio_out,
    kl_out,
    V,
    stride,
    inv_t,
    cap,
    clip_low,
    clip_high,
    dual_clip,
    kl_coef,
    entropy_coef,
    tis_cap,
    bound,
    sapo_pos,
    sapo_neg,
    HAS_BIAS: tl.constexpr,
    CAP: tl.constexpr,
    RATIO: tl.constexpr,
    KL: tl.constexpr,
    UNBIASED: tl.constexpr,
    HAS_OLD: tl.constexpr,
    HAS_REF: tl.constexpr,
    HAS_ROLLOUT: tl.constexpr,
    GRADIENT: tl.constexpr,
    B: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    row_ptr = logits + row * stride
    label = tl.load(labels + row)
    lse, entropy = row_statistics(row_ptr, bias, V, inv_t, cap, HAS_BIAS, CAP, B)
    now = label_score(row_ptr, bias, label, V, inv_t, cap, HAS_BIAS, CAP) - lse
    old = now
    if HAS_OLD:
        old = tl.load(olds + row)
    ref = now
    if HAS_REF:
        ref = tl.load(refs + row)
    rollout = old
    if HAS_ROLLOUT:
        rollout = tl.load(rollouts + row)
    loss, d_ratio, d_direct, d_entropy, ratio, kl = token_terms_kernel_part(
        now,
        tl.load(gains + row),
        now - old,
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
    tl.store(logp_out + row, now)
    tl.store(entropy_out + row, entropy)
    tl.store(loss_out + row, loss)
    tl.store(ratio_out + row, ratio)
    tl.store(kl_out + row, kl)
    if GRADIENT:
        # Every warp has read the row's label above before any of them writes over the row.
        tl.debug_barrier()
        weight = tl.load(weights + row)
        # A row without weight gets zeros, whatever it holds.
        g_logp = tl.where(weight == 0.0, 0.0, weight * (d_ratio + d_direct))
        g_entropy = tl.where(weight == 0.0, 0.0, weight * d_entropy)
        write_gradient(
            row_ptr,
            row_ptr,
            bias,
            label,
            lse,
            entropy,
            g_logp,
            g_entropy,
            V,
            inv_t,
            cap,
            HAS_BIAS,
            CAP,
            B,
        )


def loss_rows_triton(
    logits: Tensor,
    labels: Tensor,
    rows: tuple[Tensor | None, ...],
    bias: Tensor | None,
    softcap: float | None,
    temperature: float,
    config: PolicyLossConfig,
    gradient: bool,
) -> tuple[Tensor, ...]:
    """`loss_rows`; logits are contiguous [n, V], n >= 1."""
    gain, old, ref, rollout, weights = rows
    count, vocabulary = logits.shape
    outputs = tuple(torch.empty(count, device=logits.device) for _ in range(5))
    names = ("logp_out", "entropy_out", "loss_out", "ratio_out", "kl_out")
    with on_device(logits):
        linear_loss_kernel[(count,)](
            logits=logits,
            labels=labels,
            gains=gain,
            olds=gain if old is None else old,
            refs=gain if ref is None else ref,
            rollouts=gain if rollout is None else rollout,
            weights=weights,
            **dict(zip(names, outputs, strict=True)),
            V=vocabulary,
            stride=logits.stride(0),
            inv_t=1 / temperature,
            HAS_OLD=old is not None,
            HAS_ROLLOUT=rollout is not None,
            GRADIENT=gradient,
            **head_options(bias, softcap, logits),
            **loss_options(config, ref is not None),
            **row_shape(vocabulary),
        )
    return outputs
