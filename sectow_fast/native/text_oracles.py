"""Plain Python twins of the text functions of `sectow_fast.native`, with the same answers.

They are the oracle of the tests, and serve where the extension was not built. Their arguments are
checked already: `tokens` [T] int32 and `offsets` [D+1] int64.
"""

from __future__ import annotations

import math
from collections import Counter
from itertools import pairwise

import numpy as np


def _rows(tokens: np.ndarray, offsets: np.ndarray) -> list[list[int]]:
    ids, cuts = tokens.tolist(), offsets.tolist()
    return [ids[a:b] for a, b in pairwise(cuts)]


def _grams(row: list[int], n: int) -> list[tuple[int, ...]]:
    return [tuple(row[i : i + n]) for i in range(len(row) - n + 1)]


class DuplicateIndexOracle:
    """`DuplicateIndex` by exact Jaccard against every kept document that shares a shingle."""

    def __init__(self, ngram: int, threshold: float):
        self._ngram, self._threshold = ngram, threshold
        self._seen = 0
        self._numbers: list[int] = []
        self._rows: list[list[int]] = []
        self._sizes: list[int] = []
        self._holders: dict[tuple[int, ...], list[int]] = {}

    def __len__(self) -> int:
        return len(self._numbers)

    def _shingles(self, row: list[int]) -> set[tuple[int, ...]]:
        return set(_grams(row, self._ngram)) or {tuple(row)}

    def _find(self, shingles: set[tuple[int, ...]]) -> int:
        shared = Counter(kept for s in shingles for kept in self._holders.get(s, ()))
        for kept in sorted(shared):
            both = shared[kept]
            if both / (len(shingles) + self._sizes[kept] - both) >= self._threshold:
                return self._numbers[kept]
        return -1

    def _keep(self, row: list[int], shingles: set[tuple[int, ...]], number: int) -> None:
        for shingle in shingles:
            self._holders.setdefault(shingle, []).append(len(self._rows))
        self._rows.append(row)
        self._sizes.append(len(shingles))
        self._numbers.append(number)

    def add(
        self, tokens: np.ndarray, offsets: np.ndarray, threads: int = 0
    ) -> tuple[np.ndarray, np.ndarray]:
        match = []
        for row in _rows(tokens, offsets):
            shingles = self._shingles(row)
            match.append(self._find(shingles))
            if match[-1] < 0:
                self._keep(row, shingles, self._seen)
            self._seen += 1
        found = np.array(match, np.int64)
        return found < 0, found

    def query(self, tokens: np.ndarray, offsets: np.ndarray, threads: int = 0) -> np.ndarray:
        rows = _rows(tokens, offsets)
        return np.array([self._find(self._shingles(row)) for row in rows], np.int64)

    def state(self) -> tuple[int, np.ndarray, np.ndarray, np.ndarray]:
        """(documents seen, numbers of the kept, their tokens, their offsets)."""
        return (
            self._seen,
            np.array(self._numbers, np.int64),
            np.array([token for row in self._rows for token in row], np.int32),
            np.cumsum([0, *map(len, self._rows)], dtype=np.int64),
        )

    def restore(
        self, seen: int, numbers: np.ndarray, tokens: np.ndarray, offsets: np.ndarray
    ) -> None:
        for number, row in zip(numbers.tolist(), _rows(tokens, offsets), strict=True):
            self._keep(row, self._shingles(row), number)
        self._seen = seen


def near_duplicates_oracle(
    tokens: np.ndarray, offsets: np.ndarray, ngram: int, threshold: float
) -> tuple[np.ndarray, np.ndarray]:
    """`near_duplicates` by exact Jaccard."""
    return DuplicateIndexOracle(ngram, threshold).add(tokens, offsets)


def self_bleu_oracle(tokens: np.ndarray, offsets: np.ndarray, order: int) -> np.ndarray:
    """`self_bleu` by its definition; quadratic in the number of documents."""
    rows = _rows(tokens, offsets)
    return np.array([_bleu(row, rows[:i] + rows[i + 1 :], order) for i, row in enumerate(rows)])


def _bleu(row: list[int], others: list[list[int]], order: int) -> float:
    if not others:
        return 0.0
    smooth, logs, any_hit = 1.0, [], False
    for n in range(1, min(order, len(row)) + 1):
        counts = [Counter(_grams(other, n)) for other in others]
        mine = Counter(_grams(row, n))
        hits = sum(min(c, max(other[gram] for other in counts)) for gram, c in mine.items())
        any_hit = any_hit or hits > 0
        if not hits:
            smooth *= 2
        logs.append(math.log((hits or 1 / smooth) / mine.total()))
    if not any_hit:
        return 0.0
    nearest = min(map(len, others), key=lambda length: (abs(length - len(row)), length))
    return min(1.0, math.exp(min(0.0, 1 - nearest / len(row)) + sum(logs) / len(logs)))


def distinct_n_oracle(tokens: np.ndarray, offsets: np.ndarray, n: int) -> float:
    """`distinct_n` by two lists."""
    grams = [gram for row in _rows(tokens, offsets) for gram in _grams(row, n)]
    return len(set(grams)) / len(grams) if grams else 0.0


def repetition_oracle(
    tokens: np.ndarray, offsets: np.ndarray, n: int, threads: int = 0
) -> np.ndarray:
    """`repetition`; `threads` is there only so that both are called alike."""
    rows = [_grams(row, n) for row in _rows(tokens, offsets)]
    return np.array([1 - len(set(row)) / len(row) if row else 0.0 for row in rows])
