"""Replies cut at `max_new_tokens`: counted, or paid less (DAPO, soft overlong punishment).

With `cut` "mask" they have no loss; `learn.grpo.learnt_from` leaves them out.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from sectow_fast.config import GRPOConfig
from sectow_fast.types import Completion, Group, Reward

PART = "cut"  # the part of a reward that is lost, as the log has it


def cut_share(groups: Sequence[Group]) -> float:
    """Which share of the replies was cut."""
    replies = [one for group in groups for one in group.completions]
    return sum(one.finish_reason == "length" for one in replies) / len(replies)


def overlong(one: Completion, config: GRPOConfig) -> float:
    """What a reply's length costs, 0 to 1: 1 where it was cut, and a linear rise to that over the
    last `cut_buffer` tokens (Yu et al. 2025, DAPO, equation 13)."""
    if one.finish_reason == "length":
        return 1.0
    begin = config.max_new_tokens - config.cut_buffer
    return max(0.0, len(one.ids) - begin) / config.cut_buffer if config.cut_buffer else 0.0


def penalised(groups: Sequence[Group], config: GRPOConfig) -> list[Group]:
    """The groups with the price of length taken off their rewards, where `config.cut` says so."""
    if config.cut != "penalty":
        return list(groups)
    return [
        dataclasses.replace(
            group,
            rewards=tuple(
                _less(reward, config.cut_penalty * overlong(one, config))
                for reward, one in zip(group.rewards, group.completions, strict=True)
            ),
        )
        for group in groups
    ]


def _less(reward: Reward, price: float) -> Reward:
    return Reward(total=reward.total - price, parts={**reward.parts, PART: 0.0 - price})
