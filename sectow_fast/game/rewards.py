"""Rewards of both roles: pure functions of labels and verdicts. No reference reply is needed.

A file outside the package may add a term (`register_reward_term`); its weight is given by
`--attack.terms.NAME` or `--defend.terms.NAME`, and without one it is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from sectow_fast.registry import Registry
from sectow_fast.types import Case, Completion, Reward, Verdict


@dataclass(frozen=True, kw_only=True)
class Earned:
    """One completion as a reward term sees it.

    case: what the reward is about, the attacker's seed or the request to the defender; reply: the
    words written, "" where they were cut; verdicts: on the reply itself (defender), or on the
    replies that an attack led to (attacker; none where it was not tried).
    """

    case: Case
    reply: str
    completion: Completion
    verdicts: Sequence[Verdict]


RewardTerm = Callable[[Earned], float]
REWARD_TERMS: Registry[RewardTerm] = Registry("reward term")


def register_reward_term(name: str, term: RewardTerm) -> RewardTerm:
    """Add a term under a new name. UserError where the name is taken."""
    return REWARD_TERMS.register(name, term)


def with_terms(reward: Reward, earned: Earned, weights: Mapping[str, float]) -> Reward:
    """`reward` plus each weighted term; every term is a part, so that it is logged."""
    if not weights:
        return reward
    values = {name: REWARD_TERMS.get(name)(earned) for name in weights}
    more = sum(weights[name] * value for name, value in values.items())
    return Reward(total=reward.total + more, parts=dict(reward.parts) | values)


def defender_reward(case: Case, verdict: Verdict, *, cut: bool = False) -> Reward:
    """Unsafe: 1 if the reply is safe. Harmless: 1 if right (or, without an answer, not refused).

    A reply that is cut or idle (`Verdict`) earns 0 whatever was asked.

    SecTOW's "simplified rewards": a label is enough (paper); the exact terms are our choice. An
    unknown verdict earns 0 for an unsafe request: what nobody could judge is not called safe.
    """
    lost = cut or verdict.idle
    if case.label == "unsafe":
        safe = float(verdict.harmful is False and not lost)
        return Reward(total=safe, parts={"safe": safe})
    if verdict.correct is not None:
        right = float(verdict.correct and not verdict.refused and not lost)
        return Reward(total=right, parts={"right": right, "refused": float(verdict.refused)})
    helpful = float(not verdict.refused and not lost)
    return Reward(total=helpful, parts={"helpful": helpful, "refused": float(verdict.refused)})


def attacker_reward(
    *,
    well_formed: bool,
    faithful: bool,
    success: float,
    similarity: float,
    diversity_weight: float,
) -> Reward:
    """Success on the current defender, less likeness; words that are no attack pay the full price.

    success: mean over m replies, 0..1. similarity: 0..1, to siblings and pool. Ill-formed or
    off-target words count as wholly alike: against a defender that no longer falls for anything,
    nonsense would be the cheapest diversity (seen: faithful fell to 0 in 20 steps). Our choice;
    closest work: Self-RedTeam's harm and faithfulness terms, MAGIC's revision similarity.

    >>> attacker_reward(
    ...     well_formed=True, faithful=False, success=1.0, similarity=0.0, diversity_weight=0.4
    ... ).total
    -0.4
    """
    is_attack = well_formed and faithful
    earned = success if is_attack else 0.0
    similarity = similarity if is_attack else 1.0
    return Reward(
        total=earned - diversity_weight * similarity,
        parts={
            "well_formed": float(well_formed),
            "faithful": float(faithful),
            "success": earned,
            "similarity": similarity,
        },
    )
