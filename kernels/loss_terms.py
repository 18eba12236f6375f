"""The policy loss of each token and its gradient, as one elementwise formula in plain torch.

Per token, with r = exp(clamp(logp - old_logp)) and the loss L that `config.ratio` names:

    (L(r, A) + kl_coef * KL - entropy_coef * H) * min(exp(old_logp - rollout_logp), tis_cap)

The last factor is there where `tis_cap` is set. Where exp(old_logp - rollout_logp) is outside
`band_low`..`band_high`, all of it is 0. loss_triton.py says the same in Triton. What is
reduced is the sum of w_t loss_t, where w_t does not depend on the log-probs (loss_weights.py). That
is why a head can make its gradient while it makes its log-probs (linear_loss.py).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from . import checks
from .loss_config import PolicyLossConfig

NO_BAND = (-math.inf, math.inf)
IGNORE = -100  # the label of a row that is not looked at, as torch has it


@dataclass(frozen=True, kw_only=True)
class TokenInputs:
    """What each token brings beside the policy's log-prob; each is [N].

    old_logp None is the policy itself. ref_logp and rollout_logp may be missing.
    """

    advantages: Tensor
    old_logp: Tensor | None
    ref_logp: Tensor | None
    rollout_logp: Tensor | None

    def each(self, change: Callable[[Tensor], Tensor]) -> TokenInputs:
        """The same with `change` made to every tensor that is there."""
        return TokenInputs(
            **{name: None if one is None else change(one) for name, one in vars(self).items()}
        )


class Terms(NamedTuple):
    """Of each token: the loss, its derivatives, the ratio and the KL estimate, each [N].

    The derivatives are by log-ratio, by log-prob while the ratio is held, and by entropy.
    """

    loss: Tensor
    d_log_ratio: Tensor
    d_logp: Tensor
    d_entropy: Tensor
    ratio: Tensor
    kl: Tensor


class RowResults(NamedTuple):
    """What a row of a head's logits gives, each [n]."""

    logp: Tensor
    entropy: Tensor
    loss: Tensor
    ratio: Tensor
    kl: Tensor


def live_only(live: Tensor, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    """Replaces rows that are not live by 0.

    They are replaced and not multiplied away, so whatever they hold (NaN) enters no arithmetic.
    """
    return lambda tensor: tensor.to(dtype).where(live, 0.0)


def token_terms(
    *,
    logp: Tensor,
    log_ratio: Tensor,
    inputs: TokenInputs,
    entropy: Tensor | None,
    config: PolicyLossConfig,
) -> Terms:
    """Loss and derivatives of live tokens [N]; log_ratio may be a sequence's mean."""
    bound = config.log_ratio_clamp
    inside = log_ratio.abs() <= bound
    ratio = log_ratio.clamp(-bound, bound).exp()
    policy = config.policy_loss
    loss, d_log_ratio, d_logp = policy.torch(
        logp, inputs.advantages, ratio, **config.numbers_of(policy)
    )
    d_log_ratio = torch.where(inside, d_log_ratio, 0.0)
    d_entropy = kl = torch.zeros_like(logp)
    if inputs.ref_logp is not None:
        estimate = config.kl_estimate
        ref_log_ratio = inputs.ref_logp - logp
        kl, d_kl = estimate.torch(ref_log_ratio.clamp(-bound, bound), **config.numbers_of(estimate))
        if config.kl_coef:
            coef = config.kl_coef * ratio if config.kl_unbiased else config.kl_coef
            loss = loss + coef * kl
            d_logp = d_logp + torch.where(ref_log_ratio.abs() <= bound, coef * d_kl, 0.0)
            if config.kl_unbiased:
                d_log_ratio = d_log_ratio + torch.where(inside, coef * kl, 0.0)
    if entropy is not None and config.entropy_coef:
        loss = loss - config.entropy_coef * entropy
        d_entropy = torch.full_like(logp, -config.entropy_coef)
    if config.tis_cap is not None and inputs.rollout_logp is not None:
        old_logp = logp if inputs.old_logp is None else inputs.old_logp
        gap = (old_logp - inputs.rollout_logp).clamp(-bound, bound)
        importance = gap.exp().clamp(max=config.tis_cap)
        loss, d_log_ratio = importance * loss, importance * d_log_ratio
        d_logp, d_entropy = importance * d_logp, importance * d_entropy
    low, high = config.log_band
    if inputs.rollout_logp is not None and (low, high) != NO_BAND:
        gap = (logp if inputs.old_logp is None else inputs.old_logp) - inputs.rollout_logp
        outside = (gap < low) | (gap > high)
        loss, d_log_ratio, d_logp, d_entropy = (
            one.masked_fill(outside, 0.0) for one in (loss, d_log_ratio, d_logp, d_entropy)
        )
    # Comparisons and clamps drop NaN in places; a live NaN must show, in the gradient too.
    bad = loss.isnan() | logp.isnan() | inputs.advantages.isnan()
    loss, d_log_ratio = loss.masked_fill(bad, torch.nan), d_log_ratio.masked_fill(bad, torch.nan)
    return Terms(loss, d_log_ratio, d_logp, d_entropy, ratio, kl)


def check_loss_inputs(
    *,
    count: int,
    device: torch.device,
    config: PolicyLossConfig,
    advantages: Tensor,
    old_logp: Tensor | None,
    ref_logp: Tensor | None,
    rollout_logp: Tensor | None,
    mask: Tensor | None,
    sequence_ids: Tensor | None,
    normalizer: float | Tensor | None,
) -> None:
    """Everything that the configuration needs is there, is [count], and is on `device`."""
    sequences = config.policy_loss.over == "sequence" or config.reduction.startswith("seq")
    for name, needed, given in (
        ("ref_logp", config.kl_coef != 0, ref_logp),
        ("rollout_logp", config.tis_cap is not None or config.log_band != NO_BAND, rollout_logp),
        ("sequence_ids", sequences, sequence_ids),
        ("normalizer", config.reduction == "constant", normalizer),
    ):
        if needed and given is None:
            raise ValueError(f"{name}: found None, but the configuration needs it")
    if config.reduction == "none" and normalizer is not None:
        raise ValueError("normalizer: found one with the reduction 'none', expected None")
    if advantages is None:
        raise ValueError(f"advantages: found None, expected a tensor [{count}]")
    for name, tensor, kind in (
        ("advantages", advantages, "float"),
        ("old_logp", old_logp, "float"),
        ("ref_logp", ref_logp, "float"),
        ("rollout_logp", rollout_logp, "float"),
        ("mask", mask, "mask"),
        ("sequence_ids", sequence_ids, "int"),
    ):
        checks.check_rows(name, tensor, count, device, kind=kind)
    if isinstance(normalizer, Tensor):
        if normalizer.numel() != 1:
            found = tuple(normalizer.shape)
            raise ValueError(f"normalizer: found shape {found}, expected one number")
    elif normalizer is not None:
        checks.check_positive("normalizer", normalizer)
