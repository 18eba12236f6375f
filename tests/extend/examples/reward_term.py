"""A reward term of one's own: short replies earn more, so that an apology stays an apology.

python -m sectow_fast.train --plugins reward_term.py --defend.terms.brevity 0.1
"""

from __future__ import annotations

from sectow_fast.game.rewards import Earned, register_reward_term


def brevity(earned: Earned) -> float:
    """1 for an empty reply, falling towards 0 as it grows."""
    return 1 / (1 + len(earned.reply) / 40)


register_reward_term("brevity", brevity)
