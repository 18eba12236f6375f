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
from .loss_config import PolicyLossConfig
from .loss_terms import RowResults, TokenInputs
from .loss_triton import kernel_arguments, token_terms_part


@triton.jit
def linear_loss_kernel(
    logits,
    labels,
    advantages_in,
    old_logp_in,
    ref_logp_in,
    rollout_logp_in,
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
    coefficients,
    loss_numbers,
    kl_numbers,
    HAS_BIAS: tl.constexpr,
    CAP: tl.constexpr,
    LOSS: tl.constexpr,
    KL: tl.constexpr,
    KL_UNBIASED: tl.constexpr,
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
    logp = label_score(row_ptr, bias, label, V, inv_t, cap, HAS_BIAS, CAP) - lse
    old_logp = logp
    if HAS_OLD:
        old_logp = tl.load(old_logp_in + row)
    ref_logp = logp
    if HAS_REF:
        ref_logp = tl.load(ref_logp_in + row)
    rollout_logp = old_logp
    if HAS_ROLLOUT:
        rollout_logp = tl.load(rollout_logp_in + row)
    loss, d_log_ratio, d_logp, d_entropy, ratio, kl = token_terms_part(
        logp=logp,
        log_ratio=logp - old_logp,
        advantages=tl.load(advantages_in + row),
        old_logp=old_logp,
        ref_logp=ref_logp,
        rollout_logp=rollout_logp,
        entropy=entropy,
        coefficients=coefficients,
        loss_numbers=loss_numbers,
        kl_numbers=kl_numbers,
        LOSS=LOSS,
        KL=KL,
        KL_UNBIASED=KL_UNBIASED,
        HAS_REF=HAS_REF,
    )
    tl.store(logp_out + row, logp)
    tl.store(entropy_out + row, entropy)
    tl.store(loss_out + row, loss)
    tl.store(ratio_out + row, ratio)
    tl.store(kl_out + row, kl)
    if GRADIENT:
        # Every warp has read the row's label above before any of them writes over the row.
        tl.debug_barrier()
        weight = tl.load(weights + row)
        # A row without weight gets zeros, whatever it holds.
        g_logp = tl.where(weight == 0.0, 0.0, weight * (d_log_ratio + d_logp))
        g_entropy = tl.where(weight == 0.0, 0.0, weight * d_entropy)
        write_gradient(
            out_ptr=row_ptr,
            row_ptr=row_ptr,
            bias_ptr=bias,
            label=label,
            lse=lse,
            entropy=entropy,
            g_logp=g_logp,
            g_entropy=g_entropy,
            V=V,
            inv_t=inv_t,
            cap=cap,
            HAS_BIAS=HAS_BIAS,
            CAP=CAP,
            B=B,
        )


def loss_rows_triton(
    *,
    logits: Tensor,
    labels: Tensor,
    inputs: TokenInputs,
    weights: Tensor,
    bias: Tensor | None,
    softcap: float | None,
    temperature: float,
    config: PolicyLossConfig,
    gradient: bool,
) -> RowResults:
    """`loss_rows`; logits are contiguous [n, V], n >= 1. A missing pointer is any other one."""
    count, vocabulary = logits.shape
    results = RowResults(*(torch.empty(count, device=logits.device) for _ in RowResults._fields))
    advantages = inputs.advantages
    with on_device(logits):
        linear_loss_kernel[(count,)](
            logits=logits,
            labels=labels,
            advantages_in=advantages,
            old_logp_in=advantages if inputs.old_logp is None else inputs.old_logp,
            ref_logp_in=advantages if inputs.ref_logp is None else inputs.ref_logp,
            rollout_logp_in=advantages if inputs.rollout_logp is None else inputs.rollout_logp,
            weights=weights,
            **{f"{name}_out": tensor for name, tensor in results._asdict().items()},
            V=vocabulary,
            stride=logits.stride(0),
            inv_t=1 / temperature,
            HAS_OLD=inputs.old_logp is not None,
            HAS_ROLLOUT=inputs.rollout_logp is not None,
            GRADIENT=gradient,
            **head_options(bias, softcap, logits),
            **kernel_arguments(config, has_ref=inputs.ref_logp is not None),
            **row_shape(vocabulary),
        )
    return results
