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
)
from .loss_batch import LossBatch, score_rows
from .loss_config import PolicyLossConfig, loss_operator
from .loss_metrics import METRICS
from .loss_rows import close_loss, live_tokens, open_loss
from .loss_terms import IGNORE, TokenInputs
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
    vocabulary = weight.shape[0]
    dtype = wide(hidden.dtype)
    shard = shard_named(group)
    form = shard.form(
        weight,
        bias=bias,
        softcap=softcap,
        scale=scale,
        temperature=temperature if temperatures is None else temperatures,
    )
    if not hidden.is_cuda:  # the kernels of a card give NaN there
        live = live_tokens(labels, mask)
        checks.check_labels(labels, live, form.whole, IGNORE)
        check_temperatures(form.temperature, live)
    opened = open_loss(
        labels=labels,
        mask=mask,
        advantages=advantages,
        normalizer=normalizer,
        sequence_ids=sequence_ids,
        given_rows=given_rows,
        bound=bound,
        config=config,
        dtype=dtype,
    )
    scored, chosen = opened.scored, opened.chosen
    batch = LossBatch(
        labels=labels,
        inputs=TokenInputs(
            advantages=advantages, old_logp=old_logp, ref_logp=ref_logp, rollout_logp=rollout_logp
        ),
        weights=opened.weights,
        scored=scored,
        form=form,
        config=config,
        group=shard.group,
        gradient=any(wanted),
        results=opened.results,
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
    loss, scale, metrics = close_loss(opened, advantages, config)
    d_hidden, d_weight, d_bias = gradients.result(shard.group)
    d_hidden = d_hidden.to(hidden.dtype)
    if weight.dtype == wide(weight.dtype):
        # Nothing is rounded by the scale, and the backward pass has nothing to cast.
        d_hidden, d_weight, d_bias = (one.mul_(scale) for one in (d_hidden, d_weight, d_bias))
        scale = torch.ones_like(scale)
    logp = opened.results.logp
    # On a CPU it is a part of the memory of all results.
    logp = logp if logp.untyped_storage().nbytes() == logp.nbytes else logp.clone()
    return loss, d_hidden, d_weight, d_bias, scale, logp, scored, metrics


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


def is_traced(tensor: Tensor) -> bool:
    """Only what is run, and not traced, may be written over."""
    return type(tensor) is not Tensor


def asked_again() -> bool:
    """Within a backward pass: whether it keeps its graph, so that another one may follow."""
    return torch._C._autograd._get_current_graph_task_keep_graph()


def _gradients(ctx, upstream, *_):
    constants = (None,) * ctx.constants
    if upstream is None:  # nothing was made of the loss
        return *(None for _ in ctx.wanted), *constants
    *made, largest = ctx.saved_tensors
    # Scaled in place where nobody can ask again (no retain_graph, not being traced): a copy of dW
    # would double what the head costs.
    traced = is_traced(upstream)
    again = traced or asked_again()
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
