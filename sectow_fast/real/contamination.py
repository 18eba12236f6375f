"""Finds test cases in the training data, as near duplicates of what is asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import regex

from sectow_fast.data.suites.cases import SuiteCase
from sectow_fast.data.suites.wording import Wording
from sectow_fast.game.text import WordIds, words
from sectow_fast.native import DuplicateIndex

SHINGLE = 3  # words
AT_ENDS = regex.compile(r"^\p{P}+|\p{P}+$")


@dataclass(frozen=True, kw_only=True)
class Contamination:
    """Which training cases look like a test case; pairs: (train suite, test suite) -> count."""

    clean: list[SuiteCase]
    dropped: list[tuple[SuiteCase, SuiteCase]]
    pairs: dict[tuple[str, str], int]

    def lines(self) -> list[str]:
        return [
            f"{count} cases of {train} are near duplicates of {test} (test)"
            for (train, test), count in sorted(self.pairs.items())
        ]


def asked_for(case: SuiteCase, wording: Wording) -> str:
    """What a case is after: its words in small letters, without punctuation at their ends, and
    without the sentences that all cases of its suite share.

    "" where the words are only such a sentence (a question inside a picture). Words cannot tell
    those cases apart, and pictures are not compared.
    """
    text = case.goal or case.text
    for shared in (wording.figstep, wording.letter_order, wording.word_order):
        text = text.replace(shared, " ") if shared else text
    bare = (AT_ENDS.sub("", word) for word in words(text))
    return " ".join(word.casefold() for word in bare if word)


def find_contamination(
    train: Sequence[SuiteCase],
    test: Mapping[str, Sequence[SuiteCase]],
    *,
    threshold: float,
    wording: Wording,
) -> Contamination:
    """Training cases whose 3-word shingles are `threshold` alike (Jaccard) to a test case's."""
    tests = [case for cases in test.values() for case in cases]
    ids = WordIds()
    index = DuplicateIndex(SHINGLE, threshold)
    told = [(case, asked_for(case, wording)) for case in tests]
    told = [(case, text) for case, text in told if text]
    if told:
        index.add(*ids.csr([text for _, text in told]))
    asked = [asked_for(case, wording) for case in train]
    match = index.query(*ids.csr(asked)).tolist() if train else []
    clean: list[SuiteCase] = []
    dropped: list[tuple[SuiteCase, SuiteCase]] = []
    pairs: dict[tuple[str, str], int] = {}
    for case, text, at in zip(train, asked, match, strict=True):
        if not text or at < 0:
            clean.append(case)
            continue
        twin = told[at][0]
        dropped.append((case, twin))
        pairs[case.suite, twin.suite] = pairs.get((case.suite, twin.suite), 0) + 1
    return Contamination(clean=clean, dropped=dropped, pairs=pairs)
