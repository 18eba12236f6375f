"""The policy loss straight from hidden states: head, log-prob, entropy and loss in one call."""

from __future__ import annotations

from torch import Tensor

from .head import linear_logprob
from .loss import policy_loss
from .loss_terms import PolicyLossConfig


def linear_policy_loss(
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    advantages: Tensor,
    *,
    bias: Tensor | None = None,
    old_logp: Tensor | None = None,
    ref_logp: Tensor | None = None,
    rollout_logp: Tensor | None = None,
    mask: Tensor | None = None,
    sequence_ids: Tensor | None = None,
    normalizer: float | Tensor | None = None,
    config: PolicyLossConfig | None = None,
    temperature: float = 1.0,
) -> tuple[Tensor, dict[str, Tensor]]:
    """`policy_loss` of labels [N] under the head weight [V, H] (+ bias [V]) on hidden [N, H].

    Masked rows never reach the head. Gradients go to hidden, weight and bias. metrics has, beside
    `policy_loss`'s, `logp` [N] (detached, 0 where masked) for the caller's own measures.
    """
    ignore = -100
    wanted = labels if mask is None else labels.where(mask.bool(), ignore)
    live = wanted != ignore
    logp, entropy = linear_logprob(
        hidden, weight, wanted, bias=bias, temperature=temperature, ignore_index=ignore
    )
    loss, metrics = policy_loss(
        logp,
        advantages,
        old_logp=old_logp,
        ref_logp=ref_logp,
        rollout_logp=rollout_logp,
        mask=live,
        sequence_ids=sequence_ids,
        entropy=entropy,
        normalizer=normalizer,
        config=config,
    )
    return loss, metrics | {"logp": logp.detach()}
