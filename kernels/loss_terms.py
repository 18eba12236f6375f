"""The clipped policy loss and its gradient, as one elementwise formula.

Per token, with r = exp(clamp(logp - old_logp)):

    -min(r A, clip(r, 1 - clip_low, 1 + clip_high) A) + kl_coef * KL(ref) - entropy_coef * H

(or SAPO's gate in place of the clip), times min(exp(old - rollout), tis_cap) where `tis_cap` is
set, then reduced over live tokens: the sum of w_t loss_t, where w_t depends on mask, sequence
lengths and `normalizer` alone. That is why a head can make its gradient while it makes its
log-probs (linear_loss.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from . import checks

IGNORE = -100  # a label that is not looked at, as torch has it
RATIOS = ("token", "sequence", "cispo", "sapo")
KINDS = ("k1", "k2", "k3")
REDUCTIONS = ("token-mean", "seq-mean", "seq-sum", "constant")
METRICS = ("ratio_mean", "ratio_max", "ratio_min", "clip_low", "clip_high", "kl", "entropy", "live")


@dataclass(frozen=True, kw_only=True)
class PolicyLossConfig:
    """What the loss is made of. Defaults: DAPO's decoupled clip, no KL, token mean.

    ratio: "token" (GRPO), "sequence" (GSPO: the geometric mean over the sequence), "cispo"
    (the clipped ratio is a constant weight of the log-prob), "sapo" (arXiv 2511.20347: no clip but
    a soft gate, 4 / tau * sigmoid(tau (r - 1)), tau = sapo_pos where A > 0 and sapo_neg elsewhere).
    kl_unbiased: the KL estimate times the ratio, whose gradient counts (DeepSeek-V3.2), so that it
    is unbiased on completions of an older policy. reduction: "constant" is the sum over tokens
    divided by `normalizer` only.
    """

    clip_low: float = 0.2
    clip_high: float = 0.28
    dual_clip: float | None = None
    kl_coef: float = 0.0
    kl: Literal["k1", "k2", "k3"] = "k3"
    kl_unbiased: bool = False
    entropy_coef: float = 0.0
    ratio: Literal["token", "sequence", "cispo", "sapo"] = "token"
    sapo_pos: float = 1.0
    sapo_neg: float = 1.05
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
        if self.tis_cap is not None:
            checks.check_positive("tis_cap", self.tis_cap)
        for name in ("log_ratio_clamp", "sapo_pos", "sapo_neg"):
            checks.check_positive(name, getattr(self, name))
        checks.check_choice("ratio", self.ratio, RATIOS)
        checks.check_choice("kl", self.kl, KINDS)
        checks.check_choice("reduction", self.reduction, REDUCTIONS)

    def numbers(self) -> list[float]:
        """As operators take them; 0 is "off" for the dual clip and the truncation."""
        return [
            *(self.clip_low, self.clip_high, self.dual_clip or 0.0, self.kl_coef),
            *(self.entropy_coef, self.tis_cap or 0.0, self.log_ratio_clamp),
            *(self.sapo_pos, self.sapo_neg),
        ]

    def kinds(self) -> str:
        unbiased = "unbiased" if self.kl_unbiased else "plain"
        return f"{self.ratio} {self.kl} {unbiased} {self.reduction}"

    @classmethod
    def of(cls, kinds: str, numbers: list[float]) -> PolicyLossConfig:
        low, high, dual, kl_coef, entropy_coef, cap, clamp, pos, neg = numbers
        ratio, kl, unbiased, reduction = kinds.split()
        return cls(
            **{"clip_low": low, "clip_high": high, "dual_clip": dual or None, "kl_coef": kl_coef},
            **{"entropy_coef": entropy_coef, "tis_cap": cap or None, "log_ratio_clamp": clamp},
            **{"ratio": ratio, "sapo_pos": pos, "sapo_neg": neg, "reduction": reduction},
            **{"kl": kl, "kl_unbiased": unbiased == "unbiased"},
        )


class Terms(NamedTuple):
    """Of each token: the loss, and its derivatives by log-ratio, by log-prob directly (KL, CISPO)
    and by entropy."""

    loss: Tensor
    d_ratio: Tensor
    d_direct: Tensor
    d_entropy: Tensor
    ratio: Tensor
    kl: Tensor


def token_terms(
    now: Tensor,
    gain: Tensor,
    log_ratio: Tensor,
    old: Tensor,
    ref: Tensor | None,
    rollout: Tensor | None,
    entropy: Tensor | None,
    config: PolicyLossConfig,
) -> Terms:
    """Loss and gradient of live tokens. Ties at the clip edge pass the gradient."""
    bound = config.log_ratio_clamp
    inside = log_ratio.abs() <= bound
    ratio = log_ratio.clamp(-bound, bound).exp()
    clipped = ratio.clamp(1 - config.clip_low, 1 + config.clip_high)
    zero = torch.zeros_like(now)
    d_direct, kl = zero, zero
    if config.ratio == "cispo":
        loss, d_ratio, d_direct = -clipped * gain * now, zero, -clipped * gain
    elif config.ratio == "sapo":
        tau = torch.where(gain > 0, config.sapo_pos, config.sapo_neg).to(now.dtype)
        reach = tau * (ratio - 1)
        loss = -(4 / tau) * reach.sigmoid() * gain
        # sigmoid' as a product of two sigmoids: 1 - sigmoid would cancel far out.
        slope = 4 * reach.sigmoid() * (-reach).sigmoid()
        d_ratio = torch.where(inside, -slope * ratio * gain, 0.0)
    else:
        free = ratio * gain <= clipped * gain
        loss = -torch.where(free, ratio * gain, clipped * gain)
        d_ratio = torch.where(free & inside, -ratio * gain, 0.0)
        if config.dual_clip is not None:
            ceiling = -config.dual_clip * gain
            over = (gain < 0) & (loss > ceiling)
            loss, d_ratio = torch.where(over, ceiling, loss), d_ratio.masked_fill(over, 0.0)
    if ref is not None:
        raw = ref - now
        d = raw.clamp(-bound, bound)
        kl = {"k1": lambda: -d, "k2": lambda: d.square() / 2, "k3": lambda: d.expm1() - d}
        bend = {"k1": lambda: 1.0, "k2": lambda: -d, "k3": lambda: -d.expm1()}[config.kl]()
        kl = kl[config.kl]()
        if config.kl_coef:
            coef = config.kl_coef * ratio if config.kl_unbiased else config.kl_coef
            loss = loss + coef * kl
            d_direct = d_direct + torch.where(raw.abs() <= bound, coef * bend, 0.0)
            if config.kl_unbiased:
                d_ratio = d_ratio + torch.where(inside, coef * kl, 0.0)
    d_entropy = zero
    if entropy is not None and config.entropy_coef:
        loss = loss - config.entropy_coef * entropy
        d_entropy = torch.full_like(now, -config.entropy_coef)
    if config.tis_cap is not None and rollout is not None:
        trust = (old - rollout).clamp(-bound, bound).exp().clamp(max=config.tis_cap)
        loss, d_ratio, d_direct, d_entropy = (
            trust * one for one in (loss, d_ratio, d_direct, d_entropy)
        )
    # Comparisons and clamps drop NaN in places; a live NaN must show, in the gradient too.
    bad = loss.isnan() | now.isnan() | gain.isnan()
    loss, d_ratio = loss.masked_fill(bad, torch.nan), d_ratio.masked_fill(bad, torch.nan)
    return Terms(loss, d_ratio, d_direct, d_entropy, ratio, kl)


# --- what a token weighs ------------------------------------------------------------------------


def sequence_index(sequence_ids: Tensor) -> Tensor:
    """[N] int64 in 0..N-1, equal where ids are equal. By sorting: nothing waits for the device."""
    ordered, order = sequence_ids.sort(stable=True)
    first = torch.ones_like(ordered, dtype=torch.bool)
    first[1:] = ordered[1:] != ordered[:-1]
    return torch.empty_like(order).scatter_(0, order, first.cumsum(0) - 1)


def sum_by(values: Tensor, index: Tensor) -> Tensor:
    return torch.zeros_like(values).index_add_(0, index, values)


def token_weights(
    live: Tensor,
    index: Tensor | None,
    normalizer: Tensor | None,
    reduction: str,
    dtype: torch.dtype,
) -> Tensor:
    """w [N]: the loss is sum(w * loss of the token); 0 where a token is not live."""
    counted = live.to(dtype)
    divisor = None if normalizer is None else normalizer.to(dtype)
    if reduction in ("token-mean", "constant"):
        return counted / (counted.sum().clamp(min=1) if divisor is None else divisor)
    sizes = sum_by(counted, index)
    divisor = (sizes > 0).sum().clamp(min=1) if divisor is None else divisor
    weights = counted / divisor
    return weights / sizes.clamp(min=1)[index] if reduction == "seq-mean" else weights


def summary(
    terms: Terms | tuple[Tensor, ...],
    gain: Tensor,
    entropy: Tensor | None,
    live: Tensor,
    config: PolicyLossConfig,
    count: Tensor,
) -> Tensor:
    """METRICS as a vector on the device. Clip shares are over `count` tokens, means over `live`."""
    ratio, kl = terms[-2:]
    size = live.sum().clamp(min=1)
    low = (ratio < 1 - config.clip_low) & (gain < 0) & live
    high = (ratio > 1 + config.clip_high) & (gain > 0) & live
    one = torch.ones(1, dtype=ratio.dtype, device=ratio.device)
    none = live.any().logical_not()
    most = torch.cat([ratio.masked_fill(~live, -torch.inf), -torch.inf * one]).amax()
    least = torch.cat([ratio.masked_fill(~live, torch.inf), torch.inf * one]).amin()
    values = (
        *(
            ratio.where(live, 0.0).sum() / size,
            most.masked_fill(none, 1),
            least.masked_fill(none, 1),
        ),
        *(low.sum() / count.clamp(min=1), high.sum() / count.clamp(min=1)),
        kl.where(live, 0.0).sum() / size,
        one[0] * 0 if entropy is None else entropy.where(live, 0.0).sum() / size,
        count,
    )
    return torch.stack([value.to(ratio.dtype) for value in values])


def named(metrics: Tensor) -> dict[str, Tensor]:
    return dict(zip(METRICS, metrics.detach().unbind(), strict=True))


# --- arguments ----------------------------------------------------------------------------------


def check_terms(
    count: int,
    device: torch.device,
    config: PolicyLossConfig,
    *,
    advantages: Tensor,
    old_logp: Tensor | None,
    ref_logp: Tensor | None,
    rollout_logp: Tensor | None,
    mask: Tensor | None,
    sequence_ids: Tensor | None,
    normalizer: float | Tensor | None,
) -> None:
    sequences = config.ratio == "sequence" or config.reduction.startswith("seq")
    for name, needed, given in (
        ("ref_logp", config.kl_coef != 0, ref_logp),
        ("rollout_logp", config.tis_cap is not None, rollout_logp),
        ("sequence_ids", sequences, sequence_ids),
        ("normalizer", config.reduction == "constant", normalizer),
    ):
        if needed and given is None:
            raise ValueError(f"{name}: found None, but the configuration needs it")
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


def as_scalar(normalizer: float | Tensor | None, device: torch.device) -> Tensor | None:
    """A fill on the device: no copy from the host, so nothing waits."""
    if normalizer is None or isinstance(normalizer, Tensor):
        return None if normalizer is None else normalizer.detach().reshape(()).to(device)
    return torch.full((), float(normalizer), dtype=torch.float64, device=device)
