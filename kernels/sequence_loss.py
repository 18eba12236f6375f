"""`linear_policy_loss` with a ratio over sequences (GSPO).

The log-probs come first, then the loss, so the logits are made twice (four products).
"""

from __future__ import annotations

from torch import Tensor

from .head import linear_logprob
from .loss import policy_loss
from .loss_config import PolicyLossConfig
from .loss_terms import IGNORE
from .loss_weights import sequence_index, sum_by


def sequence_ratio_loss(
    *,
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    labels: Tensor,
    advantages: Tensor,
    old_logp: Tensor | None,
    ref_logp: Tensor | None,
    rollout_logp: Tensor | None,
    mask: Tensor | None,
    sequence_ids: Tensor,
    normalizer: float | Tensor | None,
    config: PolicyLossConfig,
    temperature: float,
    softcap: float | None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """`linear_policy_loss` of arguments that it has checked."""
    live = (labels != IGNORE) if mask is None else (labels != IGNORE) & mask.bool()
    scored, normalizer = _with_signal(live, advantages, sequence_ids, normalizer, config)
    logp, entropy = linear_logprob(
        hidden,
        weight,
        labels.where(scored, IGNORE),
        bias=bias,
        temperature=temperature,
        softcap=softcap,
    )
    loss, metrics = policy_loss(
        logp,
        advantages,
        old_logp=old_logp,
        ref_logp=ref_logp,
        rollout_logp=rollout_logp,
        mask=scored,
        sequence_ids=sequence_ids,
        entropy=entropy,
        normalizer=normalizer,
        config=config,
    )
    # Clip shares are over live tokens, of which `policy_loss` was told the scored ones alone.
    count = live.sum().to(logp.dtype)
    share = metrics["live"] / count.clamp(min=1)
    shares = {name: metrics[name] * share for name in ("clip_low", "clip_high")}
    own = {"live": count, "logp": logp.detach(), "scored": scored}
    return loss, metrics | shares | own


def _with_signal(
    live: Tensor,
    advantages: Tensor,
    sequence_ids: Tensor,
    normalizer: float | Tensor | None,
    config: PolicyLossConfig,
) -> tuple[Tensor, float | Tensor]:
    """(rows [N] of sequences that teach something, the normalizer as all live rows make it)."""
    index = sequence_index(sequence_ids)
    if normalizer is None:
        counted = live.float()
        sizes = counted if config.reduction == "token-mean" else (sum_by(counted, index) > 0)
        normalizer = sizes.sum().clamp(min=1)
    if config.kl_coef or config.entropy_coef:
        return live, normalizer
    signal = (live & (advantages != 0)).float()
    return live & (sum_by(signal, index)[index] > 0), normalizer
