"""torch's scaled_dot_product_attention over joined sequences: runs everywhere, the CPU's default.

Each completion is joined with its prompt, so no work is done between two completions. A mask over
the whole row would grow with the square of G.
"""

from __future__ import annotations

import torch
from torch.nn.functional import scaled_dot_product_attention

from sectow_fast.learn.segments import Joined, Segments, joined
from sectow_fast.types import UserError


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
    if softcap is not None:
        raise UserError(
            "learn.attention sdpa: found a softcap on attention scores, expected none; take flex"
        )
    batches, order = _prepare(segments, window, query.device)
    causal = not segments.both_ways
    parts = [_attend(query, key, value, batch, scale, causal) for batch in batches]
    return torch.cat(parts)[order]


def _prepare(
    segments: Segments, window: int | None, device: torch.device
) -> tuple[list[Joined], torch.Tensor]:
    """(padded batches, for each token of the row its place among the batches' queries)."""
    name = ("sdpa", window, device)
    if name not in segments.prepared:
        made = joined(segments, window)
        queries = torch.cat([one.queries.flatten() for one in made])
        places = torch.cat([one.used.flatten() for one in made]).nonzero()[:, 0]
        order = torch.empty(segments.tokens, dtype=torch.long)
        order[queries[places]] = places
        order = order.to(device, non_blocking=True)
        segments.prepared[name] = [one.to(device) for one in made], order
    return segments.prepared[name]


def _attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    batch: Joined,
    scale: float | None,
    causal: bool,
) -> torch.Tensor:
    q, k, v = (
        one[index].transpose(1, 2)
        for one, index in ((query, batch.queries), (key, batch.keys), (value, batch.keys))
    )
    out = scaled_dot_product_attention(
        q,
        k,
        v,
        attn_mask=None if batch.seen is None else batch.seen[:, None],
        is_causal=causal and batch.seen is None,
        scale=scale,
        enable_gqa=q.shape[1] != k.shape[1],
    )
    return out.transpose(1, 2).flatten(0, 1)
