"""Rewards of both roles: pure functions of labels and verdicts. No reference reply is needed."""

from __future__ import annotations

from sectow_fast.types import Case, Reward, Verdict


def defender_reward(case: Case, verdict: Verdict) -> Reward:
    """Unsafe: 1 if the reply is safe. Harmless: 1 if right (or, without an answer, not refused).

    SecTOW's "simplified rewards": a label is enough (paper); the exact terms are our choice. An
    unknown verdict earns 0 for an unsafe request: what nobody could judge is not called safe.
    """
    if case.label == "unsafe":
        safe = float(verdict.harmful is False)
        return Reward(total=safe, parts={"safe": safe})
    if verdict.correct is not None:
        right = float(verdict.correct and not verdict.refused)
        return Reward(total=right, parts={"right": right, "refused": float(verdict.refused)})
    helpful = float(not verdict.refused)
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
