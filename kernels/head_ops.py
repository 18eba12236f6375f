"""The operators of `linear_logprob` (head.py): forward, backward, and what is kept between them."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from . import checks
from .dispatch import chunk_rows, wide
from .head_checks import check_temperatures
from .head_chunks import (
    Chunk,
    HeadGradients,
    LiveRows,
    gradient_buffer,
    head_chunks,
    head_tensors,
    left_over,
    live_rows,
    rows_saved,
    saved_rows,
)
from .head_form import HeadForm
from .row_parts import RowStatistics
from .rows import rows_backward, rows_forward, zero_or
from .shards import shard_named


@torch.library.custom_op("sectow::linear_logprob", mutates_args=())
def linear_logprob_op(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    labels: Tensor,
    temperatures: Tensor | None,
    given_rows: Tensor | None,
    main_grad: Tensor | None,
    temperature: float,
    softcap: float | None,
    scale: float,
    ignore_index: int,
    chunk: int,
    logits_dtype: torch.dtype | None,
    group: str | None,
    mode: str,
    with_entropy: bool,
    bound: int | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """(logp, entropy, top, total), each [N], what the backward pass is to keep, and `saved_rows`.

    main_grad is for the backward pass only.
    """
    shard = shard_named(group)
    form = shard.form(
        weight,
        bias=bias,
        softcap=softcap,
        scale=scale,
        temperature=temperature if temperatures is None else temperatures,
    )
    live = labels != ignore_index
    checks.check_labels(labels, live, form.whole, ignore_index)
    check_temperatures(form.temperature, live)
    head = head_tensors(hidden, weight, logits_dtype)
    chosen = live_rows(live, given_rows, bound)
    left = left_over(live, chosen)
    made: list[RowStatistics] = []
    kept, used = _kept(head.hidden, weight, mode, with_entropy, head.logits_dtype), 0
    size = chunk_rows(hidden, weight.shape[0], chunk)
    for part in head_chunks(head.hidden, head.weight, live, chosen, size, dtype=head.logits_dtype):
        wanted, mine = labels[part.rows], form.at(part.rows)
        found = rows_forward(
            part.logits,
            wanted,
            mine,
            ignore_index=ignore_index,
            group=shard.group,
            own=True,
            scratch=mode == "recompute",
        )
        made.append(found)
        used = part.place.stop
        if mode == "cached":
            kept[part.place] = part.logits
        elif mode == "frozen":
            _keep_unit_gradients(kept, part, wanted, found, mine, head.weight, ignore_index)
    if mode == "cached":
        kept[used:] = 0.0  # what an operator returns is always the same
    if mode == "frozen" and shard.group is not None:
        torch.distributed.all_reduce(kept, group=shard.group)
    return *_of_all_rows(made, chosen, left, hidden), kept, *saved_rows(labels, chosen)


def _of_all_rows(
    made: list[RowStatistics], chosen: LiveRows, left: Tensor | None, hidden: Tensor
) -> Iterator[Tensor]:
    """Statistics [N] of all rows from those of chunks; 0 where a row took no part, NaN where it was
    left out."""
    count, dtype = len(hidden), wide(hidden.dtype)
    if not made:
        none = [hidden.new_zeros(count, dtype=dtype) for _ in RowStatistics._fields]
        return iter(none if left is None else [one.masked_fill_(left, torch.nan) for one in none])
    parts = made[0] if len(made) == 1 else map(torch.cat, zip(*made, strict=True))
    if chosen.rows is None:
        return iter(parts)
    found = hidden.new_zeros(len(RowStatistics._fields), count, dtype=dtype)
    found[:, chosen.rows] = torch.stack(tuple(parts))
    if left is not None:
        found.masked_fill_(left, torch.nan)
    return (one.clone() for one in found)


def _keep_unit_gradients(
    kept: Tensor,
    part: Chunk,
    labels: Tensor,
    found: RowStatistics,
    form: HeadForm,
    weight: Tensor,
    ignore_index: int,
) -> None:
    """d logp / dh and, where there is room for it, d H / dh of a chunk's rows."""
    one, zero = torch.ones_like(found.logp), torch.zeros_like(found.logp)
    given = {"entropy": found.entropy, "top": found.top, "total": found.total, "form": form}
    last = len(kept) - 1
    for which, g_logp, g_entropy in ((0, one, None), (1, zero, one))[: len(kept)]:
        # The last use of the logits may write over them.
        out = part.logits if which == last else torch.empty_like(part.logits)
        if out.dtype != weight.dtype:
            out = gradient_buffer(part.logits, weight.dtype)
        d_logits = rows_backward(
            g_logp=g_logp,
            g_entropy=g_entropy,
            logits=part.logits,
            labels=labels,
            out=out,
            ignore_index=ignore_index,
            own=which == last,
            **given,
        )
        kept[which, part.rows] = (d_logits @ weight).to(kept.dtype)


def _kept(
    hidden: Tensor, weight: Tensor, mode: str, with_entropy: bool, logits_dtype: torch.dtype
) -> Tensor:
    if mode == "cached":
        return hidden.new_empty(hidden.shape[0], weight.shape[0], dtype=logits_dtype)
    if mode == "frozen":
        return hidden.new_zeros(1 + with_entropy, *hidden.shape, dtype=wide(hidden.dtype))
    return hidden.new_empty(0)


