"""A reward term for models with random weights, whose replies a judge finds all alike."""

from __future__ import annotations

import zlib

from sectow_fast.game.rewards import Earned, register_reward_term


def noise(earned: Earned) -> float:
    """A number from 0 to 1 that depends on the completion's tokens alone."""
    return zlib.crc32(repr(earned.completion.ids).encode()) / 2**32


register_reward_term("noise", noise)
