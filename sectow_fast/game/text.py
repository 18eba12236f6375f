"""Measures on short lists of words: likeness and variety of attacks. Pure functions."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence


def shingles(words: str, n: int = 2) -> frozenset[tuple[str, ...]]:
    """The n-word shingles of `words` (shorter texts are one shingle)."""
    parts = words.split()
    if len(parts) <= n:
        return frozenset([tuple(parts)])
    return frozenset(tuple(parts[i : i + n]) for i in range(len(parts) - n + 1))


def jaccard(a: frozenset, b: frozenset) -> float:
    """Shared share of two shingle sets, 0..1.

    >>> jaccard(shingles("join ba do"), shingles("join ba do"))
    1.0
    """
    return len(a & b) / len(a | b) if a or b else 1.0


def sibling_likeness(words: Sequence[str], threshold: float) -> list[float]:
    """For each text, the share of the others whose shingles are alike (>= threshold)."""
    sets = [shingles(text) for text in words]
    if len(sets) < 2:
        return [0.0] * len(sets)
    return [
        sum(jaccard(a, b) >= threshold for j, b in enumerate(sets) if j != i) / (len(sets) - 1)
        for i, a in enumerate(sets)
    ]


def self_bleu(words: Sequence[str], order: int = 2) -> float:
    """Mean BLEU of each text against the others (Zhu et al. 2018, add-nothing smoothing).

    1 means that every text is a copy of another. Fewer than two texts give 0.
    """
    texts = [text.split() for text in words]
    if len(texts) < 2:
        return 0.0
    total = 0.0
    counts = [[_ngrams(text, n) for text in texts] for n in range(1, order + 1)]
    for i, text in enumerate(texts):
        logs = 0.0
        used = 0
        for per_order in counts:
            mine = per_order[i]
            if not mine:
                continue
            hits = sum(
                min(c, max(other[gram] for j, other in enumerate(per_order) if j != i))
                for gram, c in mine.items()
            )
            logs += math.log(hits / sum(mine.values())) if hits else -math.inf
            used += 1
        if not used:
            continue
        nearest = min(
            (len(other) for j, other in enumerate(texts) if j != i),
            key=lambda length: (abs(length - len(text)), length),
        )
        brevity = min(0.0, 1 - nearest / len(text))
        total += math.exp(brevity + logs / used)
    return total / len(texts)


def _ngrams(text: Sequence[str], n: int) -> Counter:
    return Counter(tuple(text[i : i + n]) for i in range(len(text) - n + 1))
