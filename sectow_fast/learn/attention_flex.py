"""FlexAttention over the whole row. A block mask skips blocks in which no token sees another.

Rows of any length are taken: the block mask covers the last block's rest, and the kernel masks it.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch

from sectow_fast.learn.segments import Segments


def attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    segments: Segments,
    *,
    scale: float | None,
    window: int | None,
    softcap: float | None,
) -> torch.Tensor:
    """See `attention.Backend`."""
    mask = _prepare(segments, window, query.device)

    def cap(score: torch.Tensor, *_: Any) -> torch.Tensor:
        return softcap * torch.tanh(score / softcap)

    q, k, v = (one.transpose(0, 1)[None] for one in (query, key, value))
    out = _flex(query.is_cuda)(
        q,
        k,
        v,
        score_mod=cap if softcap is not None else None,
        block_mask=mask,
        scale=scale,
        enable_gqa=q.shape[1] != k.shape[1],
    )
    return out[0].transpose(0, 1)


@cache
def _flex(cuda: bool) -> Any:
    from torch.nn.attention.flex_attention import flex_attention

    # Not compiled, it computes densely and exactly; on a CPU it has no backward pass.
    return torch.compile(flex_attention, dynamic=True) if cuda else flex_attention


@cache
def _block_mask(cuda: bool) -> Any:
    from torch.nn.attention.flex_attention import create_block_mask

    # Not compiled, it makes the whole T x T mask first: 256 MiB at 16,384 tokens, several times.
    return torch.compile(create_block_mask, dynamic=True) if cuda else create_block_mask


def _prepare(segments: Segments, window: int | None, device: torch.device) -> Any:
    name = ("flex", window, device)
    if name not in segments.prepared:
        group, segment, place = segments.labels.to(device, non_blocking=True)
        blocks = segments.blocks_of(window)
        blocks = None if blocks is None else blocks.to(device, non_blocking=True)

        def same(_b, _h, i, j):
            return group[i] == group[j]

        def sees(_b, _h, i, j):
            mine = (segment[i] == segment[j]) | (segment[j] == 0)
            seen = place[i] >= place[j]
            if blocks is not None:
                seen = seen | ((blocks[i] == blocks[j]) & (blocks[i] >= 0))
            if window is not None:
                seen = seen & (place[i] - place[j] < window)
            return same(_b, _h, i, j) & mine & seen

        tokens = segments.tokens
        segments.prepared[name] = _block_mask(device.type == "cuda")(
            same if segments.both_ways else sees, None, None, tokens, tokens, device=str(device)
        )
    return segments.prepared[name]
