"""Rows of a head's logits by either path: statistics, and the gradient by the logits."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from .dispatch import use_triton
from .head_form import HeadForm
from .row_parts import RowParts, RowStatistics, finished, joined, rate_of
from .row_plain import gradient_of_rows, parts_of_rows


def rows_forward(
    logits: Tensor,
    labels: Tensor,
    form: HeadForm,
    *,
    ignore_index: int,
    group: dist.ProcessGroup | None = None,
    own: bool = False,
    scratch: bool = False,
) -> RowStatistics:
    """Of rows of logits [n, V]; zeros for ignored rows.

    group: logits are this rank's shard, and the statistics are of the whole vocabulary. own: the
    logits are in a buffer of ours (`head_chunks.logits_buffer`), whose padding may be written.
    scratch: nobody asks for these logits again.
    """
    by_triton = use_triton(logits)
    if by_triton:
        from .logprob_triton import selective_forward

        found = selective_forward(
            logits, labels, form, ignore_index=ignore_index, shard=group is not None, own=own
        )
        if group is None:
            return RowStatistics(*found)
        parts = RowParts(*found)
    else:
        parts = parts_of_rows(logits, labels, form, ignore_index, scratch=scratch)
    rate = rate_of(form, scaled=not by_triton)
    if group is not None:
        parts = joined(parts, rate, form, group)
    ignored = labels == ignore_index
    # Set and not multiplied away: the logarithm of an ignored row's total is -inf.
    statistics = finished(parts._replace(total=parts.total.masked_fill(ignored, 1.0)), rate)
    return RowStatistics(*(one.masked_fill(ignored, 0.0) for one in statistics))


def rows_backward(
    *,
    g_logp: Tensor,
    g_entropy: Tensor | None,
    logits: Tensor,
    labels: Tensor,
    entropy: Tensor,
    top: Tensor,
    total: Tensor,
    form: HeadForm,
    ignore_index: int,
    out: Tensor,
    own: bool = False,
) -> Tensor:
    """d logits, written to `out`, which may be the logits. g_entropy None: no gradient of it."""
    backward = gradient_of_rows
    more = {}
    if use_triton(logits):
        from .logprob_triton import selective_backward as backward

        more = {"own": own}
    return backward(
        g_logp=g_logp,
        g_entropy=g_entropy,
        logits=logits,
        labels=labels,
        entropy=entropy,
        top=top,
        total=total,
        form=form,
        ignore_index=ignore_index,
        out=out,
        **more,
    )


def zero_or(gradient: Tensor | None, like: Tensor) -> Tensor:
    return torch.zeros_like(like) if gradient is None else gradient
