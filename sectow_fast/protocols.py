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

from sectow_fast.types import Attack, Case, Label, Prompt, Verdict

if TYPE_CHECKING:
    import torch

# A lesson draws a case and its right reply.
Lesson = Callable[[random.Random], tuple[Case, str]]


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

    def judge_all(self, pairs: Sequence[tuple[Case, str]]) -> list[Verdict]:
        """One verdict per (case, reply), in order. A judge elsewhere is asked about all at once."""
        ...


class Codec(Protocol):
    """Between cases and token ids, by the model's own processor."""

    eos_id: int  # ends a lesson
    end_ids: tuple[int, ...]  # what ends a reply
    pad_id: int
    image_id: int
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


class Stage(Protocol):
    """Everything a run needs of the place it is played in. Models are transformers' classes."""

    world: World
    codec: Codec
    lessons: Mapping[str, Lesson]  # phase name -> what a supervised phase of that name teaches
    measures: Mapping[str, str]  # suite -> "asr", "orr", "accuracy" or "direct"
    notes: Sequence[str]  # remarks on the data, one line each, for the console
    chat_template: str

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

    def safe_lesson(self, pool: Sequence[Attack]) -> Lesson:
        """The SFT baseline's lesson: kept attacks and unsafe data refused, harmless answered."""
        ...

    def versions(self) -> dict[str, str]: ...

    def rows(self) -> Iterable[DataRow]:
        """Every row of data that comes from outside, in order; none where all is made from the
        seed."""
        ...
