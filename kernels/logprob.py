"""Log-probabilities of labels, and entropies, from logits: forward and backward in one pass each.

With s = logits / T, m = max s, e = exp(s - m), Z = sum e, log p = s - m - log Z:

    logp = s_y - m - log Z        H = log Z - (sum e (s - m)) / Z
    d logp / d s_v = [v = y] - p_v        d H / d s_v = -p_v (log p_v + H)
"""

from __future__ import annotations

import torch
from torch import Tensor

from . import checks
from .dispatch import tile_rows, use_triton, wide

# exp(FLOOR) is 0 in float64 too, and 0 * FLOOR is 0 where 0 * -inf would be NaN.
FLOOR = -1e4


def selective_logprob_oracle(
    logits: Tensor, labels: Tensor, temperature: float = 1.0, ignore_index: int = -100
) -> tuple[Tensor, Tensor]:
    """What `selective_logprob` means, in terms of autograd, with everything kept."""
    live = labels != ignore_index
    # The row is replaced, not multiplied away: 0 * NaN is NaN, in the backward pass too.
    scores = torch.where(live[:, None], logits.to(wide(logits.dtype)), 0.0) / temperature
    full = scores.log_softmax(-1)
    picked = full.gather(-1, labels.where(live, 0).long()[:, None])[:, 0]
    entropy = -(full.exp() * full.masked_fill(scores == -torch.inf, 0.0)).sum(-1)
    return picked.where(live, 0.0), entropy.where(live, 0.0)


# --- the plain path: one tile of rows at a time -------------------------------------------------


def row_scores(
    logits: Tensor, bias: Tensor | None, softcap: float | None, temperature: float
) -> tuple[Tensor, Tensor | None]:
    """(scores, d_score) of a tile. Scores are new memory, in at least float32.

    d_score is the derivative of the softcap, or None without one.
    """
    scores = logits.to(wide(logits.dtype), copy=True)
    if bias is not None:
        scores += bias
    d_score = None
    if softcap is not None:
        cap = torch.tanh(scores / softcap)
        scores = cap * softcap
        d_score = 1 - cap.square()
    return scores.div_(temperature), d_score


class RowStats:
    """Softmax statistics of a tile of scores [n, V], which it takes over; labels are in range."""

    def __init__(self, scores: Tensor, labels: Tensor) -> None:
        top = scores.amax(-1, keepdim=True)
        self.labels = labels.long()[:, None]
        picked = scores.gather(-1, self.labels)
        # A row of nothing but -inf has no distribution: -inf - 0 keeps exp at 0 and the sum at 0.
        top = top.masked_fill(top == -torch.inf, 0.0)
        self.shifted = scores.sub_(top).clamp_(min=FLOOR)
        self.weights = self.shifted.exp()
        self.total = self.weights.sum(-1, keepdim=True)
        self.log_total = self.total.log()
        self.logp = (picked - top - self.log_total)[:, 0]
        mean = torch.linalg.vecdot(self.weights, self.shifted) / self.total[:, 0]
        self.entropy = self.log_total[:, 0] - mean

    def gradient(self, g_logp: Tensor, g_entropy: Tensor | None) -> Tensor:
        """d / d scores of sum(g_logp * logp + g_entropy * entropy); uses the tile up."""
        g_logp = g_logp[:, None]
        if g_entropy is None:
            result = self.weights.mul_(-g_logp / self.total)
        else:
            offset = g_logp - g_entropy[:, None] * (self.log_total - self.entropy[:, None])
            factor = self.shifted.mul_(g_entropy[:, None]).add_(offset)
            result = self.weights.mul_(factor).div_(-self.total)
        return result.scatter_add_(-1, self.labels, g_logp)


def nonzero_or_none(gradient: Tensor) -> Tensor | None:
    """None where a gradient is all zero, so that the plain path leaves its terms out."""
    return gradient if gradient.any() else None


