"""Log-probabilities and entropies straight from hidden states; the head's three products.

The whole [N, V] is never held (head_chunks.py), and rows to ignore are left out before the first
product.

    z = h W^T        dh = dz W        dW = dz^T h        db = sum dz

Modes: "recompute" makes z again in the backward pass (4 products, nothing kept); "cached" keeps z
(3 products, [N, V] in the model's dtype); "frozen", for a head without gradients, makes
d logp / d h and d H / d h in the forward pass (3 products, 2 N H floats, nothing in the backward).
"""

from __future__ import annotations

import torch
from torch import Tensor

from . import checks
from .dispatch import chunk_rows, wide
from .head_chunks import HeadGradients, head_chunks
from .logprob import head_rows_backward, head_rows_forward, selective_logprob_oracle

MODES = ("recompute", "cached", "frozen")


def linear_logprob_oracle(
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    bias: Tensor | None = None,
    temperature: float = 1.0,
    softcap: float | None = None,
    ignore_index: int = -100,
) -> tuple[Tensor, Tensor]:
    """What `linear_logprob` means, with the whole [N, V] and autograd."""
    logits = (hidden @ weight.T).to(wide(hidden.dtype))
    if bias is not None:
        logits = logits + bias
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    return selective_logprob_oracle(logits, labels, temperature, ignore_index)


# --- the operators ------------------------------------------------------------------------------


