"""Triton kernels of `selective_logprob`, and the row functions that `linear_*` share.

One program per row. The softmax statistics are made online, relative to the running maximum, so
that -inf logits and logits far from 0 lose nothing. Offsets are int64: V = 151,936 overflows int32
at row 14,135. Temperature and cap are runtime numbers: a schedule recompiles nothing.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def scores_at(row_ptr, bias_ptr, at, V, inv_t, cap, HAS_BIAS: tl.constexpr, CAP: tl.constexpr):
    """(scores, their derivative by the logits) of one block of a row; -inf past the end."""
    x = tl.load(row_ptr + at, mask=at < V, other=-float("inf")).to(tl.float32)
    if HAS_BIAS:
        x += tl.load(bias_ptr + at, mask=at < V, other=0.0).to(tl.float32)
    d_score = inv_t
    if CAP:
        # tanh without libdevice; exp overflows to inf, which is the limit.
        t = 1.0 - 2.0 / (tl.exp(2.0 * x / cap) + 1.0)
        x = tl.where(at < V, cap * t, -float("inf"))
        d_score = (1.0 - t * t) * inv_t
    return x * inv_t, d_score


@triton.jit
def row_statistics(
    row_ptr, bias_ptr, V, inv_t, cap, HAS_BIAS: tl.constexpr, CAP: tl.constexpr, B: tl.constexpr
):
    """(lse, entropy) of a row."""
    top = -float("inf")
    total = 0.0
    moment = 0.0  # sum of e (s - top)
    for start in range(0, V, B):
        at = start + tl.arange(0, B)
        s, _ = scores_at(row_ptr, bias_ptr, at, V, inv_t, cap, HAS_BIAS, CAP)
        new = tl.maximum(top, tl.max(s, 0))
        # All -inf so far: shift by 0, or exp(-inf + inf) would be NaN. tl.max drops NaN, and the
        # sums below keep it.
        base = tl.where(new == -float("inf"), 0.0, new)
        shifted = s - base
        e = tl.exp(shifted)
        old = tl.where(top == -float("inf"), base, top)
        rescale = tl.exp(old - base)
        moment = rescale * (moment + total * (old - base))
        moment += tl.sum(tl.where(shifted == -float("inf"), 0.0, e * shifted), 0)
        total = rescale * total + tl.sum(e, 0)
        top = new
    base = tl.where(top == -float("inf"), 0.0, top)
    return base + tl.log(total), tl.log(total) - moment / total


@triton.jit
def label_score(row_ptr, bias_ptr, label, V, inv_t, cap, HAS_BIAS: tl.constexpr, CAP: tl.constexpr):
    """The label's score; NaN where the label is out of range."""
    inside = (label >= 0) & (label < V)
    safe = tl.where(inside, label, 0)
    x = tl.load(row_ptr + safe).to(tl.float32)
    if HAS_BIAS:
        x += tl.load(bias_ptr + safe).to(tl.float32)
    if CAP:
        x = cap * (1.0 - 2.0 / (tl.exp(2.0 * x / cap) + 1.0))
    return tl.where(inside, x * inv_t, float("nan"))


@triton.jit
def write_gradient(
    out_ptr,
    row_ptr,
    bias_ptr,
    label,
    lse,
    entropy,
    g_logp,
    g_entropy,
    V,
    inv_t,
    cap,
    HAS_BIAS: tl.constexpr,
    CAP: tl.constexpr,
    B: tl.constexpr,
):
    """d logits of a row, possibly over the logits themselves."""
    wrong = (label < 0) | (label >= V)
    g_logp = tl.where(wrong, float("nan"), g_logp)
    for start in range(0, V, B):
        at = start + tl.arange(0, B)
        s, d_score = scores_at(row_ptr, bias_ptr, at, V, inv_t, cap, HAS_BIAS, CAP)
        logp = s - lse
        p = tl.exp(logp)
        minus_d_entropy = tl.where(logp == -float("inf"), 0.0, p * (logp + entropy))
        d = tl.where(at == label, g_logp, 0.0) - g_logp * p - g_entropy * minus_d_entropy
        tl.store(out_ptr + at, (d * d_score).to(out_ptr.dtype.element_ty), mask=at < V)


