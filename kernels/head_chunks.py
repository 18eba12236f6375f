"""The one loop over the rows of a head, and the gradients of the head that it adds up.

The whole [N, V] of logits is never held: rows go through the head a chunk at a time, and rows that
are not live are left out before the first product.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from .dispatch import live_rows, wide


class Chunk(NamedTuple):
    """Some live rows of the batch.

    rows: where they are in the batch. place: where they are among the live rows. states: [n, H].
    logits: [n, V], in memory that the next chunk uses again, so the reader may write over them.
    """

    rows: slice | Tensor
    place: slice
    states: Tensor
    logits: Tensor


def head_chunks(
    hidden: Tensor, weight: Tensor, live: Tensor, size: int, kept: Tensor | None = None
) -> Iterator[Chunk]:
    """Chunks of at most `size` live rows of hidden [N, H], with logits = states @ weight.T.

    kept: logits of all live rows, made before, which are then not made again. They are what a later
    call may ask for, so the reader must not write over them.
    """
    rows = live_rows(live)
    total = len(live) if rows is None else len(rows)
    size = max(min(size, total), 1)
    buffer = hidden.new_empty(size, weight.shape[0]) if kept is None else None
    for start in range(0, total, size):
        place = slice(start, min(start + size, total))
        chunk = place if rows is None else rows[place]
        states = hidden[chunk]
        if rows is None:
            # Every row takes part, dead ones too (a CUDA graph is being captured, or none is dead).
            states = states.where(live[chunk, None], 0.0)
        if kept is None:
            logits = torch.mm(states, weight.T, out=buffer[: place.stop - place.start])
        else:
            logits = kept[place]
        yield Chunk(chunk, place, states, logits)


class HeadGradients:
    """dh, dW and db as chunks come in; what is not wanted stays empty and costs nothing."""

    def __init__(
        self, hidden: Tensor, weight: Tensor, bias: Tensor | None, wanted: list[bool]
    ) -> None:
        self.weight, self.wanted = weight, wanted
        self.bias_dtype = weight.dtype if bias is None else bias.dtype
        dtype = wide(weight.dtype)
        self.d_hidden = hidden.new_zeros(hidden.shape if wanted[0] else (0, 0))
        self.d_weight = weight.new_zeros(weight.shape if wanted[1] else (0, 0), dtype=dtype)
        self.d_bias = weight.new_zeros(weight.shape[0] if wanted[2] else 0, dtype=dtype)

    def add(self, chunk: Chunk, d_logits: Tensor) -> None:
        if self.wanted[0]:
            self.d_hidden[chunk.rows] = d_logits @ self.weight
        if self.wanted[1]:
            add_product(self.d_weight, d_logits, chunk.states)
        if self.wanted[2]:
            self.d_bias += d_logits.sum(0, dtype=self.d_bias.dtype)

    def result(self, scale: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """(dh, dW, db), times `scale`."""
        parts = self.d_hidden, self.d_weight, self.d_bias
        if scale is not None:
            parts = tuple(part.mul_(scale) for part in parts)
        d_hidden, d_weight, d_bias = parts
        return d_hidden, d_weight.to(self.weight.dtype), d_bias.to(self.bias_dtype)


def add_product(total: Tensor, d_logits: Tensor, states: Tensor) -> None:
    """total [V, H] += d_logits^T states, with sums in float32 whatever the model's dtype."""
    if total.dtype == d_logits.dtype:
        total.addmm_(d_logits.T, states)
    elif d_logits.is_cuda:
        torch.addmm(total, d_logits.T, states, out_dtype=total.dtype, out=total)
    else:
        total.addmm_(d_logits.T.to(total.dtype), states.to(total.dtype))
