"""verl with our loss and our advantages: importing this registers them under names of their own.

    VERL_USE_EXTERNAL_MODULES=sectow_fast.adapters.verl python -m verl.trainer.main_ppo \\
        algorithm.adv_estimator=sectow_grpo \\
        actor_rollout_ref.actor.policy_loss.loss_mode=sectow ...

| ours                                           | verl's                     |
|------------------------------------------------|----------------------------|
| sectow, sectow_gspo, sectow_cispo, sectow_sapo | vanilla, gspo, cispo, sapo |
| sectow_grpo, sectow_rloo                       | grpo, rloo                 |

Clip, dual clip, `rollout_is_weights`, every `loss_agg_mode`, global batch sizes and logged measures
are verl's; verl adds KL and entropy terms outside of the loss. Three things differ: a group whose
rewards are all equal has advantages of exactly 0 (verl: rounding noise over 1e-6), a batch without
a live token has loss 0 (verl: 0 / 0), and the values at masked tokens never matter.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sectow_fast.extras import require
from sectow_fast.kernels import PolicyLossConfig, group_advantage, policy_loss

require("verl")  # before the import that would fail

from verl.trainer.ppo.core_algos import register_adv_est, register_policy_loss  # noqa: E402

TESTED = "0.9."  # verl's internals change between minor versions

if not version("verl").startswith(TESTED):
    raise ImportError(
        f"sectow_fast.adapters.verl: found verl {version('verl')}, expected {TESTED}*: its loss"
        " and its advantages are matched term by term, so other versions need a new look;"
        f" pip install 'verl=={TESTED}*'"
    )

# The bound on the absolute log-ratio of each loss, as in verl.
BOUNDS = {"token": 20.0, "sequence": 10.0, "cispo": 20.0, "sapo": 20.0}


@register_policy_loss("sectow")
def sectow(*given: Any, **named: Any) -> tuple[Tensor, dict[str, Any]]:
    """verl's `vanilla`: decoupled clip and dual clip (`clip_ratio_c`)."""
    return _loss("token", *given, **named)


@register_policy_loss("sectow_gspo")
def sectow_gspo(*given: Any, **named: Any) -> tuple[Tensor, dict[str, Any]]:
    """verl's `gspo`: one ratio per sequence; each token's gradient uses its own advantage."""
    return _loss("sequence", *given, **named)


@register_policy_loss("sectow_cispo")
def sectow_cispo(*given: Any, **named: Any) -> tuple[Tensor, dict[str, Any]]:
    """verl's `cispo`: the clipped ratio as a constant weight of the log-prob."""
    return _loss("cispo", *given, **named)


@register_policy_loss("sectow_sapo")
def sectow_sapo(
    old_log_prob: Tensor,
    log_prob: Tensor,
    advantages: Tensor,
    response_mask: Tensor,
    loss_agg_mode: str = "seq-mean-token-mean",
    *given: Any,
    **named: Any,
) -> tuple[Tensor, dict[str, Any]]:
    """verl's `sapo`: a soft gate in place of the clip. As in verl, the mean over each sequence
    comes first, whatever `loss_agg_mode` is."""
    tensors = old_log_prob, log_prob, advantages, response_mask
    return _loss("sapo", *tensors, "seq-mean-token-mean", *given, **named)


def _loss(
    kind: str,
    old_log_prob: Tensor,
    log_prob: Tensor,
    advantages: Tensor,
    response_mask: Tensor,
    loss_agg_mode: str = "token-mean",
    config: Any = None,
    rollout_is_weights: Tensor | None = None,
) -> tuple[Tensor, dict[str, Any]]:
    """(loss, measures) of [B, T] tensors, as verl's registry has it."""
    mask = response_mask.bool()
    old = old_log_prob
    if kind == "sequence":
        # The gradient is per token and the ratio per sequence, so the old log-probs are shifted.
        gap = (log_prob.detach() - old).where(mask, 0.0)
        mean = gap.sum(-1, keepdim=True) / mask.sum(-1, keepdim=True).clamp(min=1)
        old = log_prob.detach() - mean
    # A weight >= 0 on the advantage acts like one on the token's loss.
    weighted = advantages if rollout_is_weights is None else advantages * rollout_is_weights
    reduction, normalizer = _reduction(loss_agg_mode, mask, config.global_batch_info)
    settings = PolicyLossConfig(
        # A ratio is never below 0, so a larger bound (CISPO has none) acts like 1.
        clip_low=min(_or(config.clip_ratio_low, config.clip_ratio), 1.0),
        clip_high=_or(config.clip_ratio_high, config.clip_ratio),
        dual_clip=config.get("clip_ratio_c", 3.0) if kind == "token" else None,
        ratio="token" if kind == "sequence" else kind,
        **{"sapo_pos": config.tau_pos, "sapo_neg": config.tau_neg} if kind == "sapo" else {},
        reduction=reduction,
        log_ratio_clamp=BOUNDS[kind],
    )
    tokens = mask.shape[-1]
    loss, _ = policy_loss(
        log_prob.flatten(),
        weighted.expand_as(mask).flatten(),
        old_logp=old.flatten(),
        mask=mask.flatten(),
        sequence_ids=torch.arange(mask.numel(), device=mask.device) // tokens,
        normalizer=normalizer,
        config=settings,
    )
    return loss, _measures(kind, log_prob.detach() - old, advantages, mask, settings)


