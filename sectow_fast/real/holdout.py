"""Which prompts are held out of training: by what they ask for, over all suites together."""

from __future__ import annotations

import random
from collections.abc import Sequence

from sectow_fast.data.suites.cases import SuiteCase
from sectow_fast.data.suites.wording import Wording
from sectow_fast.real.contamination import asked_for


def hold_out(
    cases: Sequence[SuiteCase], share: float, seed: str, wording: Wording
) -> tuple[list[SuiteCase], list[SuiteCase]]:
    """(kept, held out): about `share` of the cases, in order on both sides.

    Cases of one group, or that ask for the same in the same words, stay together. JailBreakV-28K
    wraps 2,000 questions in 28,000 rows, so after a draw by row, or by wrapped prompt, nearly every
    question in training would be in the test too. At least one family is held out where there are
    two; a family larger than what is still wanted is kept.
    """
    families = list(_families(cases, wording).values())
    random.Random(seed).shuffle(families)
    wanted = round(share * len(cases), 6)  # 50 of 161 as a share are 49.999...
    held: set[int] = set()
    for family in families:
        if len(held) + len(family) <= wanted:
            held.update(family)
    if not held and len(families) > 1:
        held.update(min(families, key=len))
    sides: tuple[list[SuiteCase], list[SuiteCase]] = ([], [])
    for at, case in enumerate(cases):
        sides[at in held].append(case)
    return sides


def _families(cases: Sequence[SuiteCase], wording: Wording) -> dict[int, list[int]]:
    """Rows by family, in order of appearance. Rows that share a group or words are of one family,
    and so are rows that such rows connect."""
    above = list(range(len(cases)))

    def root(at: int) -> int:
        while above[at] != at:
            above[at] = at = above[above[at]]
        return at

    first: dict[tuple[str, str], int] = {}
    for at, case in enumerate(cases):
        names = [(f"group of {case.suite}", case.group or case.id)]
        if words := asked_for(case, wording):
            names.append(("words", words))
        for name in names:
            one, other = sorted((root(first.setdefault(name, at)), root(at)))
            above[other] = one
    families: dict[int, list[int]] = {}
    for at in range(len(cases)):
        families.setdefault(root(at), []).append(at)
    return families
