"""The row kernel of `linear_policy_loss`: statistics, loss and d logits of a row, in one launch."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from .head_chunks import Chunk
from .logprob_triton import form_options, on_device, rate_at, width_options, write_zeros
from .loss_batch import LossBatch
from .loss_triton import kernel_arguments, token_terms_part
from .row_triton import label_score, row_statistics, write_gradient


@triton.jit
def linear_loss_kernel(
    logits,
    out,
    rows,
    scored,
    labels,
    advantages_in,
    old_logp_in,
    ref_logp_in,
    rollout_logp_in,
    weights,
    bias,
    temperatures,
    logp_out,
    entropy_out,
    loss_out,
    ratio_out,
    kl_out,
    start,
    first,
    whole,
    V,
    stride,
    stride_out,
    rate,
    slope,
    cap,
    coefficients,
    loss_numbers,
    kl_numbers,
    HAS_ROWS: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    CAP: tl.constexpr,
    HAS_T: tl.constexpr,
    LOSS: tl.constexpr,
    KL: tl.constexpr,
    KL_UNBIASED: tl.constexpr,
    HAS_OLD: tl.constexpr,
    HAS_REF: tl.constexpr,
    HAS_ROLLOUT: tl.constexpr,
    GRADIENT: tl.constexpr,
    ENTROPY: tl.constexpr,
    PADDED: tl.constexpr,
    T: tl.constexpr,
    K: tl.constexpr,
):
    place = tl.program_id(0).to(tl.int64)
    row = start + place
    if HAS_ROWS:
        row = tl.load(rows + place)
    row_ptr = logits + place * stride
    out_ptr = out + place * stride_out
    if tl.load(scored + row) == 0:
        # Nothing of such a row is looked at. Its results stay the zeros that they are.
        if GRADIENT:
            write_zeros(out_ptr, V, T, K, PADDED)
    else:
        label = tl.load(labels + row)
        rate = rate_at(rate, temperatures, row, HAS_T)
        top, total, moment = row_statistics(
            row_ptr, bias, V, rate, slope, cap, HAS_BIAS, CAP, T, K, PADDED
        )
        picked = label_score(row_ptr, bias, label, first, V, whole, slope, cap, HAS_BIAS, CAP)
        log_total = tl.log(total)
        logp = (picked - top) * rate - log_total
        entropy = log_total - moment / total
        old_logp = logp
        if HAS_OLD:
            old_logp = tl.load(old_logp_in + row).to(tl.float32)
        ref_logp = logp
        if HAS_REF:
            ref_logp = tl.load(ref_logp_in + row).to(tl.float32)
        rollout_logp = old_logp
        if HAS_ROLLOUT:
            rollout_logp = tl.load(rollout_logp_in + row).to(tl.float32)
        loss, d_log_ratio, d_logp, d_entropy, ratio, kl = token_terms_part(
            logp=logp,
            log_ratio=logp - old_logp,
            advantages=tl.load(advantages_in + row).to(tl.float32),
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
            weight = tl.load(weights + row)
            write_gradient(
                out_ptr=out_ptr,
                row_ptr=row_ptr,
                bias_ptr=bias,
                label=label,
                first=first,
                whole=whole,
                top=top,
                total=total,
                entropy=entropy,
                g_logp=weight * (d_log_ratio + d_logp),
                g_entropy=weight * d_entropy,
                V=V,
                rate=rate,
                slope=slope,
                cap=cap,
                HAS_BIAS=HAS_BIAS,
                CAP=CAP,
                ENTROPY=ENTROPY,
                T=T,
                K=K,
                PADDED=PADDED,
            )


def score_rows_triton(batch: LossBatch, chunk: Chunk, d_logits: Tensor) -> None:
    """`score_rows` of at least one row; logits and d logits have their columns side by side. A
    pointer that is not there is any other one."""
    logits, inputs = chunk.logits, batch.inputs
    by_place = isinstance(chunk.rows, slice)
    advantages = inputs.advantages.contiguous()

    def pointer(one: Tensor | None) -> Tensor:
        return advantages if one is None else one.contiguous()

    with on_device(logits):
        linear_loss_kernel[(len(logits),)](
            logits=logits,
            out=d_logits,
            rows=batch.labels if by_place else chunk.rows,
            scored=batch.scored,
            labels=batch.labels.contiguous(),
            advantages_in=advantages,
            old_logp_in=pointer(inputs.old_logp),
            ref_logp_in=pointer(inputs.ref_logp),
            rollout_logp_in=pointer(inputs.rollout_logp),
            weights=batch.weights,
            **{f"{name}_out": one for name, one in batch.results._asdict().items()},
            start=chunk.rows.start if by_place else 0,
            stride=logits.stride(0),
            stride_out=d_logits.stride(0),
            HAS_ROWS=not by_place,
            HAS_OLD=inputs.old_logp is not None,
            HAS_ROLLOUT=inputs.rollout_logp is not None,
            GRADIENT=batch.gradient,
            ENTROPY=batch.entropy_gradient,
            **form_options(batch.form, logits),
            **kernel_arguments(batch.config, has_ref=inputs.ref_logp is not None),
            **width_options(logits, True),
        )