def _or(value: float | None, other: float) -> float:
    return other if value is None else value


def _reduction(mode: str, mask: Tensor, info: dict[str, Any]) -> tuple[str, Tensor | float | None]:
    """(the operator's reduction, its normalizer) of verl's `agg_loss`."""
    ranks = info.get("dp_size") or 1
    if mode == "token-sum":
        return "constant", 1 / ranks
    name = "batch_num_tokens" if mode == "token-mean" else "global_batch_size"
    count = info.get(name)
    if count is None:
        if ranks > 1:
            raise ValueError(f"{name}: found None with dp_size {ranks}, expected a number")
        count = (mask if mode == "token-mean" else mask.any(-1)).sum().clamp(min=1)
    if mode == "seq-mean-token-sum-norm":
        count = count * _or(info.get("loss_scale_factor"), mask.shape[-1])
    known = ("token-mean", "seq-mean-token-sum", "seq-mean-token-sum-norm", "seq-mean-token-mean")
    if mode not in known:
        raise ValueError(f"loss_agg_mode: found {mode!r}, expected token-sum, {', '.join(known)}")
    return "seq-mean" if mode == "seq-mean-token-mean" else "constant", count / ranks


@torch.no_grad()
def _measures(
    kind: str,
    log_ratio: Tensor,
    advantages: Tensor,
    mask: Tensor,
    settings: PolicyLossConfig,
) -> dict[str, float]:
    """verl's three measures, under its names. They wait for the device once, verl's three times."""
    bound = settings.log_ratio_clamp
    ratio = log_ratio.clamp(-bound, bound).exp()
    low, high = ratio < 1 - settings.clip_low, ratio > 1 + settings.clip_high
    cut = low | high if kind == "cispo" else (low & (advantages < 0)) | (high & (advantages > 0))
    cut = torch.zeros_like(cut) if kind == "sapo" else cut  # its gate cuts nothing
    over = torch.zeros_like(cut)
    if settings.dual_clip is not None:
        over = (ratio > settings.dual_clip) & (advantages < 0)
    # All tokens of a sequence have its mean log-ratio here, so a mean over tokens fits every kind.
    drift = -(log_ratio if kind == "sequence" else log_ratio.clamp(-bound, bound))
    size = mask.sum().clamp(min=1)
    sums = torch.stack([one.float().where(mask, 0.0).sum() for one in (cut, drift, over)]) / size
    cut_share, kl, over_share = sums.tolist()
    return {
        "actor/pg_clipfrac": cut_share,
        "actor/ppo_kl": kl,
        "actor/pg_clipfrac_lower": over_share,
    }


@register_adv_est("sectow_grpo")
def sectow_grpo(
    token_level_rewards: Tensor,
    response_mask: Tensor,
    index: np.ndarray,
    epsilon: float = 1e-6,
    norm_adv_by_std_in_grpo: bool | None = None,
    config: Any = None,
    **_: Any,
) -> tuple[Tensor, Tensor]:
    """verl's `grpo`. verl passes `norm_adv_by_std_in_grpo` only to the estimator named `grpo`, so
    here it is read from `config` by default."""
    if norm_adv_by_std_in_grpo is None:
        norm_adv_by_std_in_grpo = config is None or config.get("norm_adv_by_std_in_grpo", True)
    scale = "std" if norm_adv_by_std_in_grpo else "none"
    return _advantages(token_level_rewards, response_mask, index, "mean", scale, epsilon)


@register_adv_est("sectow_rloo")
def sectow_rloo(
    token_level_rewards: Tensor, response_mask: Tensor, index: np.ndarray, **_: Any
) -> tuple[Tensor, Tensor]:
    """verl's `rloo`."""
    return _advantages(token_level_rewards, response_mask, index, "loo", "none", 0.0)


@torch.no_grad()
def _advantages(
    rewards: Tensor, mask: Tensor, index: np.ndarray, baseline: str, scale: str, eps: float
) -> tuple[Tensor, Tensor]:
    scores = rewards.sum(-1)
    _, group, size = np.unique(index, return_inverse=True, return_counts=True)
    ids = torch.from_numpy(group).to(scores.device)
    values, _ = group_advantage(scores, ids, baseline=baseline, scale=scale, eps=eps)
    # A group of one has no others to compare with; verl keeps its score as it is.
    alone = torch.from_numpy(size[group] == 1).to(scores.device)
    values = values.where(~alone, scores / (1 + eps) if scale == "std" else scores)
    out = values[:, None] * mask
    return out, out
