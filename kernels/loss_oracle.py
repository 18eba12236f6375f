"""What `policy_loss` and `linear_policy_loss` mean, written for autograd.

Nothing of the fast path is used here. The tests and the benchmarks compare with it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .head import linear_logprob_oracle
from .loss_config import PolicyLossConfig
from .loss_terms import IGNORE


def policy_loss_oracle(
    logp: Tensor,
    advantages: Tensor,
    *,
    old_logp: Tensor | None = None,
    ref_logp: Tensor | None = None,
    rollout_logp: Tensor | None = None,
    mask: Tensor | None = None,
    sequence_ids: Tensor | None = None,
    entropy: Tensor | None = None,
    normalizer: float | Tensor | None = None,
    config: PolicyLossConfig | None = None,
) -> Tensor:
    """The loss of `policy_loss`, with its arguments."""
    config = config or PolicyLossConfig()
    live = torch.ones_like(logp, dtype=torch.bool) if mask is None else mask.bool()
    # Replaced before any arithmetic: a masked NaN must not reach the gradient through 0 * NaN.
    logp = logp.where(live, 0.0)
    advantages = advantages.where(live, 0.0)
    old_logp = (logp.detach() if old_logp is None else old_logp.detach()).where(live, 0.0)
    bound = config.log_ratio_clamp
    log_ratio = logp - old_logp
    policy, estimate = config.policy_loss, config.kl_estimate
    if policy.over == "sequence":
        log_ratio = _sequence_mean(log_ratio, live, sequence_ids)
    ratio = log_ratio.clamp(-bound, bound).exp()
    loss = policy.oracle(logp, advantages, ratio, **config.numbers_of(policy))
    if ref_logp is not None and config.kl_coef:
        ref_log_ratio = (ref_logp.detach().where(live, 0.0) - logp).clamp(-bound, bound)
        kl = estimate.oracle(ref_log_ratio, **config.numbers_of(estimate))
        loss = loss + config.kl_coef * (kl * ratio if config.kl_unbiased else kl)
    if entropy is not None and config.entropy_coef:
        loss = loss - config.entropy_coef * entropy.where(live, 0.0)
    if config.tis_cap is not None:
        gap = (old_logp - rollout_logp.detach().where(live, 0.0)).clamp(-bound, bound)
        loss = loss * gap.exp().clamp(max=config.tis_cap)
    if config.band_low or config.band_high:
        ratio = (old_logp - rollout_logp.detach().where(live, 0.0)).exp()
        outside = ratio < (config.band_low or 0.0)
        if config.band_high:
            outside = outside | (ratio > config.band_high)
        loss = loss.where(~outside, 0.0)
    loss = torch.where(logp.isnan() | advantages.isnan(), torch.nan, loss).where(live, 0.0)
    return _reduce(loss, live, sequence_ids, normalizer, config.reduction)


def linear_policy_loss_oracle(
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    advantages: Tensor,
    *,
    bias: Tensor | None = None,
    mask: Tensor | None = None,
    temperature: float | Tensor = 1.0,
    softcap: float | None = None,
    logit_scale: float = 1.0,
    **given,
) -> Tensor:
    """The loss of `linear_policy_loss`, with the whole [N, V]."""
    live = labels != IGNORE if mask is None else (labels != IGNORE) & mask.bool()
    # A masked row's hidden state is replaced before the product: 0 * NaN would reach dW.
    states, wanted = torch.where(live[:, None], hidden, 0.0), labels.where(live, IGNORE)
    logp, entropy = linear_logprob_oracle(
        states, weight, wanted, bias, temperature, softcap, logit_scale=logit_scale
    )
    return policy_loss_oracle(logp, advantages, mask=live, entropy=entropy, **given)


def _sequence_mean(values: Tensor, live: Tensor, sequence_ids: Tensor) -> Tensor:
    ids = torch.unique(sequence_ids, return_inverse=True)[1]
    count = int(ids.max()) + 1 if len(ids) else 0
    total = values.new_zeros(count).index_add(0, ids, values.where(live, 0.0))
    size = values.new_zeros(count).index_add(0, ids, live.to(values.dtype))
    return (total / size.clamp(min=1))[ids]


def _reduce(
    loss: Tensor, live: Tensor, sequence_ids: Tensor | None, normalizer, reduction: str
) -> Tensor:
    if reduction == "none":
        return loss
    if reduction in ("token-mean", "constant"):
        size = live.sum().clamp(min=1) if normalizer is None else normalizer
        return loss.sum() / size
    ids = torch.unique(sequence_ids, return_inverse=True)[1]
    count = int(ids.max()) + 1 if len(ids) else 0
    sums = loss.new_zeros(count).index_add(0, ids, loss)
    sizes = loss.new_zeros(count).index_add(0, ids, live.to(loss.dtype))
    if reduction == "seq-mean":
        sums = sums / sizes.clamp(min=1)
    return sums.sum() / ((sizes > 0).sum().clamp(min=1) if normalizer is None else normalizer)
