"""Triton kernel of `group_advantage`: each program takes a tile of groups x members."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .logprob_triton import on_device

TILE = 1024


@triton.jit
def members(values, order, start, end, at, ORDERED: tl.constexpr):
    """(position in the batch, value, whether there is one) of a tile of members."""
    place = start[:, None] + at[None, :]
    here = place < end[:, None]
    if ORDERED:
        place = tl.load(order + place, mask=here, other=0)
    return place, tl.load(values + place, mask=here, other=0.0), here


@triton.jit
def group_advantage_kernel(
    values,
    order,
    ends,
    batch_std,
    out,
    signal_out,
    groups,
    group_size,
    eps,
    DDOF: tl.constexpr,
    LOO: tl.constexpr,
    SCALE: tl.constexpr,
    ORDERED: tl.constexpr,
    G: tl.constexpr,
    B: tl.constexpr,
):
    group = tl.program_id(0).to(tl.int64) * G + tl.arange(0, G)
    if ORDERED:
        start = tl.load(ends + group - 1, mask=(group > 0) & (group < groups), other=0)
        end = tl.load(ends + group, mask=group < groups, other=0)
    else:
        start = group * group_size
        end = tl.where(group < groups, start + group_size, start)
    size = end - start
    longest = tl.max(size, 0)
    inf = float("inf")
    dtype: tl.constexpr = values.dtype.element_ty  # float32, or float64 of float64 rewards
    total = tl.zeros((G,), dtype)
    low = tl.full((G,), inf, dtype)
    high = tl.full((G,), -inf, dtype)
    for base in range(0, longest, B):
        at = base + tl.arange(0, B)
        place, x, here = members(values, order, start, end, at, ORDERED)
        total += tl.sum(x, 1)
        low = tl.minimum(low, tl.min(tl.where(here, x, inf), 1))
        high = tl.maximum(high, tl.max(tl.where(here, x, -inf), 1))
    count = tl.maximum(size, 1).to(dtype)
    mean = total / count
    # min and max drop NaN, the sum keeps it. A group with NaN or infinity is NaN as a whole.
    broken = mean - mean != 0.0
    signal = (low != high) | broken
    std = tl.full((G,), 1.0, dtype)
    if SCALE == 1:
        squares = tl.zeros((G,), dtype)
        for base in range(0, longest, B):
            at = base + tl.arange(0, B)
            place, x, here = members(values, order, start, end, at, ORDERED)
            centred = tl.where(here, x - mean[:, None], 0.0)
            squares += tl.sum(centred * centred, 1)
        std = tl.sqrt(squares / tl.maximum(count - DDOF, 1.0)) + eps
    if SCALE == 2:
        std = tl.full((G,), 0.0, dtype) + tl.load(batch_std) + eps
    factor = tl.where(broken, float("nan"), 1.0 / std)
    if LOO:
        factor = factor * count / tl.maximum(count - 1.0, 1.0)
    for base in range(0, longest, B):
        at = base + tl.arange(0, B)
        place, x, here = members(values, order, start, end, at, ORDERED)
        a = tl.where(signal[:, None], (x - mean[:, None]) * factor[:, None], 0.0)
        tl.store(out + place, a, mask=here)
        tl.store(signal_out + place, signal[:, None] & here, mask=here)


def group_advantage_triton(
    values: Tensor,
    group_ids: Tensor | None,
    *,
    group_size: int,
    baseline: str,
    scale: str,
    ddof: int,
    eps: float,
    batch_std: Tensor,
) -> tuple[Tensor, Tensor]:
    """values [N] float32 or float64, N >= 1; `batch_std` is read where scale is "batch"."""
    count = len(values)
    values = values.contiguous()
    out, signal = torch.empty_like(values), torch.empty_like(values, dtype=torch.bool)
    if group_ids is None:
        groups, width = count // group_size, min(TILE, triton.next_power_of_2(group_size))
        order = ends = values
    else:
        # How many groups there are is not looked up, which would wait for the device: there is
        # room for N of them, and those that do not exist are empty.
        ordered, order = group_ids.sort(stable=True)
        last = torch.ones_like(ordered, dtype=torch.bool)
        last[:-1] = ordered[1:] != ordered[:-1]
        number = last.cumsum(0) - last.long()
        ends = torch.full_like(order, count)
        ends.scatter_reduce_(
            0, number, torch.arange(1, count + 1, device=order.device), "amax", include_self=False
        )
        groups, width = count, 16
    block = max(16, width)
    tile = max(1, TILE // block)
    with on_device(values):
        group_advantage_kernel[(triton.cdiv(groups, tile),)](
            values=values,
            order=order,
            ends=ends,
            batch_std=batch_std.to(values.dtype),
            out=out,
            signal_out=signal,
            groups=groups,
            group_size=group_size,
            eps=eps,
            DDOF=ddof,
            LOO=baseline == "loo",
            SCALE=("none", "std", "batch").index(scale),
            ORDERED=group_ids is not None,
            G=tile,
            B=block,
            num_warps=4,
        )
    return out, signal
