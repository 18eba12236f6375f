"""flash-attn and xformers as their documentation describes them, in plain torch, for `sys.modules`.

They refuse what the real kernels refuse: other dtypes than half precision, or several of them.
"""

from __future__ import annotations

import itertools
import types

import torch
import transformers.activations  # noqa: F401 - it asks for the packages when it is imported

HALVES = (torch.float16, torch.bfloat16)


def _block(q, k, v, *, scale, causal, window=(-1, -1), softcap=0.0):
    """One sequence: q [Q, H, D], k and v [K, H, D]; masks are aligned to the bottom right."""
    mine, theirs = len(q), len(k)
    place = torch.arange(mine)[:, None] + theirs - mine
    other = torch.arange(theirs)[None]
    right = 0 if causal else window[1]
    hidden = torch.zeros(mine, theirs, dtype=torch.bool)
    hidden |= (other > place + right) & (right >= 0)
    hidden |= (other < place - window[0]) & (window[0] >= 0)
    scores = torch.einsum("qhd,khd->hqk", q.float(), k.float()) * (scale or q.shape[-1] ** -0.5)
    if softcap:
        scores = softcap * torch.tanh(scores / softcap)
    weights = scores.masked_fill(hidden, -torch.inf).softmax(-1)
    return torch.einsum("hqk,khd->qhd", weights, v.float()).to(q.dtype)


def flash_attn_varlen_func(
    q,
    k,
    v,
    cu_seqlens_q,
    cu_seqlens_k,
    max_seqlen_q,
    max_seqlen_k,
    dropout_p=0.0,
    softmax_scale=None,
    causal=False,
    window_size=(-1, -1),
    softcap=0.0,
):
    """q [total_q, heads, D], k and v [total_k, heads_k, D]; cu_seqlens int32 from 0."""
    if not (q.dtype == k.dtype == v.dtype and q.dtype in HALVES):
        raise RuntimeError("FlashAttention only support fp16 and bf16 data type, the same for all")
    assert cu_seqlens_q.dtype == cu_seqlens_k.dtype == torch.int32
    k, v = (one.repeat_interleave(q.shape[1] // k.shape[1], 1) for one in (k, v))
    queries, keys = cu_seqlens_q.tolist(), cu_seqlens_k.tolist()
    assert queries[-1] == len(q) and keys[-1] == len(k)
    assert max_seqlen_q == max(b - a for a, b in itertools.pairwise(queries))
    assert max_seqlen_k == max(b - a for a, b in itertools.pairwise(keys))
    return torch.cat(
        [
            _block(
                q[a:b],
                k[c:d],
                v[c:d],
                scale=softmax_scale,
                causal=causal,
                window=window_size,
                softcap=softcap,
            )
            for (a, b), (c, d) in zip(
                itertools.pairwise(queries), itertools.pairwise(keys), strict=True
            )
        ]
    )


class BlockDiagonalMask:
    """Queries of block i see the keys of block i."""

    causal = False

    def __init__(self, queries, keys):
        self.queries, self.keys = [0, *queries], [0, *keys]

    @classmethod
    def from_seqlens(cls, q_seqlen, kv_seqlen=None):
        keys = kv_seqlen or q_seqlen
        assert len(q_seqlen) == len(keys)
        if cls.causal and any(k < q for q, k in zip(q_seqlen, keys, strict=True)):
            raise ValueError("expected num_keys >= num_queries")
        return cls(list(itertools.accumulate(q_seqlen)), list(itertools.accumulate(keys)))


class BlockDiagonalCausalFromBottomRightMask(BlockDiagonalMask):
    """Each block causal, its last query seeing its last key."""

    causal = True


def memory_efficient_attention(query, key, value, attn_bias=None, p=0.0, scale=None):
    """[1, tokens, heads, D] of one dtype."""
    if not query.dtype == key.dtype == value.dtype:
        raise ValueError("Query/Key/Value should either all have the same dtype")
    assert len(query) == 1 and query.shape[2] == key.shape[2] == value.shape[2]
    blocks = zip(
        itertools.pairwise(attn_bias.queries), itertools.pairwise(attn_bias.keys), strict=True
    )
    done = [
        _block(query[0, a:b], key[0, c:d], value[0, c:d], scale=scale, causal=attn_bias.causal)
        for (a, b), (c, d) in blocks
    ]
    return torch.cat(done)[None]


def module(name, **content):
    made = types.ModuleType(name)
    vars(made).update(content)
    return made


PACKAGES = {
    "flash_attn": module("flash_attn", flash_attn_varlen_func=flash_attn_varlen_func),
    "xformers": module("xformers"),
    "xformers.ops": module("xformers.ops", memory_efficient_attention=memory_efficient_attention),
    "xformers.ops.fmha": module("xformers.ops.fmha"),
    "xformers.ops.fmha.attn_bias": module(
        "xformers.ops.fmha.attn_bias",
        BlockDiagonalMask=BlockDiagonalMask,
        BlockDiagonalCausalFromBottomRightMask=BlockDiagonalCausalFromBottomRightMask,
    ),
}
