"""Log-probabilities and entropies straight from hidden states; the head's three products.

The whole [N, V] is never held (head_chunks.py), and rows to ignore are left out before the first
product.

    z = h W^T        dh = dz W        dW = dz^T h        db = sum dz

Modes: "recompute" makes z again in the backward pass (4 products, nothing kept); "cached" keeps z
(3 products, [N, V] of logits); "frozen", for a head without gradients, makes d logp / d h and
d H / d h in the forward pass (3 products, 2 N H floats, nothing in the backward). Where entropy is
asked for without a gradient, "frozen" takes two products and N H floats.
"""

from __future__ import annotations

import torch
from torch import Tensor

from . import checks
from .dispatch import CUDA_ROWS, wide
from .head_checks import autocast_dtype, check_head, check_head_options
from .head_ops import linear_logprob_op
from .head_quack import check_quack, quack_logprob
from .logprob import selective_logprob_oracle
from .shards import group_name

MODES = ("recompute", "cached", "frozen")
BACKENDS = ("sectow", "quack")


def linear_logprob_oracle(
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    bias: Tensor | None = None,
    temperature: float | Tensor = 1.0,
    softcap: float | None = None,
    ignore_index: int = -100,
    logit_scale: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """What `linear_logprob` means, with the whole [N, V] and autograd."""
    logits = (hidden @ weight.T).to(wide(hidden.dtype))
    if bias is not None:
        logits = logits + bias
    logits = logits * logit_scale
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    return selective_logprob_oracle(logits, labels, temperature, ignore_index)


def cast_for_autocast(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Under autocast, what a matrix product there would take."""
    dtype = autocast_dtype(tensors[0].device.type)
    return tensors if dtype is None else tuple(one.to(dtype) for one in tensors)


def linear_logprob(
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    *,
    bias: Tensor | None = None,
    temperature: float | Tensor = 1.0,
    softcap: float | None = None,
    ignore_index: int = -100,
    chunk: int | None = None,
    mode: str = "recompute",
    logits_dtype: torch.dtype | None = None,
    logit_scale: float = 1.0,
    group: torch.distributed.ProcessGroup | None = None,
    live_rows: Tensor | int | None = None,
    main_grad: Tensor | None = None,
    entropy_gradient: bool = True,
    backend: str = "sectow",
) -> tuple[Tensor, Tensor]:
    """`selective_logprob` of hidden [N, H] @ weight.T [H, V] (+ bias [V]), chunk rows at a time.

    Gradients go to hidden, weight and bias for any upstream gradient of both results. A score is
    softcap(logit_scale * (product + bias)) / temperature, softcap(z) = softcap * tanh(z / softcap).
    temperature: one number, or one per row [N] (a constant). Rows to ignore cost nothing.

    chunk: at most so many rows of logits are held; None is 4096, and a CPU holds fewer where V is
    large. mode: see the top of this file; "frozen" is refused where weight or bias needs a
    gradient. entropy_gradient False: entropy is a constant, which "frozen" makes use of.

    logits_dtype: what the products are rounded to, None for hidden's dtype. float32 makes logits of
    bfloat16 factors without that rounding, in the forward and in the backward pass; on a card d
    logits are then rounded once, for the gradient's products.

    group: weight [V / ranks, H] and bias are this rank's part of the vocabulary, in rank order;
    labels are ids of the whole vocabulary, and hidden, labels and options are the same on every
    rank. All ranks get the same results, and dh is summed over them. ValueError where the parts
    differ in size.

    live_rows: positions [n] (int64) of the rows that are not ignored, or a bound on their number:
    then nothing waits for the device, and a CUDA graph has a fixed size. A row that is left over is
    a ValueError on a CPU, and NaN on CUDA.

    main_grad [V, H] float32: dW is added to it in the backward pass, and weight gets no gradient.

    backend "quack": QuACK's per-token loss, where it is installed, on a card. The entropy is then
    not known, and NaN; mode and the options from temperature on are refused by name.

    A sharded head (DTensor) is refused: pass its local part and `group`, or gather it once outside.
    A LoRA head is supported as the sum base + scale * (B @ A), a plain tensor.
    """
    check_head(hidden, weight, bias, labels, temperature, softcap)
    checks.check_choice("mode", mode, MODES)
    checks.check_choice("backend", backend, BACKENDS)
    trained = weight.requires_grad or (bias is not None and bias.requires_grad)
    if mode == "frozen" and trained and torch.is_grad_enabled():
        raise ValueError("mode: found 'frozen' with a weight or bias that needs a gradient")
    hidden, weight = cast_for_autocast(hidden, weight)
    check_head_options(
        hidden=hidden,
        weight=weight,
        logits_dtype=logits_dtype,
        logit_scale=logit_scale,
        chunk=chunk,
        live_rows=live_rows,
        main_grad=main_grad,
    )
    if backend == "quack":
        options = {
            "temperature": temperature,
            "softcap": softcap,
            "chunk": chunk,
            "mode": mode,
            "logits_dtype": logits_dtype,
            "logit_scale": logit_scale,
            "group": group,
            "live_rows": live_rows,
            "main_grad": main_grad,
        }
        check_quack(hidden, options, linear_logprob.__kwdefaults__)
        return quack_logprob(hidden, weight, bias, labels, ignore_index)
    logp, entropy, *_ = linear_logprob_op(
        hidden=hidden,
        weight=weight,
        bias=bias,
        labels=labels,
        **split_options(temperature, live_rows),
        main_grad=main_grad,
        softcap=None if softcap is None else float(softcap),
        scale=float(logit_scale),
        ignore_index=ignore_index,
        chunk=chunk or CUDA_ROWS,
        logits_dtype=logits_dtype,
        group=group_name(group),
        mode=mode if torch.is_grad_enabled() else "recompute",
        with_entropy=entropy_gradient,
    )
    return logp, entropy


def split_options(temperature: float | Tensor, live_rows: Tensor | int | None) -> dict:
    """Arguments that may be tensors or numbers, as an operator takes them."""
    by_row, given = isinstance(temperature, Tensor), isinstance(live_rows, Tensor)
    return {
        "temperature": 1.0 if by_row else float(temperature),
        "temperatures": temperature if by_row else None,
        "given_rows": live_rows if given else None,
        "bound": None if given else live_rows,
    }
