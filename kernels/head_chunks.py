"""The one loop over the rows of a head, and the gradients of the head that it adds up.

The whole [N, V] of logits is never held: rows go through the head a chunk at a time, and rows that
are not live are left out before the first product.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from .dispatch import use_triton, wide

# dW is summed in float32 from bfloat16 factors by this overload of torch's addmm; without it there
# is no such sum on a card, so an older torch is refused here and not in the middle of a step.
if not hasattr(torch.ops.aten.addmm, "dtype_out"):
    raise ImportError(
        f"torch {torch.__version__}: found no addmm(..., out_dtype=), expected torch >= 2.11"
    )

TILE = 128  # rows of a chunk are a multiple of what one block of a product takes
LINE = 16  # elements to which a row of the buffer is padded, for loads of 16 bytes


class LiveRows(NamedTuple):
    """Which rows take part. rows: their positions, None for all. clean: some of them may be dead,
    so what they hold must be replaced."""

    rows: Tensor | None
    clean: bool


def saved_rows(labels: Tensor, chosen: LiveRows) -> tuple[Tensor, Tensor]:
    """The rows [N] (the rest is 0), and on the host 2 * (their number, -1 for all) + clean, so that
    the backward pass need not ask the device again."""
    taken = torch.zeros_like(labels, dtype=torch.int64)
    if chosen.rows is None:
        return taken, torch.tensor(-2 + chosen.clean)
    taken[: len(chosen.rows)] = chosen.rows
    return taken, torch.tensor(2 * len(chosen.rows) + chosen.clean)


def rows_saved(taken: Tensor, told: Tensor) -> LiveRows:
    number, clean = divmod(int(told), 2)
    return LiveRows(None if number < 0 else taken[:number], bool(clean))


def live_rows(live: Tensor, given: Tensor | None = None, bound: int | None = None) -> LiveRows:
    """The rows of live [N] that are True, or those that the caller names.

    given: positions [n] of (at least) all live rows. bound: at least how many are live; then that
    many rows take part, live ones first. With neither this is the one place where a CUDA stream is
    waited for, since the products need their size. While a CUDA graph is captured that is not
    allowed, and every row takes part.
    """
    if given is not None:
        return LiveRows(given, True)
    if bound is not None and bound < len(live):
        return LiveRows(live.logical_not().sort(stable=True).indices[:bound], True)
    if bound is not None or capturing(live):
        return LiveRows(None, True)
    rows = live.nonzero()[:, 0]
    return LiveRows(None if len(rows) == len(live) else rows, False)


def chosen_rows(rows: Tensor, counts: Tensor, given: Tensor | None, bound: int | None) -> LiveRows:
    """`live_rows` where positions are at hand, the live ones first, and `counts` begins with how
    many are live."""
    if given is not None:
        return LiveRows(given, True)
    if bound is None and not capturing(rows):
        bound, clean = int(counts[0]), False
    else:
        clean = True
    if bound is None or bound >= len(rows):
        return LiveRows(None, clean)
    return LiveRows(rows[:bound], clean)


def capturing(tensor: Tensor) -> bool:
    return tensor.is_cuda and torch.cuda.is_current_stream_capturing()


def left_over(live: Tensor, chosen: LiveRows) -> Tensor | None:
    """[N] bool: live rows that the caller's `live_rows` does not cover; None where all are.

    ValueError on a CPU if there are any, or a row twice. On CUDA looking would wait, so their
    results must be NaN.
    """
    if not chosen.clean or chosen.rows is None:
        return None
    left = live.index_fill(0, chosen.rows, False)
    if not live.is_cuda:
        if left.any():
            row = int(left.nonzero()[0])
            raise ValueError(
                f"live_rows: found {len(chosen.rows)} rows without row {row}, which is live,"
                f" expected all {int(live.sum())} live rows"
            )
        if len(chosen.rows.unique()) != len(chosen.rows):
            raise ValueError("live_rows: found a row twice, expected each once")
    return left


class Chunk(NamedTuple):
    """Some live rows of the batch.

    rows: where they are in the batch. place: where they are among the live rows. states: [n, H].
    logits: [n, V], in memory that the next chunk uses again, so the reader may write over them.
    """

    rows: slice | Tensor
    place: slice
    states: Tensor
    logits: Tensor


def balanced(total: int, size: int) -> int:
    """Rows of each chunk: as few chunks of at most `size` rows, and none of them a mere rest."""
    if total <= size:
        return max(total, 1)
    chunks = -(-total // size)
    even = -(-total // chunks)
    return min(size, -(-even // TILE) * TILE)


def logits_buffer(hidden: Tensor, rows: int, vocabulary: int, dtype: torch.dtype) -> Tensor:
    """[rows, V]; for Triton the rows are padded, so that each begins where a wide load may."""
    if not use_triton(hidden):
        return hidden.new_empty(rows, vocabulary, dtype=dtype)
    padded = -(-vocabulary // LINE) * LINE
    return hidden.new_empty(rows, padded, dtype=dtype)[:, :vocabulary]


def head_chunks(
    hidden: Tensor,
    weight: Tensor,
    live: Tensor,
    chosen: LiveRows,
    size: int,
    *,
    dtype: torch.dtype,
    kept: Tensor | None = None,
) -> Iterator[Chunk]:
    """Chunks of at most `size` rows of hidden [N, H], with logits = states @ weight.T in `dtype`.

    kept: logits of all live rows, made before, which are then not made again. They are what a later
    call may ask for, so the reader must not write over them.
    """
    rows = chosen.rows
    total = len(live) if rows is None else len(rows)
    size = balanced(total, size)
    buffer = logits_buffer(hidden, size, weight.shape[0], dtype) if kept is None else None
    for start in range(0, total, size):
        place = slice(start, min(start + size, total))
        chunk = place if rows is None else rows[place]
        states = states_of(hidden, live, chunk, clean=chosen.clean)
        if kept is None:
            logits = product(states, weight.T, buffer[: place.stop - place.start])
        else:
            logits = kept[place]
        yield Chunk(chunk, place, states, logits)


def states_of(hidden: Tensor, live: Tensor, rows: slice | Tensor, *, clean: bool) -> Tensor:
    """Some rows of hidden; clean: those that are not live are 0."""
    if not clean:
        return hidden[rows]
    if use_triton(hidden):
        from .states_triton import clean_states

        return clean_states(hidden, live, rows)
    return hidden[rows].where(live[rows, None], 0.0)


def product(left: Tensor, right: Tensor, out: Tensor) -> Tensor:
    """left @ right in the dtype of `out`, which is where the sums are rounded to."""
    if out.dtype == left.dtype:
        return torch.mm(left, right, out=out)
    if left.is_cuda:
        return torch.mm(left, right, out_dtype=out.dtype, out=out)
    return torch.mm(left.to(out.dtype), right.to(out.dtype), out=out)


class HeadGradients:
    """dh, dW and db as chunks come in; what is not wanted stays empty and costs nothing.

    dW and db are sums in float32 whatever the model's dtype. main_grad [V, H]: a sum that dW is
    added to; then there is no dW.
    """

    def __init__(
        self,
        hidden: Tensor,
        weight: Tensor,
        wanted: list[bool],
        *,
        whole: bool,
        main_grad: Tensor | None = None,
    ) -> None:
        self.weight, self.wanted = weight, wanted
        dtype = wide(weight.dtype)
        make = hidden.new_empty if whole else hidden.new_zeros
        self.d_hidden = make(hidden.shape if wanted[0] else (0, 0))
        self.main_grad = main_grad if wanted[1] else None
        own = wanted[1] and main_grad is None
        self.d_weight = weight.new_empty(weight.shape if own else (0, 0), dtype=dtype)
        self.d_bias = weight.new_empty(weight.shape[0] if wanted[2] else 0, dtype=dtype)
        self.begun = False

    def add(self, chunk: Chunk, d_logits: Tensor) -> None:
        if self.wanted[0]:
            if isinstance(chunk.rows, slice):
                torch.mm(d_logits, self.weight, out=self.d_hidden[chunk.rows])
            else:
                self.d_hidden.index_copy_(0, chunk.rows, d_logits @ self.weight)
        if self.wanted[1]:
            if self.main_grad is not None:
                add_product(self.main_grad, d_logits, chunk.states)
            elif self.begun:
                add_product(self.d_weight, d_logits, chunk.states)
            else:
                product(d_logits.T, chunk.states, self.d_weight)
        if self.wanted[2]:
            if self.begun:
                self.d_bias += d_logits.sum(0, dtype=self.d_bias.dtype)
            else:
                torch.sum(d_logits, 0, dtype=self.d_bias.dtype, out=self.d_bias)
        self.begun = True

    def result(self, group: dist.ProcessGroup | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """(dh, dW, db); dh is summed over the ranks of the group."""
        if not self.begun:
            self.d_hidden.zero_(), self.d_weight.zero_(), self.d_bias.zero_()
        if group is not None and self.wanted[0]:
            dist.all_reduce(self.d_hidden, group=group)
        return self.d_hidden, self.d_weight, self.d_bias


def add_product(total: Tensor, d_logits: Tensor, states: Tensor) -> None:
    """total [V, H] += d_logits^T states, with sums in float32 whatever the model's dtype."""
    if total.dtype == d_logits.dtype:
        total.addmm_(d_logits.T, states)
    elif d_logits.is_cuda:
        torch.addmm(total, d_logits.T, states, out_dtype=total.dtype, out=total)
    else:
        total.addmm_(d_logits.T.to(total.dtype), states.to(total.dtype))


@dataclass(frozen=True, kw_only=True)
class HeadTensors:
    """hidden and weight as the products take them, and the dtypes of their gradients."""

    hidden: Tensor
    weight: Tensor
    logits_dtype: torch.dtype


def head_tensors(hidden: Tensor, weight: Tensor, logits_dtype: torch.dtype | None) -> HeadTensors:
    """A card's products take bfloat16 factors to float32 logits. A CPU's do not, so there the
    factors are float32 too, and so are all that is made of them."""
    dtype = logits_dtype or hidden.dtype
    if dtype != hidden.dtype and not hidden.is_cuda:
        hidden, weight = hidden.to(dtype), weight.to(dtype)
    return HeadTensors(hidden=hidden, weight=weight, logits_dtype=dtype)


def gradient_buffer(logits: Tensor, dtype: torch.dtype) -> Tensor:
    """Where d logits go: over the logits, or beside them where the products want another dtype."""
    if logits.dtype == dtype:
        return logits
    return logits_buffer(logits, *logits.shape, dtype)
