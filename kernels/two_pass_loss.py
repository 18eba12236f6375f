"""`linear_policy_loss` with a ratio over sequences (GSPO), or with a loss per token.

The log-probs come first, then the loss, so the logits are made twice (four products).
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from .head import linear_logprob
from .loss import policy_loss
from .loss_config import PolicyLossConfig
from .loss_terms import IGNORE
from .loss_weights import sequence_index, sum_by


def two_pass_loss(
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
    sequence_ids: Tensor | None,
    normalizer: float | Tensor | None,
    config: PolicyLossConfig,
    options: dict[str, Any],
) -> tuple[Tensor, dict[str, Tensor]]:
    """`linear_policy_loss` of arguments that it has checked; options: of `linear_logprob`."""
    live = (labels != IGNORE) if mask is None else (labels != IGNORE) & mask.bool()
    scored, normalizer = _with_signal(live, advantages, sequence_ids, normalizer, config)
    logp, entropy = linear_logprob(
        hidden,
        weight,
        labels.where(scored, IGNORE),
        bias=bias,
        entropy_gradient=config.entropy_coef != 0,
        **options,
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
    sequence_ids: Tensor | None,
    normalizer: float | Tensor | None,
    config: PolicyLossConfig,
) -> tuple[Tensor, float | Tensor | None]:
    """(rows [N] that teach something, the normalizer as all live rows make it). With a ratio over
    sequences they are the rows of sequences that teach something."""
    by_sequence = config.policy_loss.over == "sequence"
    index = sequence_index(sequence_ids) if by_sequence else None
    if normalizer is None and config.reduction != "none":
        counted = live.float()
        sizes = counted if config.reduction == "token-mean" else (sum_by(counted, index) > 0)
        normalizer = sizes.sum().clamp(min=1)
    if config.kl_coef or config.entropy_coef:
        return live, normalizer
    signal = live & (advantages != 0)
    if by_sequence:
        signal = live & (sum_by(signal.float(), index)[index] > 0)
    return signal, normalizer