@linear_logprob_op.register_fake
def _(hidden, weight, bias, labels, *rest):
    *_, logits_dtype, _, mode, with_entropy, _ = rest
    rows = (hidden.new_empty(labels.shape, dtype=wide(hidden.dtype)) for _ in range(4))
    kept = _kept(hidden, weight, mode, with_entropy, logits_dtype or hidden.dtype)
    taken = torch.empty_like(labels, dtype=torch.int64)
    return *rows, kept, taken, torch.empty((), dtype=torch.int64, device="cpu")


@torch.library.custom_op("sectow::linear_logprob_backward", mutates_args=("main_grad",))
def linear_logprob_backward_op(
    g_logp: Tensor,
    g_entropy: Tensor | None,
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    labels: Tensor,
    entropy: Tensor,
    top: Tensor,
    total: Tensor,
    kept: Tensor,
    taken: Tensor,
    told: Tensor,
    temperatures: Tensor | None,
    main_grad: Tensor | None,
    temperature: float,
    softcap: float | None,
    scale: float,
    ignore_index: int,
    chunk: int,
    logits_dtype: torch.dtype | None,
    group: str | None,
    wanted: list[bool],
) -> tuple[Tensor, Tensor, Tensor]:
    """(dh, dW, db); what is not wanted is empty, and dW too where it is added to main_grad."""
    shard = shard_named(group)
    form = shard.form(
        weight,
        bias=bias,
        softcap=softcap,
        scale=scale,
        temperature=temperature if temperatures is None else temperatures,
    )
    head = head_tensors(hidden, weight, logits_dtype)
    chosen = rows_saved(taken, told)
    gradients = HeadGradients(
        head.hidden, head.weight, wanted, whole=chosen.rows is None, main_grad=main_grad
    )
    size = chunk_rows(hidden, weight.shape[0], chunk)
    logits_kept = kept if kept.numel() else None
    live = labels != ignore_index
    for part in head_chunks(
        head.hidden, head.weight, live, chosen, size, dtype=head.logits_dtype, kept=logits_kept
    ):
        rows, logits = part.rows, part.logits
        # What is kept may be asked for again (retain_graph), what was made here may not.
        out = gradient_buffer(logits, head.weight.dtype)
        if logits_kept is not None and out is logits:
            out = torch.empty_like(logits)
        d_logits = rows_backward(
            g_logp=g_logp[rows],
            g_entropy=None if g_entropy is None else g_entropy[rows],
            logits=logits,
            labels=labels[rows],
            entropy=entropy[rows],
            top=top[rows],
            total=total[rows],
            form=form.at(rows),
            ignore_index=ignore_index,
            out=out,
            own=logits_kept is None,
        )
        gradients.add(part, d_logits)
    d_hidden, d_weight, d_bias = gradients.result(shard.group)
    bias_dtype = weight.dtype if bias is None else bias.dtype
    return d_hidden.to(hidden.dtype), d_weight.to(weight.dtype), d_bias.to(bias_dtype)


@linear_logprob_backward_op.register_fake
def _(g_logp, g_entropy, hidden, weight, bias, *rest):
    main_grad, wanted = rest[8], rest[-1]
    own = wanted[1] and main_grad is None
    return (
        hidden.new_empty(hidden.shape if wanted[0] else (0, 0)),
        weight.new_empty(weight.shape if own else (0, 0)),
        (weight if bias is None else bias).new_empty(weight.shape[0] if wanted[2] else 0),
    )


OPTIONS = ("temperature", "softcap", "scale", "ignore_index", "chunk", "logits_dtype", "group")


def _setup(ctx, inputs, output) -> None:
    hidden, weight, bias, labels, temperatures, _, ctx.main_grad, *options = inputs
    *options, ctx.mode, with_entropy, _ = options
    ctx.options = dict(zip(OPTIONS, options, strict=True))
    ctx.constants = len(inputs) - 3
    ctx.mark_non_differentiable(*output[2 if with_entropy else 1 :])
    ctx.set_materialize_grads(False)  # or zeros as large as what is kept would be made for it
    if ctx.mode == "frozen":
        ctx.save_for_backward(output[4])
        ctx.dtype = hidden.dtype
    else:
        ctx.save_for_backward(hidden, weight, bias, labels, temperatures, *output[1:])


def _gradients(ctx, g_logp, g_entropy, *_):
    constants = (None,) * ctx.constants
    if g_logp is None and g_entropy is None:
        return None, None, None, *constants
    if ctx.mode == "frozen":
        (kept,) = ctx.saved_tensors
        parts = zip((g_logp, g_entropy), kept, strict=False)
        d_hidden = sum(g[:, None] * unit for g, unit in parts if g is not None)
        return d_hidden.to(ctx.dtype), None, None, *constants
    hidden, weight, bias, labels, temperatures, entropy, *saved = ctx.saved_tensors
    top, total, kept, taken, told = saved
    needed = list(ctx.needs_input_grad[:3])
    d_hidden, d_weight, d_bias = linear_logprob_backward_op(
        g_logp=zero_or(g_logp, entropy),
        g_entropy=g_entropy,
        hidden=hidden,
        weight=weight,
        bias=bias,
        labels=labels,
        entropy=entropy,
        top=top,
        total=total,
        kept=kept,
        taken=taken,
        told=told,
        temperatures=temperatures,
        main_grad=ctx.main_grad,
        wanted=needed,
        **ctx.options,
    )
    needed[1] = needed[1] and ctx.main_grad is None
    found = (d_hidden, d_weight, d_bias)
    return *(d if need else None for d, need in zip(found, needed, strict=True)), *constants


linear_logprob_op.register_autograd(_gradients, setup_context=_setup)
