"""The policy loss straight from hidden states: three products and one pass over the logits.

The weight of a token in the loss does not depend on the logits (loss_weights.py), so the gradient
is made while a chunk's logits are at hand, and the logits are never kept or made again:

    z = h W^T;  one pass: logp, H, loss, dz over z;  dh = dz W;  dW += dz^T h (float32)

The upstream gradient is a number that arrives later and multiplies what is there. Rows that teach
nothing are left out before the first product: prompt, padding, masked tokens, and tokens of
advantage 0 where neither KL nor entropy is part of the loss. A sequence-level ratio needs the whole
sequence's log-probs first, so it makes the logits twice (sequence_loss.py).
"""

from __future__ import annotations

import torch
from torch import Tensor

from . import checks
from .dispatch import chunk_rows, tile_rows, use_triton, wide
from .head import cast_for_autocast
from .head_chunks import HeadGradients, head_chunks
from .logprob import RowStats, row_scores
from .loss_config import PolicyLossConfig, loss_operator
from .loss_metrics import METRICS, loss_metrics, named
from .loss_terms import IGNORE, RowResults, TokenInputs, check_loss_inputs, live_only, token_terms
from .loss_weights import as_scalar, sequence_index, token_weights
from .sequence_loss import sequence_ratio_loss


def loss_rows(
    *,
    logits: Tensor,
    labels: Tensor,
    inputs: TokenInputs,
    weights: Tensor,
    bias: Tensor | None,
    softcap: float | None,
    temperature: float,
    config: PolicyLossConfig,
    gradient: bool,
) -> RowResults:
    """What rows of logits [n, V] give; where `gradient` is set d logits is written over them."""
    parts = []
    size = tile_rows(logits.shape[1])
    for start in range(0, len(labels), size):
        tile = slice(start, start + size)
        scores, d_score = row_scores(logits[tile], bias, softcap, temperature)
        stats = RowStats(scores, labels[tile])
        given = inputs.each(lambda tensor, tile=tile: tensor[tile])
        old_logp = stats.logp if given.old_logp is None else given.old_logp
        terms = token_terms(
            logp=stats.logp,
            log_ratio=stats.logp - old_logp,
            inputs=given,
            entropy=stats.entropy,
            config=config,
        )
        parts.append(RowResults(stats.logp, stats.entropy, terms.loss, terms.ratio, terms.kl))
        if gradient:
            g_logp = weights[tile] * (terms.d_log_ratio + terms.d_logp)
            g_entropy = weights[tile] * terms.d_entropy if config.entropy_coef else None
            d_logits = stats.gradient(g_logp, g_entropy).div_(temperature)
            logits[tile] = d_logits if d_score is None else d_logits.mul_(d_score)
    return RowResults(*(torch.cat(column) for column in zip(*parts, strict=True)))


# --- the operator -------------------------------------------------------------------------------


