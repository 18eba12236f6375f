"""What a case asks for, in words without its suite's form; and what a model was trained on.

A model's folder says on which requests it was trained (`trained_on.json`), as digests: no request
of a suite stands in it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import regex

from sectow_fast.data.suites.cases import SuiteCase
from sectow_fast.data.suites.wording import Wording
from sectow_fast.texts import words
from sectow_fast.types import Case, UserError

AT_ENDS = regex.compile(r"^\p{P}+|\p{P}+$")
NAME = "trained_on.json"


def asked_for(case: SuiteCase | Case, wording: Wording) -> str:
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


@dataclass(frozen=True, kw_only=True)
class TrainedOn:
    """suites: {name: cases}; asked: digests of what these cases ask for, where words tell it."""

    suites: Mapping[str, int]
    asked: frozenset[str]

    @classmethod
    def of(cls, cases: Iterable[SuiteCase | Case], wording: Wording) -> TrainedOn:
        """What training on these cases teaches."""
        suites: dict[str, int] = {}
        asked = set()
        for case in cases:
            name = case.source if isinstance(case, Case) else case.suite
            suites[name] = suites.get(name, 0) + 1
            asked.add(_digest(case, wording))
        return cls(suites=suites, asked=frozenset(asked - {None}))

    @classmethod
    def read(cls, folder: Path) -> TrainedOn | None:
        """What a model's folder says; None where it says nothing. UserError for another file."""
        path = folder / NAME
        if not path.is_file():
            return None
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            suites = {str(name): int(count) for name, count in found["suites"].items()}
            return cls(suites=suites, asked=frozenset(map(str, found["asked"])))
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise UserError(
                f"{path}: found no record of training, expected an object with suites and asked;"
                " mend it or take it away"
            ) from None

    def after(self, earlier: TrainedOn | None) -> TrainedOn:
        """Both trainings, of which a model keeps both."""
        if earlier is None:
            return self
        names = {**earlier.suites, **self.suites}
        counts = {
            name: max(self.suites.get(name, 0), earlier.suites.get(name, 0)) for name in names
        }
        return TrainedOn(suites=counts, asked=self.asked | earlier.asked)

    def text(self) -> str:
        """The file's text, the same for the same training."""
        suites = dict(sorted(self.suites.items()))
        return json.dumps({"schema": 1, "suites": suites, "asked": sorted(self.asked)}) + "\n"

    def seen(self, cases: Sequence[SuiteCase], wording: Wording) -> int:
        """How many of the cases ask for what training asked for, in the same words."""
        return sum(_digest(case, wording) in self.asked for case in cases)


def _digest(case: SuiteCase | Case, wording: Wording) -> str | None:
    text = asked_for(case, wording)
    return hashlib.sha256(text.encode()).hexdigest()[:16] if text else None