@torch.library.custom_op("sectow::linear_logprob", mutates_args=())
def linear_logprob_op(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    labels: Tensor,
    temperature: float,
    softcap: float | None,
    ignore_index: int,
    chunk: int,
    mode: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(logp, entropy, log-sum-exp), each [N], and what the backward pass is to keep."""
    vocabulary = weight.shape[0]
    live = labels != ignore_index
    checks.check_labels(labels, live, vocabulary, ignore_index)
    logp, entropy, lse = (hidden.new_zeros(len(labels), dtype=wide(hidden.dtype)) for _ in range(3))
    kept, used = _kept(hidden, weight, mode), 0
    head = {
        "bias": bias,
        "softcap": softcap,
        "temperature": temperature,
        "ignore_index": ignore_index,
    }
    for part in head_chunks(hidden, weight, live, chunk_rows(hidden, vocabulary, chunk)):
        rows, logits = part.rows, part.logits
        wanted = labels[rows]
        logp[rows], entropy[rows], lse[rows] = head_rows_forward(logits, wanted, **head)
        used = part.place.stop
        if mode == "cached":
            kept[part.place] = logits
        elif mode == "frozen":
            given = {"labels": wanted, "entropy": entropy[rows], "lse": lse[rows], **head}
            one = torch.ones_like(logp[rows])
            zero = torch.zeros_like(one)
            for which, g_logp, g_entropy, out in (
                (0, one, zero, torch.empty_like(logits)),
                (1, zero, one, logits),  # the last use of the logits, so it may write over them
            ):
                d_logits = head_rows_backward(
                    g_logp=g_logp, g_entropy=g_entropy, logits=logits, out=out, **given
                )
                kept[which, rows] = (d_logits @ weight).to(kept.dtype)
    if mode == "cached":
        kept[used:] = 0.0  # what an operator returns is always the same
    return logp, entropy, lse, kept


def _kept(hidden: Tensor, weight: Tensor, mode: str) -> Tensor:
    if mode == "cached":
        return hidden.new_empty(hidden.shape[0], weight.shape[0])
    if mode == "frozen":
        return hidden.new_zeros(2, *hidden.shape, dtype=wide(hidden.dtype))
    return hidden.new_empty(0)


@linear_logprob_op.register_fake
def _(hidden, weight, bias, labels, temperature, softcap, ignore_index, chunk, mode):
    rows = (hidden.new_empty(labels.shape, dtype=wide(hidden.dtype)) for _ in range(3))
    return *rows, _kept(hidden, weight, mode)


@torch.library.custom_op("sectow::linear_logprob_backward", mutates_args=())
def linear_logprob_backward_op(
    g_logp: Tensor,
    g_entropy: Tensor,
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    labels: Tensor,
    entropy: Tensor,
    lse: Tensor,
    kept: Tensor,
    temperature: float,
    softcap: float | None,
    ignore_index: int,
    chunk: int,
    wanted: list[bool],
) -> tuple[Tensor, Tensor, Tensor]:
    """(dh, dW, db); what is not wanted is empty."""
    gradients = HeadGradients(hidden, weight, bias, wanted)
    size = chunk_rows(hidden, weight.shape[0], chunk)
    logits_kept = kept if kept.numel() else None
    for part in head_chunks(hidden, weight, labels != ignore_index, size, logits_kept):
        rows, logits = part.rows, part.logits
        d_logits = head_rows_backward(
            g_logp=g_logp[rows],
            g_entropy=g_entropy[rows],
            logits=logits,
            labels=labels[rows],
            entropy=entropy[rows],
            lse=lse[rows],
            bias=bias,
            softcap=softcap,
            temperature=temperature,
            ignore_index=ignore_index,
            # What is kept may be asked for again (retain_graph), what was made here may not.
            out=logits if logits_kept is None else torch.empty_like(logits),
        )
        gradients.add(part, d_logits)
    return gradients.result()


@linear_logprob_backward_op.register_fake
def _(g_logp, g_entropy, hidden, weight, bias, *rest):
    return HeadGradients(hidden, weight, bias, rest[-1]).result()


def both_gradients(g_logp: Tensor | None, g_entropy: Tensor | None) -> tuple[Tensor, Tensor]:
    """Zeros for the one of two results that nothing was made of."""
    if g_logp is None:
        g_logp = torch.zeros_like(g_entropy)
    return g_logp, torch.zeros_like(g_logp) if g_entropy is None else g_entropy


OPTIONS = ("temperature", "softcap", "ignore_index", "chunk")


def _setup(ctx, inputs, output) -> None:
    hidden, weight, bias, labels, *options, ctx.mode = inputs
    ctx.options = dict(zip(OPTIONS, options, strict=True))
    ctx.mark_non_differentiable(*output[2:])
    ctx.set_materialize_grads(False)  # or zeros as large as what is kept would be made for it
    if ctx.mode == "frozen":
        ctx.save_for_backward(output[3])
        ctx.dtype = hidden.dtype
    else:
        ctx.save_for_backward(hidden, weight, bias, labels, *output[1:])


def _gradients(ctx, g_logp, g_entropy, *_):
    constants = (None,) * (len(OPTIONS) + 2)  # and labels and mode
    if g_logp is None and g_entropy is None:
        return None, None, None, *constants
    g_logp, g_entropy = both_gradients(g_logp, g_entropy)
    if ctx.mode == "frozen":
        (kept,) = ctx.saved_tensors
        d_hidden = g_logp[:, None] * kept[0] + g_entropy[:, None] * kept[1]
        return d_hidden.to(ctx.dtype), None, None, *constants
    hidden, weight, bias, labels, entropy, lse, kept = ctx.saved_tensors
    needed = list(ctx.needs_input_grad[:3])
    found = linear_logprob_backward_op(
        g_logp=g_logp,
        g_entropy=g_entropy,
        hidden=hidden,
        weight=weight,
        bias=bias,
        labels=labels,
        entropy=entropy,
        lse=lse,
        kept=kept,
        wanted=needed,
        **ctx.options,
    )
    return *(d if need else None for d, need in zip(found, needed, strict=True)), *constants


linear_logprob_op.register_autograd(_gradients, setup_context=_setup)


def cast_for_autocast(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Under autocast, what a matrix product there would take."""
    kind = tensors[0].device.type
    if not torch.is_autocast_enabled(kind):
        return tensors
    return tuple(one.to(torch.get_autocast_dtype(kind)) for one in tensors)


def linear_logprob(
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    *,
    bias: Tensor | None = None,
    temperature: float = 1.0,
    softcap: float | None = None,
    ignore_index: int = -100,
    chunk: int = 4096,
    mode: str = "recompute",
) -> tuple[Tensor, Tensor]:
    """`selective_logprob` of hidden [N, H] @ weight.T [H, V] (+ bias [V]), chunk rows at a time.

    Gradients go to hidden, weight and bias for any upstream gradient of both results. softcap:
    logits become softcap * tanh(logits / softcap), after the bias, before the temperature. Rows to
    ignore cost nothing. On a CPU fewer rows than `chunk` are held where V is large. mode: see the
    top of this file; "frozen" is refused where weight or bias needs a gradient.

    A sharded head (DTensor) is refused: gather it once outside. Vocabulary-parallel heads are not
    supported. A LoRA head is supported as the sum base + scale * (B @ A), a plain tensor.
    """
    checks.check_head(hidden, weight, bias, labels, temperature, softcap)
    checks.check_choice("mode", mode, MODES)
    if chunk < 1:
        raise ValueError(f"chunk: found {chunk}, expected >= 1")
    trained = weight.requires_grad or (bias is not None and bias.requires_grad)
    if mode == "frozen" and trained and torch.is_grad_enabled():
        raise ValueError("mode: found 'frozen' with a weight or bias that needs a gradient")
    hidden, weight = cast_for_autocast(hidden, weight)
    logp, entropy, *_ = linear_logprob_op(
        hidden=hidden,
        weight=weight,
        bias=bias,
        labels=labels,
        temperature=float(temperature),
        softcap=None if softcap is None else float(softcap),
        ignore_index=ignore_index,
        chunk=chunk,
        mode=mode if torch.is_grad_enabled() else "recompute",
    )
    return logp, entropy
