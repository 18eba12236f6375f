"""The policy loss straight from hidden states: three products and one pass over the logits.

The weight of a token in the loss does not depend on the logits (loss_terms.py), so the gradient is
made while a chunk's logits are at hand, and the logits are never kept or made again:

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
from .dispatch import chunk_rows, live_rows, tile_rows, use_triton, wide
from .head import (
    HeadGradients,
    cast_for_autocast,
    linear_logprob_oracle,
    row_chunks,
)
from .logprob import RowStats, row_scores
from .loss import policy_loss_oracle
from .loss_terms import (
    IGNORE,
    METRICS,
    PolicyLossConfig,
    as_scalar,
    check_terms,
    named,
    sequence_index,
    summary,
    token_terms,
    token_weights,
)
from .sequence_loss import sequence_ratio_loss


def linear_policy_loss_oracle(
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    advantages: Tensor,
    *,
    bias: Tensor | None = None,
    mask: Tensor | None = None,
    temperature: float = 1.0,
    softcap: float | None = None,
    **given,
) -> Tensor:
    """What `linear_policy_loss` means, with the whole [N, V] and autograd."""
    live = labels != IGNORE if mask is None else (labels != IGNORE) & mask.bool()
    # A masked row's hidden state is replaced before the product: 0 * NaN would reach dW.
    states, wanted = torch.where(live[:, None], hidden, 0.0), labels.where(live, IGNORE)
    logp, entropy = linear_logprob_oracle(states, weight, wanted, bias, temperature, softcap)
    return policy_loss_oracle(logp, advantages, mask=live, entropy=entropy, **given)


# What a token brings to its row, [n] each, in this order; ref and rollout may be missing.
Rows = tuple[Tensor, Tensor | None, Tensor | None, Tensor | None, Tensor]


def loss_rows(
    logits: Tensor,
    labels: Tensor,
    rows: Rows,
    bias: Tensor | None,
    softcap: float | None,
    temperature: float,
    config: PolicyLossConfig,
    gradient: bool,
) -> tuple[Tensor, ...]:
    """(logp, entropy, loss, ratio, kl) of logits [n, V], over which d logits is written."""
    if use_triton(logits):
        from .linear_loss_triton import loss_rows_triton

        return loss_rows_triton(logits, labels, rows, bias, softcap, temperature, config, gradient)
    parts = []
    size = tile_rows(logits.shape[1])
    for start in range(0, len(labels), size):
        here = slice(start, start + size)
        scores, slope = row_scores(logits[here], bias, softcap, temperature)
        stats = RowStats(scores, labels[here])
        gain, old, ref, rollout, weights = (None if one is None else one[here] for one in rows)
        now = stats.logp
        old = now if old is None else old
        terms = token_terms(now, gain, now - old, old, ref, rollout, stats.entropy, config)
        parts.append((now, stats.entropy, terms.loss, terms.ratio, terms.kl))
        if gradient:
            g_entropy = weights * terms.d_entropy if config.entropy_coef else None
            d = stats.gradient(weights * (terms.d_ratio + terms.d_direct), g_entropy)
            d.div_(temperature)
            logits[here] = d if slope is None else d.mul_(slope)
    return tuple(torch.cat(column) for column in zip(*parts, strict=True))


# --- the operator -------------------------------------------------------------------------------


@torch.library.custom_op("sectow::linear_policy_loss", mutates_args=())
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
    kinds: str,
    numbers: list[float],
    temperature: float,
    softcap: float | None,
    wanted: list[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """(loss, dh, dW, db, logp [N], scored [N], metrics)."""
    config = PolicyLossConfig.of(kinds, numbers)
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
    rows = live_rows(scored)

    def clean(tensor: Tensor | None) -> Tensor | None:
        return None if tensor is None else tensor.to(dtype).where(live, 0.0)

    given = [clean(one) for one in (advantages, old_logp, ref_logp, rollout_logp)]
    logp, entropy, loss, ratio, kl = (hidden.new_zeros(count, dtype=dtype) for _ in range(5))
    gradients = HeadGradients(hidden, weight, bias, tuple(wanted))
    size = min(chunk_rows(hidden, vocabulary), count if rows is None else len(rows))
    buffer = hidden.new_empty(size, vocabulary)
    for chunk, place in row_chunks(rows, count, max(size, 1)):
        states = hidden[chunk]
        if rows is None:
            # Every row takes part, dead ones too (a CUDA graph is being captured, or none is dead).
            states = states.where(scored[chunk, None], 0.0)
        logits = torch.mm(states, weight.T, out=buffer[: place.stop - place.start])
        mine = [None if one is None else one[chunk] for one in (*given, relative)]
        ids = labels[chunk].where(scored[chunk], 0)
        results = loss_rows(logits, ids, mine, bias, softcap, temperature, config, any(wanted))
        for whole, part in zip((logp, entropy, loss, ratio, kl), results, strict=True):
            whole[chunk] = part.where(scored[chunk], 0.0)
        if any(wanted):
            gradients.add(chunk, states, logits)
    terms = ratio, kl
    gain = clean(advantages)
    metrics = summary(terms, gain, entropy, scored, config, live.sum())
    return (
        (loss * weights).sum(),
        *gradients.result(largest),
        logp,
        scored.clone(),
        metrics,
    )


@linear_policy_loss_op.register_fake
def _(hidden, weight, bias, labels, *rest):
    dtype = wide(hidden.dtype)
    return (
        hidden.new_empty((), dtype=dtype),
        *HeadGradients(hidden, weight, bias, tuple(rest[-1])).result(),
        hidden.new_empty(labels.shape, dtype=dtype),
        hidden.new_empty(labels.shape, dtype=torch.bool),
        hidden.new_empty(len(METRICS), dtype=dtype),
    )


def _setup(ctx, inputs, output) -> None:
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)  # or zeros as large as dW would be made for them
    ctx.wanted = inputs[-1]
    ctx.save_for_backward(*output[1:4])


def _gradients(ctx, upstream, *_):
    if upstream is None:  # nothing was made of the loss
        return (None,) * 16
    # Scaled in place where nobody can ask again (no retain_graph, not being traced): a copy of dW
    # would double what the head costs.
    traced = type(upstream) is not Tensor
    again = traced or torch._C._autograd._get_current_graph_task_keep_graph()
    found = (
        ((upstream * d).to(d.dtype) if again else d.mul_(upstream)) if wanted else None
        for d, wanted in zip(ctx.saved_tensors, ctx.wanted, strict=True)
    )
    return *found, *(None,) * 13


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
    count, device = labels.shape[0], hidden.device
    check_terms(
        *(count, device, config),
        advantages=advantages,
        old_logp=old_logp,
        ref_logp=ref_logp,
        rollout_logp=rollout_logp,
        mask=mask,
        sequence_ids=sequence_ids,
        normalizer=normalizer,
    )
    hidden, weight = cast_for_autocast(hidden, weight)
    given = advantages, old_logp, ref_logp, rollout_logp
    if config.ratio == "sequence":
        return sequence_ratio_loss(
            *(hidden, weight, labels, *given, bias, mask, sequence_ids, normalizer),
            *(config, temperature, softcap),
        )
    heads = (hidden, weight, bias)
    wanted = [torch.is_grad_enabled() and one is not None and one.requires_grad for one in heads]
    loss, *_, logp, scored, metrics = linear_policy_loss_op(
        *(*heads, labels, *given, mask, sequence_ids, as_scalar(normalizer, device)),
        *(config.kinds(), config.numbers(), float(temperature), softcap and float(softcap), wanted),
    )
    return loss, named(metrics) | {"logp": logp.detach(), "scored": scored}