@triton.jit
def selective_forward_kernel(
    logits,
    labels,
    bias,
    logp_out,
    entropy_out,
    lse_out,
    V,
    stride,
    ignore,
    inv_t,
    cap,
    HAS_BIAS: tl.constexpr,
    CAP: tl.constexpr,
    B: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    label = tl.load(labels + row)
    logp = 0.0
    entropy = 0.0
    lse = 0.0
    if label != ignore:
        row_ptr = logits + row * stride
        lse, entropy = row_statistics(row_ptr, bias, V, inv_t, cap, HAS_BIAS, CAP, B)
        logp = label_score(row_ptr, bias, label, V, inv_t, cap, HAS_BIAS, CAP) - lse
        entropy = tl.where(logp != logp, logp, entropy)
    tl.store(logp_out + row, logp)
    tl.store(entropy_out + row, entropy)
    tl.store(lse_out + row, lse)


@triton.jit
def selective_backward_kernel(
    logits,
    labels,
    bias,
    entropies,
    lses,
    g_logps,
    g_entropies,
    out,
    V,
    stride,
    stride_out,
    ignore,
    inv_t,
    cap,
    HAS_BIAS: tl.constexpr,
    CAP: tl.constexpr,
    B: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    label = tl.load(labels + row)
    row_out = out + row * stride_out
    if label == ignore:
        for start in range(0, V, B):
            at = start + tl.arange(0, B)
            tl.store(row_out + at, tl.zeros((B,), out.dtype.element_ty), mask=at < V)
    else:
        row_ptr = logits + row * stride
        write_gradient(
            out_ptr=row_out,
            row_ptr=row_ptr,
            bias_ptr=bias,
            label=label,
            lse=tl.load(lses + row),
            entropy=tl.load(entropies + row),
            g_logp=tl.load(g_logps + row),
            g_entropy=tl.load(g_entropies + row),
            V=V,
            inv_t=inv_t,
            cap=cap,
            HAS_BIAS=HAS_BIAS,
            CAP=CAP,
            B=B,
        )


def row_shape(vocabulary: int) -> dict[str, int]:
    """Block and warps for a row of the vocabulary; 8192 x 16 keeps every value in registers."""
    block = min(8192, max(128, triton.next_power_of_2(vocabulary)))
    return {"B": block, "num_warps": max(4, min(16, block // 512))}


def unit_columns(logits: Tensor) -> Tensor:
    return logits if logits.stride(1) == 1 and logits.stride(0) > 0 else logits.contiguous()


def on_device(tensor: Tensor):
    """Launches go to the tensor's card, whichever is current."""
    return torch.cuda.device_of(tensor)


def head_options(bias: Tensor | None, softcap: float | None, like: Tensor) -> dict:
    """Arguments of a row kernel; a pointer that is not there is any other one."""
    return {
        "bias": like if bias is None else bias.contiguous(),
        "cap": 1.0 if softcap is None else softcap,
        "HAS_BIAS": bias is not None,
        "CAP": softcap is not None,
    }


def selective_forward(
    logits: Tensor,
    labels: Tensor,
    temperature: float,
    ignore_index: int,
    bias: Tensor | None = None,
    softcap: float | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """(logp, entropy, lse), each [N] float32."""
    logits, labels = unit_columns(logits), labels.contiguous()
    count, vocabulary = logits.shape
    logp, entropy, lse = (torch.empty(count, device=logits.device) for _ in range(3))
    if count:
        with on_device(logits):
            selective_forward_kernel[(count,)](
                logits=logits,
                labels=labels,
                logp_out=logp,
                entropy_out=entropy,
                lse_out=lse,
                V=vocabulary,
                stride=logits.stride(0),
                ignore=ignore_index,
                inv_t=1 / temperature,
                **head_options(bias, softcap, logits),
                **row_shape(vocabulary),
            )
    return logp, entropy, lse


def selective_backward(
    g_logp: Tensor,
    g_entropy: Tensor,
    logits: Tensor,
    labels: Tensor,
    entropy: Tensor,
    lse: Tensor,
    temperature: float,
    ignore_index: int,
    bias: Tensor | None = None,
    softcap: float | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """d logits [N, V]; `out` (columns side by side) may be the logits themselves."""
    logits, labels = unit_columns(logits), labels.contiguous()
    count, vocabulary = logits.shape
    if out is None:
        out = torch.empty((count, vocabulary), dtype=logits.dtype, device=logits.device)
    if count:
        with on_device(logits):
            selective_backward_kernel[(count,)](
                logits=logits,
                labels=labels,
                entropies=entropy,
                lses=lse,
                g_logps=g_logp.contiguous(),
                g_entropies=g_entropy.contiguous(),
                out=out,
                V=vocabulary,
                stride=logits.stride(0),
                stride_out=out.stride(0),
                ignore=ignore_index,
                inv_t=1 / temperature,
                **head_options(bias, softcap, logits),
                **row_shape(vocabulary),
            )
    return out
