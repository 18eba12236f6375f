"""What a part of a row of scores adds to its softmax, and how the parts of several ranks meet."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from .head_form import HeadForm


class RowParts(NamedTuple):
    """Of rows, each [n]. top: the largest x, 0 for a row of -inf. total: sum of
    e = exp((x - top) rate). moment: sum of e (x - top) rate. picked: the label's x, -inf where the
    label is on another shard. x is a score divided by the rate."""

    top: Tensor
    total: Tensor
    moment: Tensor
    picked: Tensor


class RowStatistics(NamedTuple):
    """(log-prob of the label, entropy, top, total) of rows, each [n]; as `RowParts`.

    log sum exp is not kept as one number: far from 0 the top would swallow the log of the total.
    """

    logp: Tensor
    entropy: Tensor
    top: Tensor
    total: Tensor


def finished(parts: RowParts, rate: float | Tensor) -> RowStatistics:
    """The statistics of rows whose parts are all there."""
    log_total = parts.total.log()
    gap = parts.picked - parts.top
    if not isinstance(rate, float) or rate != 1:
        gap = gap * rate
    entropy = log_total - parts.moment / parts.total
    return RowStatistics(gap - log_total, entropy, parts.top, parts.total)


def joined(
    parts: RowParts, rate: float | Tensor, form: HeadForm, group: dist.ProcessGroup
) -> RowParts:
    """`RowParts` of the whole vocabulary, the same on every rank: one exchange of five numbers per
    row.

    ValueError on a CPU where ranks hold shards of different sizes; NaN on CUDA, where looking would
    wait for the device.
    """
    ranks = dist.get_world_size(group)
    mine = torch.stack([*parts, torch.full_like(parts.top, form.whole)])
    every = mine.new_empty(ranks * len(mine), mine.shape[1])
    dist.all_gather_into_tensor(every, mine, group=group)
    top, total, moment, picked, whole = every.view(ranks, *mine.shape).unbind(1)
    # A shard of nothing but -inf has the top 0 and the total 0, and must not set the maximum.
    empty = total == 0
    highest = top.masked_fill(empty, -torch.inf).amax(0)
    highest = highest.masked_fill(highest == -torch.inf, 0.0)
    gap = ((top - highest) * rate).masked_fill(empty, 0.0)
    share = gap.exp()
    picked = picked.amax(0)
    other = (whole != form.whole).any(0)
    if not other.is_cuda:
        if other.any():
            sizes = [int(one) // ranks for one in whole[:, 0]]
            raise ValueError(
                f"weight: found {sizes} rows on the ranks of the group, expected as many on each;"
                " pad the vocabulary to a multiple of the ranks"
            )
    else:
        picked = picked.masked_fill(other, torch.nan)
    return RowParts(
        top=highest,
        total=(share * total).sum(0),
        moment=(share * (moment + total * gap)).sum(0),
        picked=picked,
    )


def rate_of(form: HeadForm, *, scaled: bool) -> float | Tensor:
    """What makes scores of x; scaled: x are scores already."""
    if scaled:
        return 1.0
    scale = form.scale if form.softcap is None else 1.0
    return scale / form.temperature