def head_rows_forward(
    logits: Tensor,
    labels: Tensor,
    *,
    bias: Tensor | None,
    softcap: float | None,
    temperature: float,
    ignore_index: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """(logp, entropy, lse) of rows of logits [n, V], by either path; lse is Triton's only."""
    if use_triton(logits):
        from .logprob_triton import selective_forward

        return selective_forward(
            logits,
            labels,
            temperature=temperature,
            ignore_index=ignore_index,
            bias=bias,
            softcap=softcap,
        )
    logp, entropy, lse = (logits.new_zeros(len(labels), dtype=wide(logits.dtype)) for _ in range(3))
    for rows in (labels != ignore_index).nonzero()[:, 0].split(tile_rows(logits.shape[1])):
        stats = RowStats(row_scores(logits[rows], bias, softcap, temperature)[0], labels[rows])
        logp[rows], entropy[rows] = stats.logp, stats.entropy
    return logp, entropy, lse


def head_rows_backward(
    *,
    g_logp: Tensor,
    g_entropy: Tensor,
    logits: Tensor,
    labels: Tensor,
    entropy: Tensor,
    lse: Tensor,
    bias: Tensor | None,
    softcap: float | None,
    temperature: float,
    ignore_index: int,
    out: Tensor,
) -> Tensor:
    """d logits, written to `out`, which may be the logits; the plain path makes its own lse."""
    if use_triton(logits):
        from .logprob_triton import selective_backward

        return selective_backward(
            g_logp=g_logp,
            g_entropy=g_entropy,
            logits=logits,
            labels=labels,
            entropy=entropy,
            lse=lse,
            temperature=temperature,
            ignore_index=ignore_index,
            bias=bias,
            softcap=softcap,
            out=out,
        )
    out[labels == ignore_index] = 0.0
    for rows in (labels != ignore_index).nonzero()[:, 0].split(tile_rows(logits.shape[1])):
        scores, d_score = row_scores(logits[rows], bias, softcap, temperature)
        stats = RowStats(scores, labels[rows])
        d_logits = stats.gradient(g_logp[rows], nonzero_or_none(g_entropy[rows]))
        d_logits.div_(temperature)
        out[rows] = (d_logits if d_score is None else d_logits.mul_(d_score)).to(out.dtype)
    return out


# --- the operators ------------------------------------------------------------------------------


@torch.library.custom_op("sectow::selective_logprob", mutates_args=())
def selective_logprob_op(
    logits: Tensor, labels: Tensor, temperature: float, ignore_index: int
) -> tuple[Tensor, Tensor, Tensor]:
    checks.check_labels(labels, labels != ignore_index, logits.shape[1], ignore_index)
    return head_rows_forward(
        logits,
        labels,
        bias=None,
        softcap=None,
        temperature=temperature,
        ignore_index=ignore_index,
    )


@selective_logprob_op.register_fake
def _(logits, labels, temperature, ignore_index):
    return tuple(logits.new_empty(labels.shape, dtype=wide(logits.dtype)) for _ in range(3))


@torch.library.custom_op("sectow::selective_logprob_backward", mutates_args=())
def selective_logprob_backward_op(
    g_logp: Tensor,
    g_entropy: Tensor,
    logits: Tensor,
    labels: Tensor,
    entropy: Tensor,
    lse: Tensor,
    temperature: float,
    ignore_index: int,
) -> Tensor:
    return head_rows_backward(
        g_logp=g_logp,
        g_entropy=g_entropy,
        logits=logits,
        labels=labels,
        entropy=entropy,
        lse=lse,
        bias=None,
        softcap=None,
        temperature=temperature,
        ignore_index=ignore_index,
        out=torch.empty_like(logits, memory_format=torch.contiguous_format),
    )


@selective_logprob_backward_op.register_fake
def _(g_logp, g_entropy, logits, labels, entropy, lse, temperature, ignore_index):
    return torch.empty_like(logits, memory_format=torch.contiguous_format)


def _setup(ctx, inputs, output) -> None:
    logits, labels, ctx.temperature, ctx.ignore_index = inputs
    ctx.mark_non_differentiable(output[2])
    ctx.save_for_backward(logits, labels, output[1], output[2])


def _gradients(ctx, g_logp, g_entropy, _):
    logits, labels, entropy, lse = ctx.saved_tensors
    gradient = selective_logprob_backward_op(
        g_logp=g_logp,
        g_entropy=g_entropy,
        logits=logits,
        labels=labels,
        entropy=entropy,
        lse=lse,
        temperature=ctx.temperature,
        ignore_index=ctx.ignore_index,
    )
    return gradient, None, None, None


selective_logprob_op.register_autograd(_gradients, setup_context=_setup)


def selective_logprob(
    logits: Tensor, labels: Tensor, *, temperature: float = 1.0, ignore_index: int = -100
) -> tuple[Tensor, Tensor]:
    """(logp [N], entropy [N]) of labels [N] under softmax(logits [N, V] / temperature), float32.

    A row whose label is `ignore_index` gives 0 and 0, whatever it holds, and no gradient. -inf
    logits are allowed; a NaN in a live row gives NaN. A live label out of range is a ValueError on
    a CPU and NaN (value and gradient) on CUDA, where looking would wait for the device.
    """
    checks.check_matrix("logits", logits, (None, None))
    if logits.shape[1] == 0:
        raise ValueError("logits: found an empty vocabulary, expected V >= 1")
    checks.check_rows("labels", labels, logits.shape[0], logits.device, kind="int")
    checks.check_positive("temperature", temperature)
    logp, entropy, _ = selective_logprob_op(logits, labels, float(temperature), ignore_index)
    return logp, entropy
