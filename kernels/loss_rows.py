"""Which rows a loss looks at, what they weigh, and what their results add up to."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .dispatch import use_triton
from .head_chunks import LiveRows, chosen_rows, left_over, live_rows
from .loss_config import PolicyLossConfig
from .loss_metrics import loss_metrics
from .loss_terms import IGNORE, RowResults
from .loss_weights import sequence_index, token_weights


@dataclass(frozen=True, kw_only=True)
class Opened:
    """weights [N]: of tokens, relative to the largest one, which is `scale`: over many tokens 1 / N
    times a small probability would be lost in float16. scored [N]: rows that count. counts: how
    many are scored and how many live. results [N]: of rows, to be written to. left [N]: scored rows
    that `chosen` leaves out, where that is looked at here."""

    weights: Tensor
    scale: Tensor
    scored: Tensor
    counts: Tensor
    results: RowResults
    chosen: LiveRows
    left: Tensor | None


def live_tokens(labels: Tensor, mask: Tensor | None) -> Tensor:
    live = labels != IGNORE
    return live if mask is None else live & mask.bool()


def open_loss(
    *,
    labels: Tensor,
    mask: Tensor | None,
    advantages: Tensor,
    normalizer: Tensor | None,
    sequence_ids: Tensor | None,
    given_rows: Tensor | None,
    bound: int | None,
    config: PolicyLossConfig,
    dtype: torch.dtype,
) -> Opened:
    signal = not config.kl_coef and not config.entropy_coef
    triton, by_sequence = use_triton(advantages), config.reduction.startswith("seq")
    live, weights = None, None
    if by_sequence or not triton:
        live = live_tokens(labels, mask)
        index = sequence_index(sequence_ids) if by_sequence else None
        weights = token_weights(live, index, normalizer, config.reduction, dtype)
    if triton:
        from .loss_rows_triton import open_rows

        weights, scale, scored, rows, counts, results = open_rows(
            labels, mask, advantages, normalizer, weights, signal=signal
        )
        chosen = chosen_rows(rows, counts, given_rows, bound)
    else:
        scale = torch.cat([weights, weights.new_full((1,), torch.finfo(dtype).tiny)]).amax()
        weights = weights / scale
        scored = live & (advantages != 0) if signal else live.clone()
        counts = torch.stack([scored.sum(), live.sum()])
        results = RowResults(
            *advantages.new_zeros(len(RowResults._fields), len(labels), dtype=dtype)
        )
        chosen = live_rows(scored, given_rows, bound)
    # The last launch looks on a card itself.
    left = None if scored.is_cuda and triton else left_over(scored, chosen)
    return Opened(
        weights=weights,
        scale=scale,
        scored=scored,
        counts=counts,
        results=results,
        chosen=chosen,
        left=left,
    )


def close_loss(
    opened: Opened, advantages: Tensor, config: PolicyLossConfig
) -> tuple[Tensor, Tensor, Tensor]:
    """(loss, scale, metrics); loss and scale are NaN where a scored row was left out."""
    results, scored = opened.results, opened.scored
    if use_triton(advantages):
        from .loss_rows_triton import close_rows

        return close_rows(
            results, opened.weights, scored, advantages, opened.scale, opened.counts, config
        )
    loss = (results.loss * opened.weights).sum() * opened.scale
    scale = opened.scale
    metrics = loss_metrics(
        ratio=results.ratio,
        kl=results.kl,
        advantages=advantages,
        entropy=results.entropy,
        live=scored,
        count=opened.counts[1],
        config=config,
    )
    if opened.left is not None:
        gone = opened.left.any()
        loss, scale = loss.masked_fill(gone, torch.nan), scale.masked_fill(gone, torch.nan)
    return loss, scale, metrics
