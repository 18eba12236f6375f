"""Rows of logits in plain torch, one tile of rows at a time.

With s = logits / T, m = max s, e = exp(s - m), Z = sum e, log p = s - m - log Z:

    logp = s_y - m - log Z        H = log Z - (sum e (s - m)) / Z
    d logp / d s_v = [v = y] - p_v        d H / d s_v = -p_v (log p_v + H)
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .dispatch import tile_rows, wide
from .head_form import HeadForm, column
from .row_parts import RowParts

# exp(FLOOR) is 0 in float64 too, and 0 * FLOOR is 0 where 0 * -inf would be NaN.
FLOOR = -1e4


def row_scores(
    logits: Tensor, form: HeadForm, *, scratch: bool = False
) -> tuple[Tensor, Tensor | None]:
    """(scores, d_score) of a tile, in at least float32. scratch: they may take the logits' place.

    d_score is the derivative of the softcap, or None without one.
    """
    scores = logits.to(wide(logits.dtype), copy=not scratch)
    if form.bias is not None:
        scores += form.bias
    if form.scale != 1:
        scores *= form.scale
    d_score = None
    if form.softcap is not None:
        cap = torch.tanh(scores / form.softcap)
        scores = cap * form.softcap
        d_score = 1 - cap.square()
    return by_temperature(scores, form), d_score


def by_temperature(values: Tensor, form: HeadForm) -> Tensor:
    """Divided in place; a pass over the tile is left out where it would change nothing."""
    if not isinstance(form.temperature, Tensor) and form.temperature == 1:
        return values
    return values.div_(column(form.temperature))


def tiles(labels: Tensor, ignore_index: int, vocabulary: int) -> Sequence[slice] | Sequence[Tensor]:
    """The rows that are not ignored, some at a time: views where there is no other row."""
    size, live = tile_rows(vocabulary), labels != ignore_index
    if live.all():
        return [slice(start, start + size) for start in range(0, len(labels), size)]
    return live.nonzero()[:, 0].split(size)


class RowTile:
    """A tile of scores [n, V], which it takes over, relative to their largest or to `top` [n]."""

    def __init__(
        self, scores: Tensor, labels: Tensor, form: HeadForm, top: Tensor | None = None
    ) -> None:
        self.labels = labels.long()[:, None]
        self.elsewhere = None  # labels of other shards
        if form.whole != scores.shape[1]:
            self.labels = self.labels - form.first
            self.elsewhere = (self.labels < 0) | (self.labels >= scores.shape[1])
            self.labels = self.labels.masked_fill(self.elsewhere, 0)
        self.picked = scores.gather(-1, self.labels)
        if self.elsewhere is not None:
            self.picked = self.picked.masked_fill(self.elsewhere, -torch.inf)
        if top is None:
            self.top = scores.amax(-1, keepdim=True)
            # A row of nothing but -inf has no distribution: -inf - 0 keeps exp and the sum at 0.
            self.top = self.top.masked_fill(self.top == -torch.inf, 0.0)
        else:
            self.top = top[:, None]
        self.shifted = scores.sub_(self.top)
        self.weights = self.shifted.exp()

    def parts(self) -> RowParts:
        moment = torch.linalg.vecdot(self.weights, self.shifted)
        if moment.isnan().any():
            moment = torch.linalg.vecdot(self.weights, self.shifted.clamp_(min=FLOOR))
        return RowParts(
            top=self.top[:, 0],
            total=self.weights.sum(-1),
            moment=moment,
            picked=self.picked[:, 0],
        )

    def gradient(
        self,
        total: Tensor,
        entropy: Tensor,
        g_logp: Tensor,
        g_entropy: Tensor | None,
        out: Tensor | None = None,
    ) -> Tensor:
        """d / d scores of sum(g_logp * logp + g_entropy * entropy); uses the tile up. out: where it
        goes, if its dtype fits; it may be the memory of the scores."""
        g_logp, total = g_logp[:, None], total[:, None]
        if g_entropy is None:
            fits = out is not None and out.dtype == self.weights.dtype
            result = out if fits else self.weights
            torch.mul(self.weights, -g_logp / total, out=result)
        else:
            offset = g_logp - g_entropy[:, None] * (total.log() - entropy[:, None])
            factor = self.shifted.clamp_(min=FLOOR).mul_(g_entropy[:, None]).add_(offset)
            result = self.weights.mul_(factor).div_(-total)
        own = g_logp if self.elsewhere is None else g_logp.masked_fill(self.elsewhere, 0.0)
        return result.scatter_add_(-1, self.labels, own)


def nonzero_or_none(gradient: Tensor | None) -> Tensor | None:
    """None where a gradient is all zero, so that its terms are left out."""
    return gradient if gradient is not None and gradient.any() else None


def d_logits_of(d_scores: Tensor, d_score: Tensor | None, form: HeadForm) -> Tensor:
    """By the logits, from the gradient by the scores, which it takes over."""
    d_logits = by_temperature(d_scores, form)
    if form.scale != 1:
        d_logits *= form.scale
    return d_logits if d_score is None else d_logits.mul_(d_score)


def is_copy(rows: slice | Tensor) -> bool:
    """Whether what these rows are taken from stays as it is."""
    return not isinstance(rows, slice)


def parts_of_rows(
    logits: Tensor, labels: Tensor, form: HeadForm, ignore_index: int, *, scratch: bool = False
) -> RowParts:
    """What each row [n, V] of this shard adds to its softmax; zeros for ignored rows. scratch: the
    logits may be written over."""
    dtype = wide(logits.dtype)
    whole = RowParts(*(logits.new_zeros(len(labels), dtype=dtype) for _ in RowParts._fields))
    for rows in tiles(labels, ignore_index, logits.shape[1]):
        mine = form.at(rows)
        scores, _ = row_scores(logits[rows], mine, scratch=scratch or is_copy(rows))
        tile = RowTile(scores, labels[rows], mine)
        for all_rows, part in zip(whole, tile.parts(), strict=True):
            all_rows[rows] = part
    return whole


def gradient_of_rows(
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
) -> Tensor:
    """d logits [n, V], written to `out`, which may be the logits; 0 for ignored rows."""
    out[labels == ignore_index] = 0.0
    for rows in tiles(labels, ignore_index, logits.shape[1]):
        mine, place = form.at(rows), out[rows] if isinstance(rows, slice) else None
        scores, d_score = row_scores(logits[rows], mine, scratch=logits is out or is_copy(rows))
        tile = RowTile(scores, labels[rows], mine, top[rows])
        upstream = nonzero_or_none(None if g_entropy is None else g_entropy[rows])
        given = total[rows], entropy[rows], g_logp[rows], upstream
        found = d_logits_of(tile.gradient(*given, out=place), d_score, mine)
        if found is not place:
            out[rows] = found.to(out.dtype)
    return out
