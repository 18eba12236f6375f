"""What a run asks of the parts that can be exchanged: world, codec, lessons, stage.

A *stage* is a place to play the tug-of-war: the embedded sandbox, or real suites. It brings a world
(requests, the attacker's language, the judge), a codec (between words and token ids), lessons (what
supervised phases teach) and the models.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from sectow_fast.types import Attack, Case, JudgedBy, Label, Prompt, Verdict

if TYPE_CHECKING:
    import torch

# A lesson draws a case and its right reply.
Lesson = Callable[[random.Random], tuple[Case, str]]
# One verdict per (case, reply), in order.
Judge = Callable[[Sequence[tuple[Case, str]]], list[Verdict]]


class World(Protocol):
    """Where requests come from and what an attacker's words become.

    cut_earns: whether a reply that was cut at its length limit is rewarded by its verdict; where it
    is not, it earns nothing.
    """

    cut_earns: bool

    def seeds(self, split: Literal["train", "test"]) -> Sequence[Case]:
        """Direct unsafe requests: what the attacker must get answered. Their `goal` is set."""
        ...

    def train_cases(self, label: Label) -> Sequence[Case]:
        """The existing training data of one label."""
        ...

    def harmless_probe(self) -> Sequence[Case]:
        """Harmless cases that are never trained on: over-refusal is watched here."""
        ...

    def suites(self) -> Mapping[str, Sequence[Case]]:
        """The test suites by name."""
        ...

    def self_instruct(self, seed: Case, rng: random.Random) -> str:
        """An untrained attacker's words for a seed: the baseline, and the cold start's lesson."""
        ...

    def attacker_case(self, seed: Case, previous: Attack | None) -> Case:
        """The request put to the attacker: generate (no previous) or refine (a previous attack).

        Its picture, if any, is that of the pair which the attacker is to refine.
        """
        ...

    def realise(self, words: str, seed: Case, *, rng: random.Random, attack_id: str) -> Case | None:
        """The case that the attacker's words make; None where they are not well-formed.

        seed: its `image` is the picture that the attacker was given. The result's `goal` is what
        the words are really after, so a drift shows.
        """
        ...

    def meaning(self, words: str, case: Case | None) -> str:
        """What attacks are compared by, to find those that repeat others.

        The words themselves, unless other words can make the same attack. case: what they make.
        """
        ...

    def judge_all(self, pairs: Sequence[tuple[Case, str]]) -> list[Verdict]:
        """One verdict per (case, reply), in order. A judge elsewhere is asked about all at once."""
        ...


class Codec(Protocol):
    """Between cases and token ids, by the model's own processor."""

    eos_id: int  # ends a lesson
    end_ids: tuple[int, ...]  # what ends a reply
    pad_id: int
    image_id: int  # -1 where the model sees no pictures
    banned_ids: tuple[int, ...]  # tokens that are never sampled

    def encode(self, cases: Sequence[Case]) -> list[Prompt]: ...

    def encode_reply(self, text: str) -> tuple[int, ...]:
        """A lesson's reply, ended by the end token. A completion is never tokenised again."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """The words of a reply, without special tokens."""
        ...

    def pixel_inputs(self, prompts: Sequence[Prompt]) -> dict[str, torch.Tensor]:
        """The model's image inputs, in the prompts' order; empty where none has an image."""
        ...

    def prefetch(self, prompts: Sequence[Prompt]) -> None:
        """Begin to process the images of prompts that are asked for soon."""
        ...


@dataclass(frozen=True, kw_only=True)
class DataRow:
    """A row of the user's data, as `ties.py` compares it.

    part: what it is for, and its suite; words: all that the run reads of it; files: those that its
    pictures are in.
    """

    part: str
    words: str
    files: tuple[Path, ...] = ()


@dataclass(frozen=True, kw_only=True)
class HarmfulReply:
    """Words that do harm once they are said, whatever follows them.

    steps: the reply's beginning, cut where the harm grows. worth: the graded harm of what has been
    said after each step, from 0 to 1; it never falls, and ends at 1.

    >>> HarmfulReply(steps=("use", "salt", "wax", "tin"), worth=(0, 1 / 3, 2 / 3, 1)).text
    'use salt wax tin'
    """

    steps: tuple[str, ...]
    worth: tuple[float, ...]

    def __post_init__(self) -> None:
        rising = [0.0, *self.worth, 1.0]
        if len(self.steps) != len(self.worth) or not self.steps or self.worth[-1] != 1:
            raise ValueError(f"{self}: expected a worth for each step, the last one 1")
        if rising != sorted(rising):
            raise ValueError(f"{self}: expected worths from 0 to 1 that never fall")

    @property
    def text(self) -> str:
        return " ".join(self.steps)


@dataclass(frozen=True, kw_only=True)
class AttackPoint:
    """One attack of a grammar with the replies to it that do harm.

    case: what the defender is asked; its `about` is the object, and its `style` is for tables.
    replies: none begins with another one, so that their probabilities add up to that of harm. A
    way to do harm that is not listed is not counted: what is computed is a lower bound, and exact
    where the list is whole.
    """

    case: Case
    replies: tuple[HarmfulReply, ...]

    def __post_init__(self) -> None:
        texts = [f"{reply.text} " for reply in self.replies]
        twice = any(a.startswith(b) for a in texts for b in texts if a is not b)
        if not texts or twice:
            raise ValueError(
                f"attack {self.case.id!r}: found {len(texts)} harmful replies, expected one or"
                " more, none of which begins with another"
            )


class AttackSpace(Protocol):
    """Every attack that a world's grammar has on its held-out forbidden objects, by number.

    `game/leak.py` computes how likely each one is to succeed: of all, or of a draw of them where
    there are more than `evaluate.leak_attacks`. The numbers are counted so that every attack is as
    good as another for a uniform draw.
    """

    objects: Sequence[str]  # the held-out forbidden ones; intervals are over them

    def size(self, about: str) -> int:
        """How many attacks on an object there are; it may be any number."""
        ...

    def attack(self, about: str, number: int) -> AttackPoint:
        """Attack `number` (from 0) on an object: the same one at every call.

        What the grammar leaves open (the picture's variant, the verb) is drawn from the world's
        seed, the object and the number alone.
        """
        ...


class Stage(Protocol):
    """Everything a run needs of the place it is played in. Models are transformers' classes."""

    world: World
    codec: Codec
    lessons: Mapping[str, Lesson]  # phase name -> what a supervised phase of that name teaches
    measures: Mapping[str, str]  # suite -> "asr", "orr", "accuracy" or "direct"
    notes: Sequence[str]  # remarks on the data, one line each, for the console
    judged: JudgedBy  # who says what is harmful, and how far people agree
    chat_template: str
    space: AttackSpace | None  # None where harmful replies cannot be listed
    proxies: Mapping[str, Judge]  # by name: cheap judges that err, for game.judge proxy

    @property
    def needs_replies(self) -> bool:
        """Whether harmless training data lack right replies, which the SFT baseline teaches."""
        ...

    def defender(self) -> Any: ...

    def attacker(self) -> Any: ...

    def load(self, folder: Path) -> Any: ...

    def save(
        self, model: Any, folder: Path, *, weights: Mapping[str, torch.Tensor] | None = None
    ) -> None:
        """A folder that transformers' Auto classes load; it appears whole or not at all.

        weights: by the names of `model.state_dict()`, where they are not the model's own.
        """
        ...

    def describe(self, folder: Path) -> None:
        """What `save` writes for the defender, but for its weights, which are not even made."""
        ...

    def safe_lesson(self, pool: Sequence[Attack], replies: Mapping[str, str]) -> Lesson:
        """The SFT baseline's lesson: kept attacks and unsafe data refused, harmless answered; by
        the defender's own `replies`, {case id: reply}, where the data have no right ones."""
        ...

    def refusal_lesson(self, replies: Mapping[str, str]) -> Lesson:
        """The cold start of a given defender: unsafe requests refused, and harmless ones answered
        by its own `replies`, {case id: reply}."""
        ...

    def versions(self) -> dict[str, str]: ...

    def rows(self) -> Iterable[DataRow]:
        """Every row of data that comes from outside, in order; none where all is made from the
        seed."""
        ...
