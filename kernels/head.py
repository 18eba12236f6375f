"""Log-probabilities and entropies straight from hidden states; the head's three products.

The whole [N, V] is never held: rows go through the head a chunk at a time, and rows to ignore are
left out before the first product.

    z = h W^T        dh = dz W        dW = dz^T h        db = sum dz

Modes: "recompute" makes z again in the backward pass (4 products, nothing kept); "cached" keeps z
(3 products, [N, V] in the model's dtype); "frozen", for a head without gradients, makes
d logp / d h and d H / d h in the forward pass (3 products, 2 N H floats, nothing in the backward).
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from . import checks
from .dispatch import chunk_rows, live_rows, wide
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


Rows = slice | Tensor


def row_chunks(rows: Tensor | None, count: int, size: int) -> Iterator[tuple[Rows, slice]]:
    """(where in the batch, where among the live rows) of each chunk; None is every row."""
    total = count if rows is None else len(rows)
    for start in range(0, total, size):
        place = slice(start, min(start + size, total))
        yield (place if rows is None else rows[place]), place


def add_product(total: Tensor, slope: Tensor, states: Tensor) -> None:
    """total [V, H] += slope^T states, with sums in float32 whatever the model's dtype."""
    if total.dtype == slope.dtype:
        total.addmm_(slope.T, states)
    elif slope.is_cuda:
        torch.addmm(total, slope.T, states, out_dtype=total.dtype, out=total)
    else:
        total.addmm_(slope.T.to(total.dtype), states.to(total.dtype))


class HeadGradients:
    """dh, dW and db as chunks come in; what is not wanted stays empty and costs nothing."""

    def __init__(
        self, hidden: Tensor, weight: Tensor, bias: Tensor | None, wanted: tuple[bool, ...]
    ) -> None:
        self.weight, self.wanted = weight, wanted
        self.bias_dtype = weight.dtype if bias is None else bias.dtype
        dtype = wide(weight.dtype)
        self.hidden = hidden.new_zeros(hidden.shape if wanted[0] else (0, 0))
        self.head = weight.new_zeros(weight.shape if wanted[1] else (0, 0), dtype=dtype)
        self.shift = weight.new_zeros(weight.shape[0] if wanted[2] else 0, dtype=dtype)

    def add(self, rows: Rows, states: Tensor, slope: Tensor) -> None:
        if self.wanted[0]:
            self.hidden[rows] = slope @ self.weight
        if self.wanted[1]:
            add_product(self.head, slope, states)
        if self.wanted[2]:
            self.shift += slope.sum(0, dtype=self.shift.dtype)

    def result(self, scale: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        parts = self.hidden, self.head, self.shift
        if scale is not None:
            parts = tuple(part.mul_(scale) for part in parts)
        return parts[0], parts[1].to(self.weight.dtype), parts[2].to(self.bias_dtype)


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
    count, vocabulary = len(labels), weight.shape[0]
    live = labels != ignore_index
    checks.check_labels(labels, live, vocabulary, ignore_index)
    logp, entropy, lse = (hidden.new_zeros(count, dtype=wide(hidden.dtype)) for _ in range(3))
    kept, place = _kept(hidden, weight, mode), None
    for rows, place in row_chunks(live_rows(live), count, chunk_rows(hidden, vocabulary, chunk)):
        states, wanted = hidden[rows], labels[rows]
        logits = states @ weight.T
        head = (bias, softcap, temperature, ignore_index)
        logp[rows], entropy[rows], lse[rows] = head_rows_forward(logits, wanted, *head)
        if mode == "cached":
            kept[place] = logits
        elif mode == "frozen":
            one = torch.ones_like(logp[rows])
            given = logits, wanted, entropy[rows], lse[rows], *head
            slope = head_rows_backward(one, 0 * one, *given, torch.empty_like(logits))
            kept[0, rows] = (slope @ weight).to(kept.dtype)
            slope = head_rows_backward(0 * one, one, *given, logits)
            kept[1, rows] = (slope @ weight).to(kept.dtype)
    if mode == "cached":
        kept[place.stop if place else 0 :] = 0.0  # what an operator returns is always the same
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
    count, vocabulary = len(labels), weight.shape[0]
    gradients = HeadGradients(hidden, weight, bias, tuple(wanted))
    rows_of_chunk = chunk_rows(hidden, vocabulary, chunk)
    for rows, place in row_chunks(live_rows(labels != ignore_index), count, rows_of_chunk):
        states = hidden[rows]
        logits = kept[place] if kept.numel() else states @ weight.T
        slope = head_rows_backward(
            *(g_logp[rows], g_entropy[rows], logits, labels[rows], entropy[rows], lse[rows]),
            *(bias, softcap, temperature, ignore_index),
            # What is kept may be asked for again (retain_graph), what was made here may not.
            torch.empty_like(logits) if kept.numel() else logits,
        )
        gradients.add(rows, states, slope)
    return gradients.result()


@linear_logprob_backward_op.register_fake
def _(g_logp, g_entropy, hidden, weight, bias, *rest):
    return HeadGradients(hidden, weight, bias, tuple(rest[-1])).result()


def both_gradients(g_logp: Tensor | None, g_entropy: Tensor | None) -> tuple[Tensor, Tensor]:
    """Zeros for the one of two results that nothing was made of."""
    if g_logp is None:
        g_logp = torch.zeros_like(g_entropy)
    return g_logp, torch.zeros_like(g_logp) if g_entropy is None else g_entropy


def _setup(ctx, inputs, output) -> None:
    hidden, weight, bias, labels, *ctx.options, ctx.mode = inputs
    ctx.mark_non_differentiable(*output[2:])
    ctx.set_materialize_grads(False)  # or zeros as large as what is kept would be made for it
    if ctx.mode == "frozen":
        ctx.save_for_backward(output[3])
        ctx.dtype = hidden.dtype
    else:
        ctx.save_for_backward(hidden, weight, bias, labels, *output[1:])


def _gradients(ctx, g_logp, g_entropy, *_):
    rest = (None,) * 6
    if g_logp is None and g_entropy is None:
        return None, None, None, *rest
    g_logp, g_entropy = both_gradients(g_logp, g_entropy)
    if ctx.mode == "frozen":
        (kept,) = ctx.saved_tensors
        d = g_logp[:, None] * kept[0] + g_entropy[:, None] * kept[1]
        return d.to(ctx.dtype), None, None, *rest
    saved = ctx.saved_tensors
    needed = list(ctx.needs_input_grad[:3])
    found = linear_logprob_backward_op(g_logp, g_entropy, *saved, *ctx.options, needed)
    return *(d if need else None for d, need in zip(found, needed, strict=True)), *rest


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
    options = (float(temperature), softcap and float(softcap), ignore_index, chunk)
    if not torch.is_grad_enabled():
        mode = "recompute"
    logp, entropy, *_ = linear_logprob_op(hidden, weight, bias, labels, *options, mode)
    return logp, entropy
