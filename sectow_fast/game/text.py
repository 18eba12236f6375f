"""Likeness and variety of attacks: words to ids, then `sectow_fast.native`."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

import numpy as np
import regex

from sectow_fast import native

SHINGLE = 2  # words a shingle; a shorter text is one shingle
PAIR = 2  # words, in the measures of variety
# What a reader does not see (zero-width blanks, joiners, soft hyphens, directions, ...).
UNSEEN = regex.compile(r"\p{Default_Ignorable_Code_Point}+")
# Characters of scripts that put no blank between words, by their class of line breaking: ideographs
# and kana, and those of Thai, Lao, Khmer, Burmese and their like; and three scripts by name.
UNSPACED = regex.compile(
    r"([\p{Line_Break=ID}\p{Line_Break=CJ}\p{Line_Break=SA}\p{Tibetan}\p{Javanese}\p{Balinese}])"
)


def words(text: str) -> list[str]:
    """The words of a text as a reader sees them: NFKC, without characters that show nothing.

    Where a script puts no blanks between words, each of its characters is a word of its own.

    >>> words("join  ba\u200bdo"), words("\uff4aoin 折り紙")
    (['join', 'bado'], ['join', '折', 'り', '紙'])
    """
    if text.isascii():
        return text.split()
    seen = unicodedata.normalize("NFKC", UNSEEN.sub("", text))
    return UNSPACED.sub(r" \1 ", UNSEEN.sub("", seen)).split()


class WordIds:
    """Words to token ids, by a vocabulary that grows. Which id a word has changes no measure."""

    def __init__(self) -> None:
        self._ids: dict[str, int] = {}

    def csr(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """tokens int32 [T] and offsets int64 [D+1], as `native` takes them."""
        rows = [
            [self._ids.setdefault(word, len(self._ids)) for word in words(text)] for text in texts
        ]
        tokens = np.array([token for row in rows for token in row], np.int32)
        return tokens, np.cumsum([0, *map(len, rows)], dtype=np.int64)


class KnownTexts:
    """Texts by group (the seed they attack); near duplicates are sought within a group."""

    def __init__(self, threshold: float) -> None:
        self._threshold = threshold
        self._words = WordIds()
        self._groups: dict[str, native.DuplicateIndex] = {}

    def add(self, group: str, text: str) -> bool:
        """Keep `text`; False where the group has its like already."""
        if group not in self._groups:
            self._groups[group] = native.DuplicateIndex(SHINGLE, self._threshold)
        added, _ = self._groups[group].add(*self._words.csr([text]))
        return bool(added[0])

    def has(self, group: str, texts: Sequence[str]) -> list[bool]:
        """For each text: has the group its like?"""
        if group not in self._groups:
            return [False] * len(texts)
        return (self._groups[group].query(*self._words.csr(texts)) >= 0).tolist()


def like(text: str, others: Sequence[str], threshold: float) -> list[bool]:
    """For each of the others: is it a near duplicate of `text`?"""
    match = native.near_duplicates(
        *WordIds().csr([text, *others]), ngram=SHINGLE, threshold=threshold
    )[1]
    return (match[1:] == 0).tolist()


def sibling_likeness(texts: Sequence[str], threshold: float) -> list[float]:
    """For each text, the share of the others in its cluster of near duplicates.

    >>> sibling_likeness(["join ba do", "join ba do", "ask"], 0.99)
    [0.5, 0.5, 0.0]
    """
    if len(texts) < 2:
        return [0.0] * len(texts)
    keep, match = native.near_duplicates(*WordIds().csr(texts), ngram=SHINGLE, threshold=threshold)
    first = np.where(keep, np.arange(len(texts)), match)
    sizes = np.bincount(first)
    return ((sizes[first] - 1) / (len(texts) - 1)).tolist()


def variety(texts: Sequence[str]) -> dict[str, float]:
    """How unlike each other texts are, and how much each repeats itself; none: no variety.

    `diversity`: 1 - the mean BLEU of each text against the others (0: all are copies);
    `distinct_2`: distinct word pairs over word pairs; `repetition`: the mean share of a text's word
    pairs that stood in it before.

    >>> variety(["join ba do", "join ba do"])
    {'diversity': 0.0, 'distinct_2': 0.5, 'repetition': 0.0}
    """
    if not texts:
        return {"diversity": 0.0, "distinct_2": 0.0, "repetition": 0.0}
    ids = WordIds().csr(texts)
    return {
        "diversity": 1 - float(native.self_bleu(*ids, order=PAIR).mean()),
        "distinct_2": native.distinct_n(*ids, n=PAIR),
        "repetition": float(native.repetition(*ids, n=PAIR).mean()),
    }
