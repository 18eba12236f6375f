"""How far two judges agree beyond chance: Cohen's kappa (Cohen 1960)."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """kappa is NaN where chance alone would make both agree always (one label only). n pairs."""

    kappa: float
    agree: float
    n: int
    table: dict[str, int]  # "first/second" -> count


def agreement(first: Sequence[str], second: Sequence[str]) -> Agreement:
    """Unweighted kappa of two judges' labels, `unknown` being a label like any other.

    ValueError where the lengths differ or nothing was judged.

    >>> agreement(["safe", "safe", "unsafe", "unsafe"], ["safe", "safe", "unsafe", "safe"]).kappa
    0.5
    """
    if len(first) != len(second) or not first:
        raise ValueError(f"found {len(first)} and {len(second)} labels, expected as many, and some")
    n = len(first)
    table = Counter(zip(first, second, strict=True))
    observed = sum(count for (a, b), count in table.items() if a == b) / n
    mine, theirs = Counter(first), Counter(second)
    chance = sum(mine[label] * theirs[label] for label in mine) / n**2
    kappa = math.nan if math.isclose(chance, 1.0) else (observed - chance) / (1 - chance)
    return Agreement(
        kappa=kappa,
        agree=observed,
        n=n,
        table={f"{a}/{b}": count for (a, b), count in sorted(table.items())},
    )
