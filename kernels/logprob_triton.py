"""Triton kernels of `selective_logprob`, which `linear_*` use for their heads too."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .head_form import HeadForm
from .row_parts import RowParts, RowStatistics
from .row_triton import label_score, row_shape, row_statistics, write_gradient


@triton.jit
def rate_at(rate, temperatures, row, HAS_T: tl.constexpr):
    """What makes scores of the row's x; NaN where its temperature is not above 0."""
    if HAS_T:
        t = tl.load(temperatures + row).to(tl.float32)
        rate = tl.where(t > 0.0, rate / t, float("nan"))
    return rate


@triton.jit
def selective_forward_kernel(
    logits,
    labels,
    bias,
    temperatures,
    logp_out,
    entropy_out,
    top_out,
    total_out,
    first,
    whole,
    V,
    stride,
    ignore,
    rate,
    slope,
    cap,
    HAS_BIAS: tl.constexpr,
    CAP: tl.constexpr,
    HAS_T: tl.constexpr,
    SHARD: tl.constexpr,
    PADDED: tl.constexpr,
    T: tl.constexpr,
    K: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    label = tl.load(labels + row)
    logp = 0.0
    entropy = 0.0
    top = 0.0
    total = 0.0
    if label != ignore:
        row_ptr = logits + row * stride
        rate = rate_at(rate, temperatures, row, HAS_T)
        top, total, moment = row_statistics(
            row_ptr, bias, V, rate, slope, cap, HAS_BIAS, CAP, T, K, PADDED
        )
        picked = label_score(row_ptr, bias, label, first, V, whole, slope, cap, HAS_BIAS, CAP)
        if SHARD:
            logp = picked
            entropy = moment
        else:
            log_total = tl.log(total)
            logp = (picked - top) * rate - log_total
            entropy = tl.where(logp != logp, logp, log_total - moment / total)
    tl.store(logp_out + row, logp)
    tl.store(entropy_out + row, entropy)
    tl.store(top_out + row, top)
    tl.store(total_out + row, total)


@triton.jit
def selective_backward_kernel(
    logits,
    labels,
    bias,
    temperatures,
    entropies,
    tops,
    totals,
    g_logps,
    g_entropies,
    out,
    first,
    whole,
    V,
    stride,
    stride_out,
    ignore,
    rate,
    slope,
    cap,
    HAS_BIAS: tl.constexpr,
    CAP: tl.constexpr,
    HAS_T: tl.constexpr,
    ENTROPY: tl.constexpr,
    PADDED: tl.constexpr,
    T: tl.constexpr,
    K: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    label = tl.load(labels + row)
    row_out = out + row * stride_out
    if label == ignore:
        write_zeros(row_out, V, T, K, PADDED)
    else:
        g_entropy = 0.0
        entropy = 0.0
        if ENTROPY:
            g_entropy = tl.load(g_entropies + row).to(tl.float32)
            entropy = tl.load(entropies + row)
        write_gradient(
            out_ptr=row_out,
            row_ptr=logits + row * stride,
            bias_ptr=bias,
            label=label,
            first=first,
            whole=whole,
            top=tl.load(tops + row),
            total=tl.load(totals + row),
            entropy=entropy,
            g_logp=tl.load(g_logps + row).to(tl.float32),
            g_entropy=g_entropy,
            V=V,
            rate=rate_at(rate, temperatures, row, HAS_T),
            slope=slope,
            cap=cap,
            HAS_BIAS=HAS_BIAS,
            CAP=CAP,
            ENTROPY=ENTROPY,
            T=T,
            K=K,
            PADDED=PADDED,
        )


@triton.jit
def write_zeros(out_ptr, V, T: tl.constexpr, K: tl.constexpr, PADDED: tl.constexpr):
    for start in range(0, V, T * K):
        at = start + tl.arange(0, T * K)
        tl.store(out_ptr + at, tl.zeros((T * K,), out_ptr.dtype.element_ty), mask=at < V)


def unit_columns(logits: Tensor) -> Tensor:
    return logits if logits.stride(1) == 1 and logits.stride(0) > 0 else logits.contiguous()


def on_device(tensor: Tensor):
    """Launches go to the tensor's card, whichever is current."""
    return torch.cuda.device_of(tensor)


def form_options(form: HeadForm, like: Tensor) -> dict:
    """Arguments of a row kernel; a pointer that is not there is any other one."""
    by_row = isinstance(form.temperature, Tensor)
    capped = form.softcap is not None
    scale = 1.0 if capped else form.scale
    return {
        "bias": like if form.bias is None else form.bias.contiguous(),
        "temperatures": form.temperature.contiguous() if by_row else like,
        "first": form.first,
        "whole": form.whole,
        "rate": scale if by_row else scale / form.temperature,
        "slope": form.scale / form.softcap if capped else 1.0,
        "cap": form.softcap if capped else 1.0,
        "HAS_BIAS": form.bias is not None,
        "CAP": capped,
        "HAS_T": by_row,
    }


def width_options(logits: Tensor, own: bool) -> dict:
    """V, and the shape of the tiles. own: the rows are padded, and the padding may be written."""
    vocabulary = logits.shape[1]
    shape = row_shape(vocabulary, logits.element_size())
    return {"V": vocabulary, "PADDED": own and vocabulary % shape["K"] != 0, **shape}


def selective_forward(
    logits: Tensor,
    labels: Tensor,
    form: HeadForm,
    *,
    ignore_index: int,
    shard: bool = False,
    own: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`RowStatistics` of rows [N, V], or with `shard` their `RowParts`; float32."""
    logits, labels = unit_columns(logits), labels.contiguous()
    count = len(logits)
    logp, entropy, top, total = (
        torch.empty(count, dtype=torch.float32, device=logits.device) for _ in range(4)
    )
    if count:
        with on_device(logits):
            selective_forward_kernel[(count,)](
                logits=logits,
                labels=labels,
                logp_out=logp,
                entropy_out=entropy,
                top_out=top,
                total_out=total,
                stride=logits.stride(0),
                ignore=ignore_index,
                SHARD=shard,
                **form_options(form, logits),
                **width_options(logits, own),
            )
    if shard:
        return RowParts(top=top, total=total, moment=entropy, picked=logp)
    return RowStatistics(logp, entropy, top, total)


def selective_backward(
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
    own: bool = False,
) -> Tensor:
    """d logits [N, V] in `out` (columns side by side), which may be the logits."""
    logits, labels = unit_columns(logits), labels.contiguous()
    count = len(logits)
    if count:
        with on_device(logits):
            selective_backward_kernel[(count,)](
                logits=logits,
                labels=labels,
                entropies=entropy,
                tops=top.contiguous(),
                totals=total.contiguous(),
                g_logps=g_logp.contiguous(),
                g_entropies=g_logp if g_entropy is None else g_entropy.contiguous(),
                out=out,
                stride=logits.stride(0),
                stride_out=out.stride(0),
                ignore=ignore_index,
                ENTROPY=g_entropy is not None,
                **form_options(form, logits),
                **width_options(logits, own),
            )
    return out