@loss_operator("sectow::linear_policy_loss")
def linear_policy_loss_op(
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
    normalizer: Tensor | None,
    *,
    temperature: float,
    softcap: float | None,
    wanted: list[bool],
    config: PolicyLossConfig,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """(loss, dh, dW, db, logp [N], scored [N], metrics)."""
    count, vocabulary = len(labels), weight.shape[0]
    dtype = wide(hidden.dtype)
    live = labels != IGNORE if mask is None else (labels != IGNORE) & mask.bool()
    checks.check_labels(labels, live, vocabulary, IGNORE)
    index = None if sequence_ids is None else sequence_index(sequence_ids)
    weights = token_weights(live, index, normalizer, config.reduction, dtype)
    # The gradient is made of tokens' weights relative to the largest, and scaled at the end: over
    # many tokens 1 / N times a small probability would be lost in float16.
    largest = torch.cat([weights, weights.new_full((1,), torch.finfo(dtype).tiny)]).amax()
    relative = weights / largest

    scored = live
    if not config.kl_coef and not config.entropy_coef:
        scored = live & (advantages != 0)
    inputs = TokenInputs(
        advantages=advantages, old_logp=old_logp, ref_logp=ref_logp, rollout_logp=rollout_logp
    ).each(live_only(live, dtype))
    make_rows = loss_rows
    if use_triton(hidden):
        from .linear_loss_triton import loss_rows_triton as make_rows
    whole = RowResults(*(hidden.new_zeros(count, dtype=dtype) for _ in RowResults._fields))
    gradients = HeadGradients(hidden, weight, bias, wanted)
    for chunk in head_chunks(hidden, weight, scored, chunk_rows(hidden, vocabulary)):
        rows = chunk.rows
        results = make_rows(
            logits=chunk.logits,
            labels=labels[rows].where(scored[rows], 0),
            inputs=inputs.each(lambda tensor, rows=rows: tensor[rows]),
            weights=relative[rows],
            bias=bias,
            softcap=softcap,
            temperature=temperature,
            config=config,
            gradient=any(wanted),
        )
        for all_rows, part in zip(whole, results, strict=True):
            all_rows[rows] = part.where(scored[rows], 0.0)
        if any(wanted):
            gradients.add(chunk, chunk.logits)
    metrics = loss_metrics(
        ratio=whole.ratio,
        kl=whole.kl,
        advantages=inputs.advantages,
        entropy=whole.entropy,
        live=scored,
        count=live.sum(),
        config=config,
    )
    loss = (whole.loss * weights).sum()
    return loss, *gradients.result(largest), whole.logp, scored.clone(), metrics


@linear_policy_loss_op.register_fake
def _(hidden, weight, bias, labels, *_, wanted, **__):
    dtype = wide(hidden.dtype)
    return (
        hidden.new_empty((), dtype=dtype),
        *HeadGradients(hidden, weight, bias, wanted).result(),
        hidden.new_empty(labels.shape, dtype=dtype),
        hidden.new_empty(labels.shape, dtype=torch.bool),
        hidden.new_empty(len(METRICS), dtype=dtype),
    )


def _setup(ctx, inputs, keyword_only_inputs, output) -> None:
    _, d_hidden, d_weight, d_bias, *_ = output
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)  # or zeros as large as dW would be made for them
    ctx.wanted = keyword_only_inputs["wanted"]
    ctx.save_for_backward(d_hidden, d_weight, d_bias)
    ctx.constants = len(inputs) - len(ctx.wanted)


def _gradients(ctx, upstream, *_):
    constants = (None,) * ctx.constants
    if upstream is None:  # nothing was made of the loss
        return *(None for _ in ctx.wanted), *constants
    # Scaled in place where nobody can ask again (no retain_graph, not being traced): a copy of dW
    # would double what the head costs.
    traced = type(upstream) is not Tensor
    again = traced or torch._C._autograd._get_current_graph_task_keep_graph()
    found = (
        ((upstream * d).to(d.dtype) if again else d.mul_(upstream)) if wanted else None
        for d, wanted in zip(ctx.saved_tensors, ctx.wanted, strict=True)
    )
    return *found, *constants


linear_policy_loss_op.register_autograd(_gradients, setup_context=_setup)


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
    softcap: float | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """`policy_loss` of labels [N] under the head weight [V, H] (+ bias [V]) on hidden [N, H].

    Gradients go to hidden, weight and bias; they are made here, and `backward` scales them. Masked
    rows and rows labelled -100 never reach the head. Nor do rows of advantage 0 while kl_coef and
    entropy_coef are 0 (with sequence ratios: sequences whose advantages are all 0): nothing in them
    is looked at, and their log-prob is not known.

    metrics has, beside `policy_loss`'s, `scored` [N] bool, the rows that went through the head, and
    `logp` [N] (detached, 0 where not scored). Clip shares are over live tokens; ratio, kl and
    entropy are over the scored ones. Labels out of range and heads: as `linear_logprob`.
    """
    config = config or PolicyLossConfig()
    checks.check_head(hidden, weight, bias, labels, temperature, softcap)
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
    given = {
        "labels": labels,
        "advantages": advantages,
        "old_logp": old_logp,
        "ref_logp": ref_logp,
        "rollout_logp": rollout_logp,
        "mask": mask,
        "sequence_ids": sequence_ids,
        "softcap": None if softcap is None else float(softcap),
        "temperature": float(temperature),
    }
    head = {"hidden": hidden, "weight": weight, "bias": bias}
    if config.policy_loss.over == "sequence":
        return sequence_ratio_loss(**head, **given, normalizer=normalizer, config=config)
    training = torch.is_grad_enabled()
    loss, *_, logp, scored, metrics = linear_policy_loss_op(
        **head,
        **given,
        normalizer=as_scalar(normalizer, hidden.device),
        wanted=[training and one is not None and one.requires_grad for one in head.values()],
        **config.scalars(),
    )
    return loss, named(metrics) | {"logp": logp.detach(), "scored": scored}
