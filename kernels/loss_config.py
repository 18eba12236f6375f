"""`PolicyLossConfig`, and how it crosses the border of a torch operator."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, get_type_hints

import torch

from . import checks
from .loss_forms import KLEstimate, PolicyLoss
from .loss_registry import (
    FIELDS,
    declared_options,
    kl_estimate_named,
    policy_loss_named,
)

REDUCTIONS = ("token-mean", "seq-mean", "seq-sum", "constant", "none")


@dataclass(frozen=True, kw_only=True)
class PolicyLossConfig:
    """What the loss is made of. Defaults: DAPO's decoupled clip, no KL, token mean.

    ratio names the policy loss: "token" (GRPO's clip), "sequence" (GSPO: the geometric mean of the
    ratio over the sequence), "cispo" (the clipped ratio is a constant weight of the log-prob),
    "sapo" (a soft gate in place of the clip), or one of `register_policy_loss`. kl names the KL
    estimate: "k1", "k2", "k3", or one of `register_kl_estimate`.

    clip_low, clip_high, dual_clip (None is off), sapo_pos and sapo_neg are numbers of these losses.
    options holds the numbers of registered losses and estimates; what is left out has its default.
    kl_unbiased multiplies the KL estimate by the ratio, and the gradient through that ratio counts
    (DeepSeek-V3.2), so the estimate is unbiased on completions of an older policy. reduction
    "constant" is the sum over tokens divided by `normalizer` only; "none" is the loss of each token
    [N], for a host that reduces it. tis_cap is the largest importance weight of the rollout (None
    is off). band_low and band_high bound exp(old_logp - rollout_logp): a token outside has no loss
    and no gradient, and counts in the reduction all the same (IcePop; None is no bound).
    |log-ratio| is bounded by log_ratio_clamp.

    ValueError names a field that cannot be, and the nearest known name where a name is unknown.
    """

    clip_low: float = 0.2
    clip_high: float = 0.28
    dual_clip: float | None = None
    kl_coef: float = 0.0
    kl: str = "k3"
    kl_unbiased: bool = False
    entropy_coef: float = 0.0
    ratio: str = "token"
    sapo_pos: float = 1.0
    sapo_neg: float = 1.05
    reduction: Literal["token-mean", "seq-mean", "seq-sum", "constant", "none"] = "token-mean"
    tis_cap: float | None = None
    band_low: float | None = None
    band_high: float | None = None
    log_ratio_clamp: float = 20.0
    options: Mapping[str, float] = field(default_factory=dict, hash=False)

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
        low, high = self.band_low or 0.0, math.inf if self.band_high is None else self.band_high
        if not 0 <= low < high:
            raise ValueError(
                f"band_low {self.band_low}, band_high {self.band_high}:"
                " expected 0 <= band_low < band_high, or None"
            )
        checks.check_positive("log_ratio_clamp", self.log_ratio_clamp)
        checks.check_positive("sapo_pos", self.sapo_pos)
        checks.check_positive("sapo_neg", self.sapo_neg)
        checks.check_choice("reduction", self.reduction, REDUCTIONS)
        declared = declared_options(self.ratio, self.kl)
        for name, value in self.options.items():
            checks.check_choice(
                f"options of ratio {self.ratio!r} and kl {self.kl!r}", name, declared
            )
            if not math.isfinite(value):
                raise ValueError(f"options[{name!r}]: found {value}, expected a finite number")
        filled = {name: float(self.options.get(name, declared[name])) for name in declared}
        object.__setattr__(self, "options", filled)

    @property
    def two_passes(self) -> bool:
        """Whether all log-probs are needed before any gradient can be made."""
        return self.policy_loss.over == "sequence" or self.reduction == "none"

    @property
    def policy_loss(self) -> PolicyLoss:
        return policy_loss_named(self.ratio)

    @property
    def kl_estimate(self) -> KLEstimate:
        return kl_estimate_named(self.kl)

    @property
    def log_band(self) -> tuple[float, float]:
        """The bounds of old_logp - rollout_logp; infinite where there is none."""
        low = math.log(self.band_low) if self.band_low else -math.inf
        return low, math.inf if self.band_high is None else math.log(self.band_high)

    def numbers_of(self, form: PolicyLoss | KLEstimate) -> dict[str, float]:
        """The values of the numbers that `form` declares; a field that is None counts as 0."""
        return {
            name: float(getattr(self, name) or 0.0) if name in FIELDS else self.options[name]
            for name in form.numbers
        }

    def scalars(self) -> dict[str, str | bool | float | list[float] | None]:
        """The keyword arguments that a `loss_operator` takes in place of this configuration."""
        return {**vars(self), "options": list(self.options.values())}


SCALARS = {**get_type_hints(PolicyLossConfig), "reduction": str, "options": list[float]}


def loss_operator(name: str) -> Callable[[Callable], torch.library.CustomOpDef]:
    """`torch.library.custom_op` of a function that takes `config`, a `PolicyLossConfig`.

    An operator takes tensors and scalars only. So the operator has the keyword arguments SCALARS
    in place of `config`; a caller passes `**config.scalars()`.
    """

    def decorate(function: Callable) -> torch.library.CustomOpDef:
        @functools.wraps(function)
        def operator(*tensors, **given):
            scalars = {name: given.pop(name) for name in SCALARS}
            names = declared_options(scalars["ratio"], scalars["kl"])
            scalars["options"] = dict(zip(names, scalars["options"], strict=True))
            return function(*tensors, config=PolicyLossConfig(**scalars), **given)

        signature = inspect.signature(function, eval_str=True)
        kept = [one for one in signature.parameters.values() if one.name != "config"]
        added = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=kind)
            for name, kind in SCALARS.items()
        ]
        operator.__signature__ = signature.replace(parameters=[*kept, *added])
        return torch.library.custom_op(name, operator, mutates_args=())

    return decorate
