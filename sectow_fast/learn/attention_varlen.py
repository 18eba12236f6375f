"""flash-attn and xformers over joined sequences: no padding, no mask in memory.

Both align a query that is shorter than its keys to their end, which is right for a completion after
its prompt. The prompt's keys and values are copied once per completion (G x P rows of one layer at
a time), so that the libraries' own backward pass can be used. Both libraries want one dtype. Where
a rotary embedding leaves queries and keys in float32 beside values in half precision, they are
given in the values' dtype.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from sectow_fast.learn.segments import Segments
from sectow_fast.types import UserError


@dataclass(frozen=True, kw_only=True)
class Varlen:
    """Joined sequences without padding, in the order of the row's spans.

    keys [sum of keys]: indices into the row; query_ends, key_ends [spans + 1] int32 from 0, as
    flash-attn wants them. Queries are the row itself, since its spans stand in order.
    """

    keys: torch.Tensor
    query_lengths: tuple[int, ...]
    key_lengths: tuple[int, ...]
    query_ends: torch.Tensor
    key_ends: torch.Tensor


def varlen(segments: Segments, device: torch.device) -> Varlen:
    """The row's joined sequences, made once."""
    if segments.blocks is not None:
        raise UserError(
            "learn.attention: found images whose tokens see each other both ways (Gemma 3),"
            " expected causal attention; take sdpa or flex"
        )
    name = ("varlen", device)
    if name not in segments.prepared:
        places = torch.arange(segments.tokens)
        keys, mine, theirs = [], [], []
        for span in segments.spans:
            if span.prefix is not None:
                keys.append(places[span.prefix.start : span.prefix.start + span.prefix.length])
            keys.append(places[span.start : span.start + span.length])
            mine.append(span.length)
            theirs.append(span.keys)
        segments.prepared[name] = Varlen(
            keys=torch.cat(keys).to(device, non_blocking=True),
            query_lengths=tuple(mine),
            key_lengths=tuple(theirs),
            query_ends=_ends(mine, device),
            key_ends=_ends(theirs, device),
        )
    return segments.prepared[name]


def _ends(lengths: list[int], device: torch.device) -> torch.Tensor:
    ends = torch.tensor([0, *lengths]).cumsum(0)
    return ends.to(device=device, dtype=torch.int32, non_blocking=True)


def flash(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    segments: Segments,
    *,
    scale: float | None,
    window: int | None,
    softcap: float | None,
) -> torch.Tensor:
    """flash-attn's `flash_attn_varlen_func`; see `attention.Backend`. float16 and bfloat16 only."""
    from flash_attn import flash_attn_varlen_func

    if value.dtype not in (torch.float16, torch.bfloat16):
        raise UserError(
            f"learn.attention flash: found {value.dtype}, expected bfloat16 or float16;"
            " set learn.dtype bfloat16, or take sdpa or flex"
        )
    plan = varlen(segments, query.device)
    return flash_attn_varlen_func(
        query.to(value.dtype),
        key.to(value.dtype)[plan.keys],
        value[plan.keys],
        cu_seqlens_q=plan.query_ends,
        cu_seqlens_k=plan.key_ends,
        max_seqlen_q=max(plan.query_lengths),
        max_seqlen_k=max(plan.key_lengths),
        softmax_scale=scale,
        causal=not segments.both_ways,
        window_size=(-1, -1) if window is None else (window - 1, 0),
        softcap=softcap or 0.0,
    )


def xformers(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    segments: Segments,
    *,
    scale: float | None,
    window: int | None,
    softcap: float | None,
) -> torch.Tensor:
    """xformers' `memory_efficient_attention`; see `attention.Backend`."""
    from xformers.ops import memory_efficient_attention
    from xformers.ops.fmha.attn_bias import (
        BlockDiagonalCausalFromBottomRightMask,
        BlockDiagonalMask,
    )

    if softcap is not None or window is not None:
        raise UserError(
            f"learn.attention xformers: found window {window} and softcap {softcap}, expected"
            " neither; take flash or flex"
        )
    plan = varlen(segments, query.device)
    name = ("xformers", query.device)
    if name not in segments.prepared:
        bias = BlockDiagonalMask if segments.both_ways else BlockDiagonalCausalFromBottomRightMask
        segments.prepared[name] = bias.from_seqlens(
            q_seqlen=list(plan.query_lengths), kv_seqlen=list(plan.key_lengths)
        )
    heads = query.shape[1] // key.shape[1]
    k, v = (
        one.to(value.dtype)[plan.keys].repeat_interleave(heads, 1)[None] for one in (key, value)
    )
    return memory_efficient_attention(
        query.to(value.dtype)[None], k, v, attn_bias=segments.prepared[name], scale=scale
    )[0]
