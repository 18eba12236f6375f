"""Rows of logits in plain torch, one tile of rows at a time.

With s = logits / T, m = max s, e = exp(s - m), Z = sum e, log p = s - m - log Z:

    logp = s_y - m - log Z        H = log Z - (sum e (s - m)) / Z
    d logp / d s_v = [v = y] - p_v        d H / d s_v = -p_v (log p_v + H)
"""

from __future__ import annotations

import torch
from torch import Tensor

from .dispatch import tile_rows, wide
from .head_form import HeadForm, column
from .row_parts import RowParts

# exp(FLOOR) is 0 in float64 too, and 0 * FLOOR is 0 where 0 * -inf would be NaN.
FLOOR = -1e4


def row_scores(logits: Tensor, form: HeadForm) -> tuple[Tensor, Tensor | None]:
    """(scores, d_score) of a tile. Scores are new memory, in at least float32.

    d_score is the derivative of the softcap, or None without one.
    """
    scores = logits.to(wide(logits.dtype), copy=True)
    if form.bias is not None:
        scores += form.bias
    if form.scale != 1:
        scores *= form.scale
    d_score = None
    if form.softcap is not None:
        cap = torch.tanh(scores / form.softcap)
        scores = cap * form.softcap
        d_score = 1 - cap.square()
    return scores.div_(column(form.temperature)), d_score


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
        self.shifted = scores.sub_(self.top).clamp_(min=FLOOR)
        self.weights = self.shifted.exp()

    def parts(self) -> RowParts:
        return RowParts(
            top=self.top[:, 0],
            total=self.weights.sum(-1),
            moment=torch.linalg.vecdot(self.weights, self.shifted),
            picked=self.picked[:, 0],
        )

    def gradient(
        self, total: Tensor, entropy: Tensor, g_logp: Tensor, g_entropy: Tensor | None
    ) -> Tensor:
        """d / d scores of sum(g_logp * logp + g_entropy * entropy); uses the tile up."""
        g_logp, total = g_logp[:, None], total[:, None]
        if g_entropy is None:
            result = self.weights.mul_(-g_logp / total)
        else:
            offset = g_logp - g_entropy[:, None] * (total.log() - entropy[:, None])
            factor = self.shifted.mul_(g_entropy[:, None]).add_(offset)
            result = self.weights.mul_(factor).div_(-total)
        own = g_logp if self.elsewhere is None else g_logp.masked_fill(self.elsewhere, 0.0)
        return result.scatter_add_(-1, self.labels, own)


def nonzero_or_none(gradient: Tensor | None) -> Tensor | None:
    """None where a gradient is all zero, so that its terms are left out."""
    return gradient if gradient is not None and gradient.any() else None


def d_logits_of(d_scores: Tensor, d_score: Tensor | None, form: HeadForm) -> Tensor:
    """By the logits, from the gradient by the scores, which it takes over."""
    d_logits = d_scores.div_(column(form.temperature))
    if form.scale != 1:
        d_logits *= form.scale
    return d_logits if d_score is None else d_logits.mul_(d_score)


def parts_of_rows(logits: Tensor, labels: Tensor, form: HeadForm, ignore_index: int) -> RowParts:
    """What each row [n, V] of this shard adds to its softmax; zeros for ignored rows."""
    dtype = wide(logits.dtype)
    whole = RowParts(*(logits.new_zeros(len(labels), dtype=dtype) for _ in RowParts._fields))
    for rows in (labels != ignore_index).nonzero()[:, 0].split(tile_rows(logits.shape[1])):
        mine = form.at(rows)
        tile = RowTile(row_scores(logits[rows], mine)[0], labels[rows], mine)
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
    for rows in (labels != ignore_index).nonzero()[:, 0].split(tile_rows(logits.shape[1])):
        mine = form.at(rows)
        scores, d_score = row_scores(logits[rows], mine)
        tile = RowTile(scores, labels[rows], mine, top[rows])
        upstream = nonzero_or_none(None if g_entropy is None else g_entropy[rows])
        d_scores = tile.gradient(total[rows], entropy[rows], g_logp[rows], upstream)
        out[rows] = d_logits_of(d_scores, d_score, mine).to(out.dtype)
    return out
