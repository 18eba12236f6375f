"""The clipped policy loss, in plain torch.

Per token, with r = exp(clamp(logp - old_logp)):

    -min(r A, clip(r, 1 - clip_low, 1 + clip_high) A) + kl_coef * KL(ref) - entropy_coef * H

times min(exp(old - rollout), tis_cap) where `tis_cap` is set, then reduced over live tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class PolicyLossConfig:
    """What the loss is made of. Defaults: DAPO's decoupled clip, no KL, token mean.

    ratio: "token" (GRPO), "sequence" (GSPO: the geometric mean over the sequence), "cispo"
    (the clipped ratio is a constant weight of the log-prob). reduction: "constant" is the sum over
    tokens divided by `normalizer` only.
    """

    clip_low: float = 0.2
    clip_high: float = 0.28
    dual_clip: float | None = None
    kl_coef: float = 0.0
    kl: Literal["k1", "k2", "k3"] = "k3"
    entropy_coef: float = 0.0
    ratio: Literal["token", "sequence", "cispo"] = "token"
    reduction: Literal["token-mean", "seq-mean", "seq-sum", "constant"] = "token-mean"
    tis_cap: float | None = None
    log_ratio_clamp: float = 20.0

    def __post_init__(self) -> None:
        if not 0 < self.clip_low <= 1 or self.clip_high <= 0:
            raise ValueError(
                f"clip_low {self.clip_low}, clip_high {self.clip_high}:"
                " expected 0 < clip_low <= 1 and clip_high > 0"
            )
        if self.dual_clip is not None and self.dual_clip <= 1:
            raise ValueError(f"dual_clip: found {self.dual_clip}, expected > 1 or None")


def policy_loss(
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
) -> tuple[Tensor, dict[str, Tensor]]:
    """(loss, metrics) of logp [N]; every other tensor [N] too. `loss` is a scalar.

    old_logp None: the policy itself, detached (one on-policy update). mask False: the row's
    content never matters, NaN included. sequence_ids int64: needed by sequence ratios and
    reductions. entropy: needed where entropy_coef is not 0. normalizer: what the sum is divided by
    (a global token or sequence count) in place of the local count. A batch without a live row
    gives 0, connected to logp. At the very edge of the clip range the gradient passes, as torch's
    clamp has it. A live NaN gives a NaN loss.

    metrics (detached, on the device): ratio_mean, ratio_max, ratio_min, clip_low, clip_high
    (shares of live tokens), kl, entropy, live.
    """
    config = config or PolicyLossConfig()
    for name, needed, given in (
        ("ref_logp", config.kl_coef != 0, ref_logp),
        ("rollout_logp", config.tis_cap is not None, rollout_logp),
        ("entropy", config.entropy_coef != 0, entropy),
        (
            "sequence_ids",
            config.ratio == "sequence" or config.reduction.startswith("seq"),
            sequence_ids,
        ),
        ("normalizer", config.reduction == "constant", normalizer),
    ):
        if needed and given is None:
            raise ValueError(f"{name}: found None, but the configuration needs it")
    live = torch.ones_like(logp, dtype=torch.bool) if mask is None else mask.bool()
    # Replaced before any arithmetic: a masked NaN must not reach the gradient through 0 * NaN.
    now = logp.where(live, 0.0)
    gain = advantages.where(live, 0.0)
    old = (now.detach() if old_logp is None else old_logp.detach()).where(live, 0.0)
    bound = config.log_ratio_clamp
    log_ratio = now - old
    if config.ratio == "sequence":
        log_ratio = _sequence_mean(log_ratio, live, sequence_ids)
    ratio = log_ratio.clamp(-bound, bound).exp()
    clipped = ratio.clamp(1 - config.clip_low, 1 + config.clip_high)
    if config.ratio == "cispo":
        loss = -(clipped.detach() * gain * now)
    else:
        loss = -torch.where(ratio * gain <= clipped * gain, ratio * gain, clipped * gain)
        if config.dual_clip is not None:
            ceiling = -config.dual_clip * gain
            loss = torch.where((gain < 0) & (loss > ceiling), ceiling, loss)
    kl = torch.zeros_like(now)
    if ref_logp is not None:
        kl = _kl((ref_logp.detach().where(live, 0.0) - now).clamp(-bound, bound), config.kl)
        if config.kl_coef:
            loss = loss + config.kl_coef * kl
    if entropy is not None and config.entropy_coef:
        loss = loss - config.entropy_coef * entropy.where(live, 0.0)
    if config.tis_cap is not None:
        gap = (old - rollout_logp.detach().where(live, 0.0)).clamp(-bound, bound)
        loss = loss * gap.exp().clamp(max=config.tis_cap)
    # clamp and comparisons drop NaN in places; a live NaN must show.
    loss = torch.where(now.isnan() | gain.isnan(), torch.nan, loss).where(live, 0.0)
    total = _reduce(loss, live, sequence_ids, normalizer, config.reduction)
    return total, _metrics(ratio, gain, kl, entropy, live, config)


def _kl(d: Tensor, kind: str) -> Tensor:
    """Schulman's estimators of KL(policy || reference), d = ref - logp."""
    if kind == "k1":
        return -d
    if kind == "k2":
        return d.square() / 2
    return d.exp() - d - 1


def _sequence_mean(values: Tensor, live: Tensor, sequence_ids: Tensor) -> Tensor:
    ids = torch.unique(sequence_ids, return_inverse=True)[1]
    count = int(ids.max()) + 1 if len(ids) else 0
    total = values.new_zeros(count).index_add(0, ids, values.where(live, 0.0))
    size = values.new_zeros(count).index_add(0, ids, live.to(values.dtype))
    return (total / size.clamp(min=1))[ids]


def _reduce(
    loss: Tensor, live: Tensor, sequence_ids: Tensor | None, normalizer, reduction: str
) -> Tensor:
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


@torch.no_grad()
def _metrics(ratio, gain, kl, entropy, live, config) -> dict[str, Tensor]:
    size = live.sum().clamp(min=1)

    def share(values: Tensor) -> Tensor:
        return values.where(live, 0).sum() / size

    low = (ratio < 1 - config.clip_low) & (gain < 0)
    high = (ratio > 1 + config.clip_high) & (gain > 0)
    return {
        "ratio_mean": share(ratio),
        "ratio_max": ratio.where(live, -torch.inf).amax() if len(ratio) else size.float(),
        "ratio_min": ratio.where(live, torch.inf).amin() if len(ratio) else size.float(),
        "clip_low": share(low.to(ratio.dtype)),
        "clip_high": share(high.to(ratio.dtype)),
        "kl": share(kl),
        "entropy": share(entropy) if entropy is not None else torch.zeros_like(size.float()),
        "live": live.sum(),
    }
