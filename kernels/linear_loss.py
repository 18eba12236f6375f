"""The policy loss straight from hidden states: three products and one pass over the logits.

The weight of a token in the loss does not depend on the logits (loss_weights.py), so the gradient
is made while a chunk's logits are at hand, and the logits are never kept or made again:

    z = h W^T;  one pass: logp, H, loss, dz over z;  dh = dz W;  dW += dz^T h (float32)

The upstream gradient is a number that arrives later and multiplies what is there. Rows that teach
nothing are left out before the first product: prompt, padding, masked tokens, and tokens of
advantage 0 where neither KL nor entropy is part of the loss. A sequence-level ratio needs the whole
sequence's log-probs first, so it makes the logits twice (two_pass_loss.py).
"""

from __future__ import annotations

import torch
from torch import Tensor

from .dispatch import CUDA_ROWS
from .head import cast_for_autocast, split_options
from .head_checks import check_head, check_head_options
from .linear_loss_op import linear_policy_loss_op
from .loss_config import PolicyLossConfig
from .loss_metrics import named
from .loss_terms import check_loss_inputs
from .loss_weights import as_scalar
from .shards import group_name
from .two_pass_loss import two_pass_loss


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
    temperature: float | Tensor = 1.0,
    softcap: float | None = None,
    chunk: int | None = None,
    logits_dtype: torch.dtype | None = None,
    logit_scale: float = 1.0,
    group: torch.distributed.ProcessGroup | None = None,
    live_rows: Tensor | int | None = None,
    main_grad: Tensor | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """`policy_loss` of labels [N] under the head weight [V, H] (+ bias [V]) on hidden [N, H].

    Gradients go to hidden, weight and bias; they are made here, and `backward` scales them. Masked
    rows and rows labelled -100 never reach the head. Nor do rows of advantage 0 while kl_coef and
    entropy_coef are 0 (with sequence ratios: sequences whose advantages are all 0): nothing in them
    is looked at, and their log-prob is not known.

    metrics has, beside `policy_loss`'s, `scored` [N] bool, the rows that went through the head, and
    `logp` [N] (detached, 0 where not scored). Clip shares are over live tokens; ratio, kl and
    entropy are over the scored ones. Labels out of range, heads, and the options from temperature
    on: as `linear_logprob`. live_rows may leave out rows that are not scored.

    A ratio over sequences, and the reduction "none", whose loss [N] takes any upstream gradient,
    need the log-probs before the gradient: the logits are made twice (four products).
    """
    config = config or PolicyLossConfig()
    check_head(hidden, weight, bias, labels, temperature, softcap)
    check_loss_inputs(
        count=labels.shape[0],
        device=hidden.device,
        config=config,
        advantages=advantages,
        old_logp=old_logp,
        ref_logp=ref_logp,
        rollout_logp=rollout_logp,
        mask=mask,
        sequence_ids=sequence_ids,
        normalizer=normalizer,
    )
    hidden, weight = cast_for_autocast(hidden, weight)
    check_head_options(
        hidden=hidden,
        weight=weight,
        logits_dtype=logits_dtype,
        logit_scale=logit_scale,
        chunk=chunk,
        live_rows=live_rows,
        main_grad=main_grad,
    )
    given = {
        "labels": labels,
        "advantages": advantages,
        "old_logp": old_logp,
        "ref_logp": ref_logp,
        "rollout_logp": rollout_logp,
        "mask": mask,
        "sequence_ids": sequence_ids,
    }
    head = {"hidden": hidden, "weight": weight, "bias": bias}
    if config.two_passes:
        options = {
            "temperature": temperature,
            "softcap": softcap,
            "chunk": chunk,
            "logits_dtype": logits_dtype,
            "logit_scale": logit_scale,
            "group": group,
            "live_rows": live_rows,
            "main_grad": main_grad,
        }
        return two_pass_loss(**head, **given, normalizer=normalizer, config=config, options=options)
    training = torch.is_grad_enabled()
    loss, *_, logp, scored, metrics = linear_policy_loss_op(
        **head,
        **given,
        **split_options(temperature, live_rows),
        main_grad=main_grad,
        softcap=None if softcap is None else float(softcap),
        scale=float(logit_scale),
        chunk=chunk or CUDA_ROWS,
        logits_dtype=logits_dtype,
        group=group_name(group),
        normalizer=as_scalar(normalizer, hidden.device),
        wanted=[training and one is not None and one.requires_grad for one in head.values()],
        **config.scalars(),
    )
    return loss, named(metrics) | {"logp": logp.detach(), "scored": scored}
