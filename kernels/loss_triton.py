"""Triton form of `token_terms`: one pass over the tokens, everything read and written once."""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from .logprob_triton import on_device
from .loss_clip import bounded as bounded_form
from .loss_config import PolicyLossConfig
from .loss_forms import KLEstimate, PolicyLoss
from .loss_terms import Terms, TokenInputs

bounded = bounded_form.jit


class Coefficients(NamedTuple):
    """What every loss shares, as numbers at run time; tis_cap 0 is off, and so is an
    infinite bound of the log-band."""

    kl_coef: float
    entropy_coef: float
    tis_cap: float
    log_band_low: float
    log_band_high: float
    log_ratio_clamp: float


@triton.jit
def token_terms_part(
    logp,
    log_ratio,
    advantages,
    old_logp,
    ref_logp,
    rollout_logp,
    entropy,
    coefficients,
    loss_numbers,
    kl_numbers,
    LOSS: tl.constexpr,
    KL: tl.constexpr,
    KL_UNBIASED: tl.constexpr,
    HAS_REF: tl.constexpr,
):
    """`token_terms` on registers, for a block of tokens or for one. LOSS and KL are Triton forms
    (loss_forms.py), and are compiled in."""
    bound = coefficients.log_ratio_clamp
    inside = tl.abs(log_ratio) <= bound
    ratio = tl.exp(bounded(log_ratio, -bound, bound))
    loss, d_log_ratio, d_logp = LOSS(logp, advantages, ratio, *loss_numbers)
    d_log_ratio = tl.where(inside, d_log_ratio, 0.0)
    kl = tl.where(logp == logp, 0.0, 0.0)
    if HAS_REF:
        ref_log_ratio = ref_logp - logp
        kl, d_kl = KL(bounded(ref_log_ratio, -bound, bound), *kl_numbers)
        on = coefficients.kl_coef != 0.0
        coef = tl.where(logp == logp, 0.0, 0.0) + coefficients.kl_coef
        if KL_UNBIASED:
            coef *= ratio
            d_log_ratio += tl.where(on & inside, coef * kl, 0.0)
        loss += tl.where(on, coef * kl, 0.0)
        d_logp += tl.where(on & (tl.abs(ref_log_ratio) <= bound), coef * d_kl, 0.0)
    entropy_coef = coefficients.entropy_coef
    loss -= tl.where(entropy_coef != 0.0, entropy_coef * entropy, 0.0)
    tis_cap = coefficients.tis_cap
    importance = tl.exp(bounded(old_logp - rollout_logp, -bound, bound))
    capped = tl.where(importance > tis_cap, tis_cap, importance)
    importance = tl.where(tis_cap > 0.0, capped, 1.0)
    gap = old_logp - rollout_logp
    outside = (gap < coefficients.log_band_low) | (gap > coefficients.log_band_high)
    loss = tl.where(outside, 0.0, loss * importance)
    d_entropy = tl.where(outside, 0.0, -entropy_coef * importance)
    d_logp = tl.where(outside, 0.0, d_logp * importance)
    d_log_ratio = tl.where(outside, 0.0, d_log_ratio * importance)
    # Comparisons drop NaN in places; a live NaN must show, in the gradient too.
    bad = (loss != loss) | (logp != logp) | (advantages != advantages)
    loss = tl.where(bad, float("nan"), loss)
    d_log_ratio = tl.where(bad, float("nan"), d_log_ratio)
    return loss, d_log_ratio, d_logp, d_entropy, ratio, kl


