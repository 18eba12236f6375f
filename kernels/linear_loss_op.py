"""The operator of `linear_policy_loss` (linear_loss.py), and its backward pass."""

from __future__ import annotations

import torch
from torch import Tensor

from . import checks
from .dispatch import chunk_rows, wide
from .head_checks import check_temperatures
from .head_chunks import (
    HeadGradients,
    gradient_buffer,
    head_chunks,
    head_tensors,
    left_over,
    live_rows,
)
from .loss_batch import LossBatch, score_rows
from .loss_config import PolicyLossConfig, loss_operator
from .loss_metrics import METRICS, loss_metrics
from .loss_terms import IGNORE, RowResults, TokenInputs
from .loss_weights import sequence_index, token_weights
from .shards import shard_named


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
    temperatures: Tensor | None,
    given_rows: Tensor | None,
    main_grad: Tensor | None,
    *,
    temperature: float,
    softcap: float | None,
    scale: float,
    chunk: int,
    logits_dtype: torch.dtype | None,
    group: str | None,
    bound: int | None,
    wanted: list[bool],
    config: PolicyLossConfig,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """(loss, dh, dW, db, what they are to be multiplied by, logp [N], scored [N], metrics).

    dW and db are float32, whatever the model's dtype: they are scaled and rounded once, in the
    backward pass (of float32 heads, scaled here), which is also where dW is added to main_grad.
    """
    count, vocabulary = len(labels), weight.shape[0]
    dtype = wide(hidden.dtype)
    shard = shard_named(group)
    form = shard.form(
        weight,
        bias=bias,
        softcap=softcap,
        scale=scale,
        temperature=temperature if temperatures is None else temperatures,
    )
    live = labels != IGNORE if mask is None else (labels != IGNORE) & mask.bool()
    checks.check_labels(labels, live, form.whole, IGNORE)
    check_temperatures(form.temperature, live)
    index = sequence_index(sequence_ids) if config.reduction.startswith("seq") else None
    weights = token_weights(live, index, normalizer, config.reduction, dtype)
    # The gradient is made of tokens' weights relative to the largest, and scaled at the end: over
    # many tokens 1 / N times a small probability would be lost in float16.
    largest = torch.cat([weights, weights.new_full((1,), torch.finfo(dtype).tiny)]).amax()

    scored = live
    if not config.kl_coef and not config.entropy_coef:
        scored = live & (advantages != 0)
    chosen = live_rows(scored, given_rows, bound)
    left = left_over(scored, chosen)
    batch = LossBatch(
        labels=labels,
        inputs=TokenInputs(
            advantages=advantages, old_logp=old_logp, ref_logp=ref_logp, rollout_logp=rollout_logp
        ),
        weights=weights / largest,
        scored=scored,
        form=form,
        config=config,
        group=shard.group,
        gradient=any(wanted),
        results=RowResults(*hidden.new_zeros(len(RowResults._fields), count, dtype=dtype)),
    )
    head = head_tensors(hidden, weight, logits_dtype)
    gradients = HeadGradients(head.hidden, head.weight, wanted, whole=chosen.rows is None)
    size = chunk_rows(hidden, vocabulary, chunk)
    for part in head_chunks(
        head.hidden, head.weight, scored, chosen, size, dtype=head.logits_dtype
    ):
        d_logits = gradient_buffer(part.logits, head.weight.dtype)
        score_rows(batch, part, d_logits)
        if any(wanted):
            gradients.add(part, d_logits)
    whole = batch.results
    loss = (whole.loss * weights).sum()
    metrics = loss_metrics(
        ratio=whole.ratio,
        kl=whole.kl,
        advantages=advantages,
        entropy=whole.entropy,
        live=scored,
        count=live.sum(),
        config=config,
    )
    if left is not None:
        loss = loss.masked_fill(left.any(), torch.nan)
        largest = largest.masked_fill(left.any(), torch.nan)
    d_hidden, d_weight, d_bias = gradients.result(shard.group)
    d_hidden = d_hidden.to(hidden.dtype)
    if weight.dtype == dtype:
        # Nothing is rounded by the scale, and the backward pass has nothing to cast.
        d_hidden, d_weight, d_bias = (one.mul_(largest) for one in (d_hidden, d_weight, d_bias))
        largest = torch.ones_like(largest)
    return loss, d_hidden, d_weight, d_bias, largest, whole.logp.clone(), scored.clone(), metrics


@linear_policy_loss_op.register_fake
def _(hidden, weight, bias, labels, *_, wanted, **__):
    dtype = wide(hidden.dtype)
    return (
        hidden.new_empty((), dtype=dtype),
        hidden.new_empty(hidden.shape if wanted[0] else (0, 0)),
        weight.new_empty(weight.shape if wanted[1] else (0, 0), dtype=dtype),
        weight.new_empty(weight.shape[0] if wanted[2] else 0, dtype=dtype),
        hidden.new_empty((), dtype=dtype),
        hidden.new_empty(labels.shape, dtype=dtype),
        hidden.new_empty(labels.shape, dtype=torch.bool),
        hidden.new_empty(len(METRICS), dtype=dtype),
    )


def _setup(ctx, inputs, keyword_only_inputs, output) -> None:
    _, d_hidden, d_weight, d_bias, largest, *_ = output
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)  # or zeros as large as dW would be made for them
    ctx.wanted = keyword_only_inputs["wanted"]
    ctx.save_for_backward(d_hidden, d_weight, d_bias, largest)
    hidden, weight, bias, *_, ctx.main_grad = inputs
    ctx.dtypes = [None if one is None else one.dtype for one in (hidden, weight, bias)]
    ctx.constants = len(inputs) - len(ctx.wanted)


def _gradients(ctx, upstream, *_):
    constants = (None,) * ctx.constants
    if upstream is None:  # nothing was made of the loss
        return *(None for _ in ctx.wanted), *constants
    *made, largest = ctx.saved_tensors
    # Scaled in place where nobody can ask again (no retain_graph, not being traced): a copy of dW
    # would double what the head costs.
    traced = type(upstream) is not Tensor
    again = traced or torch._C._autograd._get_current_graph_task_keep_graph()
    scale = upstream * largest
    found = []
    for one, wanted, dtype in zip(made, ctx.wanted, ctx.dtypes, strict=True):
        # As many dimensions as the gradient: a scalar would be rounded to float16 before it counts.
        factor = scale.view((1,) * one.ndim)
        if not wanted:
            found.append(None)
        elif one is made[1] and ctx.main_grad is not None:
            ctx.main_grad.addcmul_(one, factor)
            found.append(None)
        elif traced:
            found.append((one * factor).to(dtype))
        elif again or one.dtype != dtype:
            found.append(torch.mul(one, factor, out=torch.empty_like(one, dtype=dtype)))
        else:
            found.append(one.mul_(factor))
    return *found, *constants


linear_policy_loss_op.register_autograd(_gradients, setup_context=_setup)
