"""Teacher forcing without a gradient: how likely a policy is to say what is put into its mouth."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from sectow_fast.learn.packing import IGNORE
from sectow_fast.learn.policy import Policy
from sectow_fast.types import Completion, Prompt


def reply_logprobs(
    policy: Policy,
    pairs: Sequence[tuple[Prompt, Sequence[Sequence[int]]]],
    *,
    tokens_per_batch: int,
) -> list[list[list[float]]]:
    """[prompts][replies][tokens]: log-probs at temperature 1 of replies given as ids.

    They are over what rollout samples from. Rows are packed as in training, and each prompt, which
    has one reply at least, is computed once. All ranks must come with the same pairs, and all are
    told everything.
    """
    groups = [(prompt, [_given(ids) for ids in replies]) for prompt, replies in pairs]
    mine: dict[tuple[int, int], list[float]] = {}
    training = policy.training
    policy.eval()
    with torch.no_grad():
        for row, pieces in policy.rows(groups, tokens_per_batch):
            logp, _ = policy(row)
            if (row.labels == IGNORE).any():
                continue  # a rank with fewer rows repeats one, so that all make the same calls
            values = iter(logp.tolist())
            for group, j in ((piece.group, j) for piece in pieces for j in piece.picked):
                mine[group, j] = [next(values) for _ in groups[group][1][j].ids]
    policy.train(training)
    found = {key: row for part in policy.ranks.gathered(mine) for key, row in part.items()}
    return [[found[i, j] for j in range(len(replies))] for i, (_, replies) in enumerate(pairs)]


def _given(ids: Sequence[int]) -> Completion:
    return Completion(ids=tuple(ids), logprobs=(math.nan,) * len(ids), finish_reason="length")