@triton.jit
def policy_loss_kernel(
    logp_in,
    log_ratio_in,
    advantages_in,
    old_logp_in,
    ref_logp_in,
    rollout_logp_in,
    entropy_in,
    loss_out,
    d_log_ratio_out,
    d_logp_out,
    d_entropy_out,
    ratio_out,
    kl_out,
    count,
    coefficients,
    loss_numbers,
    kl_numbers,
    LOSS: tl.constexpr,
    KL: tl.constexpr,
    KL_UNBIASED: tl.constexpr,
    HAS_REF: tl.constexpr,
    HAS_ROLLOUT: tl.constexpr,
    HAS_ENTROPY: tl.constexpr,
    B: tl.constexpr,
):
    at = tl.program_id(0).to(tl.int64) * B + tl.arange(0, B)
    here = at < count
    logp = tl.load(logp_in + at, mask=here, other=0.0)
    old_logp = tl.load(old_logp_in + at, mask=here, other=0.0)
    ref_logp = logp
    rollout_logp = old_logp
    entropy = tl.zeros((B,), tl.float32)
    if HAS_REF:
        ref_logp = tl.load(ref_logp_in + at, mask=here, other=0.0)
    if HAS_ROLLOUT:
        rollout_logp = tl.load(rollout_logp_in + at, mask=here, other=0.0)
    if HAS_ENTROPY:
        entropy = tl.load(entropy_in + at, mask=here, other=0.0)
    loss, d_log_ratio, d_logp, d_entropy, ratio, kl = token_terms_part(
        logp=logp,
        log_ratio=tl.load(log_ratio_in + at, mask=here, other=0.0),
        advantages=tl.load(advantages_in + at, mask=here, other=0.0),
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
    tl.store(loss_out + at, loss, mask=here)
    tl.store(d_log_ratio_out + at, d_log_ratio, mask=here)
    tl.store(d_logp_out + at, d_logp, mask=here)
    tl.store(d_entropy_out + at, d_entropy, mask=here)
    tl.store(ratio_out + at, ratio, mask=here)
    tl.store(kl_out + at, kl, mask=here)


def kernel_arguments(config: PolicyLossConfig, *, has_ref: bool) -> dict:
    """The configuration as arguments of a kernel: numbers at run time, forms compiled in."""
    policy, estimate = config.policy_loss, config.kl_estimate
    return {
        "coefficients": Coefficients(
            kl_coef=config.kl_coef,
            entropy_coef=config.entropy_coef,
            tis_cap=config.tis_cap or 0.0,
            log_band_low=config.log_band[0],
            log_band_high=config.log_band[1],
            log_ratio_clamp=config.log_ratio_clamp,
        ),
        "loss_numbers": tuple(config.numbers_of(policy).values()),
        "kl_numbers": tuple(config.numbers_of(estimate).values()),
        "LOSS": triton_function("ratio", policy),
        "KL": triton_function("kl", estimate),
        "KL_UNBIASED": config.kl_unbiased,
        "HAS_REF": has_ref,
    }


def triton_function(setting: str, form: PolicyLoss | KLEstimate):
    if form.triton is None:
        raise ValueError(
            f"{setting}: found {form.name!r}, which has no Triton form, so it runs on a CPU only;"
            " give it one (triton=)"
        )
    return form.triton.jit


def token_terms_triton(
    *,
    logp: Tensor,
    log_ratio: Tensor,
    inputs: TokenInputs,
    entropy: Tensor | None,
    config: PolicyLossConfig,
) -> Terms:
    """`token_terms`; a pointer that is not there is any other one."""
    terms = Terms(*(torch.empty_like(logp) for _ in Terms._fields))
    block = 1024
    if len(logp):
        with on_device(logp):
            policy_loss_kernel[(triton.cdiv(len(logp), block),)](
                logp_in=logp,
                log_ratio_in=log_ratio,
                advantages_in=inputs.advantages,
                old_logp_in=logp if inputs.old_logp is None else inputs.old_logp,
                ref_logp_in=logp if inputs.ref_logp is None else inputs.ref_logp,
                rollout_logp_in=logp if inputs.rollout_logp is None else inputs.rollout_logp,
                entropy_in=logp if entropy is None else entropy,
                **{f"{name}_out": tensor for name, tensor in terms._asdict().items()},
                count=len(logp),
                **kernel_arguments(config, has_ref=inputs.ref_logp is not None),
                HAS_ROLLOUT=inputs.rollout_logp is not None,
                HAS_ENTROPY=entropy is not None,
                B=block,
                num_warps=4,
            )
    return terms
