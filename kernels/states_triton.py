"""Rows of hidden states, with those that are not live set to 0, in one launch."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from .logprob_triton import on_device

BLOCK = 2048


@triton.jit
def clean_states_kernel(
    hidden, live, rows, out, start, width, stride, HAS_ROWS: tl.constexpr, B: tl.constexpr
):
    place = tl.program_id(0).to(tl.int64)
    row = start + place
    if HAS_ROWS:
        row = tl.load(rows + place)
    on = tl.load(live + row) != 0
    for column in range(0, width, B):
        at = column + tl.arange(0, B)
        # Not multiplied by 0: what such a row holds may be NaN.
        states = tl.load(hidden + row * stride + at, mask=on & (at < width), other=0.0)
        tl.store(out + place * width + at, states, mask=at < width)


def clean_states(hidden: Tensor, live: Tensor, rows: slice | Tensor) -> Tensor:
    """[n, H] of hidden [N, H] and live [N]; rows are positions [n], or from where to where."""
    by_place = isinstance(rows, slice)
    count = rows.stop - rows.start if by_place else len(rows)
    hidden = hidden if hidden.stride(1) == 1 else hidden.contiguous()
    out = hidden.new_empty(count, hidden.shape[1])
    if out.numel():
        with on_device(hidden):
            clean_states_kernel[(count,)](
                hidden=hidden,
                live=live,
                rows=live if by_place else rows,
                out=out,
                start=rows.start if by_place else 0,
                width=hidden.shape[1],
                stride=hidden.stride(0),
                HAS_ROWS=not by_place,
                B=min(BLOCK, triton.next_power_of_2(hidden.shape[1])),
                num_warps=4,
            )
    return out
