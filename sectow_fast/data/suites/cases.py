"""What every benchmark becomes: cases, and what is known of the suite they come from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from sectow_fast.data.images import ImageStore
from sectow_fast.data.suites.wording import Wording
from sectow_fast.types import Case, Label, Part


@dataclass(frozen=True, kw_only=True)
class SuiteCase:
    """One request of a benchmark, in the order in which its words and pictures are shown.

    Unsafe cases count in ASR; harmless ones in ORR, and in accuracy where `answer` is set. `group`
    is what the case is a variant of: samples and splits are taken by group, never by row.

    >>> case = SuiteCase(id="toy:0", suite="toy", split="test", label="harmless",
    ...                  parts=(("image", "a.png"), ("text", "what is this?")))
    >>> case.text, case.images
    ('what is this?', ('a.png',))
    """

    id: str
    suite: str
    split: str
    label: Label
    parts: tuple[Part, ...]
    goal: str | None = None  # what to judge against, where the words alone look harmless
    category: str = ""
    format: str = ""
    group: str = ""
    options: tuple[str, ...] = ()  # multiple choice: option i is the letter chr(65 + i)
    answer: str | None = None  # a letter, or words; several right ones are parted by "\n"
    reply: str | None = None  # the reply to be taught (VLGuard)
    words: str | None = None  # the request without its picture; None: it needs it
    where: str = ""  # file and row, for messages
    metadata: Mapping[str, str] = field(default_factory=dict)

    @property
    def text(self) -> str:
        return "\n".join(value for kind, value in self.parts if kind == "text")

    @property
    def images(self) -> tuple[str, ...]:
        return tuple(value for kind, value in self.parts if kind == "image")

    def in_words(self) -> SuiteCase | None:
        """The same case with no picture; None where the suite has no words for what it shows."""
        if not self.images:
            return self
        return None if self.words is None else replace(self, parts=(("text", self.words),))

    def as_case(self, store: str) -> Case:
        """The carrier that training uses; its pictures' keys are "STORE/KEY" (`StoresByName`)."""
        keyed = tuple((k, value if k == "text" else f"{store}/{value}") for k, value in self.parts)
        simple = [kind for kind, _ in keyed] in (["text"], ["image", "text"])
        return Case(
            id=self.id,
            text=self.text,
            label=self.label,
            image=keyed[0][1] if simple and len(keyed) > 1 else None,
            parts=() if simple else keyed,
            answer=self.answer,
            goal=(self.goal or self.text) if self.label == "unsafe" else None,
            suite=self.suite,
            style=self.format or "direct",
            source=self.suite,
        )


@dataclass(frozen=True, kw_only=True)
class Refused:
    """A row that cannot be asked as it was meant. It is left out and counted, by its id."""

    id: str
    where: str  # file and row
    reason: str  # what was found


@dataclass(frozen=True, kw_only=True)
class SuiteInfo:
    """A benchmark as its users know it. The first of `splits` is the default one.

    counts: published number of rows by split, for a note where a folder has another number.
    plain: the splits whose unsafe requests are asked as a person would ask, and are no jailbreaks.
    """

    name: str
    title: str
    licence: str
    splits: tuple[str, ...]
    layout: str  # what the folder must hold, for messages
    counts: Mapping[str, int] = field(default_factory=dict)
    trains: bool = True  # whether its licence allows training
    redistributes: bool = True  # whether its text and pictures may be passed on
    plain: tuple[str, ...] = ()
    trains_on: str = ""  # the split made for training, where there is one


class Suite(Protocol):
    """Reads the files of one benchmark."""

    info: SuiteInfo

    def find(self, folder: Path) -> Path | None:
        """The folder that its paths are relative to; None where `folder` has another layout."""
        ...

    def cases(self, root: Path, split: str, wording: Wording) -> Iterator[SuiteCase | Refused]:
        """The split's cases, one at a time, in the file's order. UserError names file and row.

        A published row that is odd in itself is `Refused`; a file that is not whole is a UserError.
        """
        ...

    def images(self, root: Path) -> ImageStore:
        """Opens the keys of `SuiteCase.images`."""
        ...
