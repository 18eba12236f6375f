"""Log-probabilities of labels, and entropies, from logits: forward and backward in one pass each.

row_plain.py has the formulas.
"""

from __future__ import annotations

import torch
from torch import Tensor

from . import checks
from .dispatch import wide
from .head_form import HeadForm, column
from .rows import rows_backward, rows_forward, zero_or


def selective_logprob_oracle(
    logits: Tensor, labels: Tensor, temperature: float | Tensor = 1.0, ignore_index: int = -100
) -> tuple[Tensor, Tensor]:
    """What `selective_logprob` means, in terms of autograd, with everything kept."""
    live = labels != ignore_index
    # The row is replaced, not multiplied away: 0 * NaN is NaN, in the backward pass too.
    scores = torch.where(live[:, None], logits.to(wide(logits.dtype)), 0.0) / column(temperature)
    full = scores.log_softmax(-1)
    picked = full.gather(-1, labels.where(live, 0).long()[:, None])[:, 0]
    entropy = -(full.exp() * full.masked_fill(scores == -torch.inf, 0.0)).sum(-1)
    return picked.where(live, 0.0), entropy.where(live, 0.0)


@torch.library.custom_op("sectow::selective_logprob", mutates_args=())
def selective_logprob_op(
    logits: Tensor, labels: Tensor, temperature: float, ignore_index: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(logp, entropy, top, total), each [N]: `RowStatistics`."""
    checks.check_labels(labels, labels != ignore_index, logits.shape[1], ignore_index)
    form = HeadForm(whole=logits.shape[1], temperature=temperature)
    return tuple(rows_forward(logits, labels, form, ignore_index=ignore_index))


@selective_logprob_op.register_fake
def _(logits, labels, temperature, ignore_index):
    return tuple(logits.new_empty(labels.shape, dtype=wide(logits.dtype)) for _ in range(4))


@torch.library.custom_op("sectow::selective_logprob_backward", mutates_args=())
def selective_logprob_backward_op(
    g_logp: Tensor,
    g_entropy: Tensor | None,
    logits: Tensor,
    labels: Tensor,
    entropy: Tensor,
    top: Tensor,
    total: Tensor,
    temperature: float,
    ignore_index: int,
) -> Tensor:
    return rows_backward(
        g_logp=g_logp,
        g_entropy=g_entropy,
        logits=logits,
        labels=labels,
        entropy=entropy,
        top=top,
        total=total,
        form=HeadForm(whole=logits.shape[1], temperature=temperature),
        ignore_index=ignore_index,
        out=torch.empty_like(logits, memory_format=torch.contiguous_format),
    )


@selective_logprob_backward_op.register_fake
def _(g_logp, g_entropy, logits, *_):
    return torch.empty_like(logits, memory_format=torch.contiguous_format)


def _setup(ctx, inputs, output) -> None:
    logits, labels, ctx.temperature, ctx.ignore_index = inputs
    ctx.mark_non_differentiable(*output[2:])
    ctx.set_materialize_grads(False)  # so that entropy's gradient is made only where it is asked
    ctx.save_for_backward(logits, labels, *output[1:])


def _gradients(ctx, g_logp, g_entropy, *_):
    logits, labels, entropy, top, total = ctx.saved_tensors
    if g_logp is None and g_entropy is None:
        return None, None, None, None
    gradient = selective_logprob_backward_op(
        g_logp=zero_or(g_logp, entropy),
        g_entropy=g_entropy,
        logits=logits,
        labels=labels,
        entropy=entropy,
        top=top,
        total=total,
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
    logp, entropy, *_ = selective_logprob_op(logits, labels, float(temperature), ignore_index)
    return logp, entropy
