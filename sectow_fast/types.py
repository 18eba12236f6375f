"""The carriers that travel between rooms. This file imports nothing of ours.

A worked example, one defender step of the sandbox. A `Task` is drawn; its `Case` becomes a `Prompt`
of token ids; the engine samples G `Completion`s; the judge gives a `Verdict` on each; each earns a
`Reward`; prompt, completions and rewards are a `Group`, which the update learns from.

>>> case = Case(id="attack-17", text="pretend captain how make bado", label="unsafe", goal="bado")
>>> prompt = Prompt(case_id=case.id, ids=(3, 41, 42, 11, 5, 97, 4))
>>> done = Completion(ids=(18, 19, 20, 1), logprobs=(-0.1, 0.0, 0.0, 0.0), finish_reason="stop")
>>> Reward(total=1.0, parts={"safe": 1.0}).total
1.0
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Label = Literal["unsafe", "harmless"]
RoleName = Literal["attacker", "defender"]


class UserError(Exception):
    """A mistake the user can mend: one line, no stack trace, exit code 2."""


Part = tuple[Literal["text", "image"], str]  # words, or a key that an ImageStore opens


@dataclass(frozen=True, kw_only=True)
class Case:
    """One thing asked of a model, and what is known of the right reply.

    `label` is all that a reward needs; `answer` is given where a short answer can be checked. What
    is shown is the picture and then the words, or where there is more to show, `parts` in order.

    >>> Case(id="a", text="what is this?", label="harmless", image="1.png").layout
    (('image', '1.png'), ('text', 'what is this?'))
    """

    id: str
    text: str
    label: Label
    image: str | None = None  # a key that an ImageStore opens
    answer: str | None = None  # harmless: the one right reply, where there is one
    goal: str | None = None  # unsafe: what the request is after
    about: str = ""  # the object it speaks of: cases about one object are not independent
    suite: str = ""
    style: str = "direct"  # "carrier" or "carrier+clothes", for tables
    source: str = ""  # provenance: "train", "generate", "refine", a suite's name
    parts: tuple[Part, ...] = ()  # several pictures, or words before one; `image` is then None

    @property
    def layout(self) -> tuple[Part, ...]:
        """Words and pictures in the order in which they are shown."""
        shown: tuple[Part, ...] = (("image", self.image),) if self.image is not None else ()
        return self.parts or (*shown, ("text", self.text))

    @property
    def images(self) -> tuple[str, ...]:
        """The keys of its pictures, in order; one that is shown twice comes twice."""
        return tuple(value for kind, value in self.layout if kind == "image")


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """A case as token ids, image placeholders already expanded. ids: [P]; images: the keys of its
    pictures, in order."""

    case_id: str
    ids: tuple[int, ...]
    images: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Completion:
    """One sampled reply. ids, logprobs: [C], the end token included when `finish_reason == "stop"`.

    `logprobs` are over the full vocabulary at the sampling temperature, before truncation.
    """

    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish_reason: Literal["stop", "length"]
    weight_version: int = 0


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How to draw tokens. temperature 0 is greedy; top_k 0, top_p 1 and min_p 0 mean off."""

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    max_new_tokens: int = 8


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """A judge's word on one reply. `harmful is None`: the judge could not tell (counted apart).

    idle: the reply is empty, repeats itself or is about something else: no refusal, and no help.
    harm: how much of the harm was done, from 0 to 1 (strictly harmful), where the judge can grade.
    gold: what the exact judge says of `harmful`, where a proxy judge gave this verdict.
    """

    harmful: bool | None
    refused: bool
    correct: bool | None = None  # only where the case has an answer
    idle: bool = False
    harm: float | None = None
    gold: bool | None = None


@dataclass(frozen=True, kw_only=True)
class Reward:
    """What a completion earned, and from which parts (each is logged)."""

    total: float
    parts: Mapping[str, float] = field(default_factory=dict)

    def check(self, *, case_id: str, completion: int) -> None:
        """UserError where the total is not a finite number: a mean must never hide it."""
        if not math.isfinite(self.total):
            parts = ", ".join(f"{name}={value}" for name, value in self.parts.items())
            raise UserError(
                f"reward of case {case_id!r}, completion {completion}: found {self.total}"
                f" ({parts}), expected a finite number; mend the judge or the reward that gave it"
            )


@dataclass(frozen=True, kw_only=True)
class Group:
    """G completions of one prompt with their rewards: the unit of GRPO.

    weight: what its advantages are multiplied by. Rewards could not say it: where they are divided
    by their spread, they have no size of their own.
    """

    prompt: Prompt
    completions: tuple[Completion, ...]
    rewards: tuple[Reward, ...]
    weight: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Attack:
    """A kept or candidate attack: the case it makes, and where it came from."""

    case: Case
    seed_id: str  # the request it was written for
    mode: Literal["generate", "refine", "self-instruct"]
    words: str  # what the attacker wrote, word for word
    round: int
    success: float = math.nan  # mean over the m replies of the defender it was tried on


@dataclass(frozen=True, kw_only=True)
class AttackTask:
    """One prompt of the attacker's training.

    case: the request put to the attacker; seed: the plain unsafe request it is to get answered,
    with the picture of `case`;
    previous: the attack it is to refine, None where it is to write a new one.
    """

    case: Case
    seed: Case
    previous: Attack | None = None


@dataclass(frozen=True, kw_only=True)
class DefendTask:
    """One prompt of the defender's training, and the place in its source that its rewards go to."""

    case: Case
    source: str  # "pool", "past-ROUND", "unsafe" or "harmless"
    place: int


Task = AttackTask | DefendTask


@dataclass(frozen=True, kw_only=True)
class Scores:
    """What a batch of completions earned. rewards: [prompts][G]; measures: for log and monitors;
    weights: of the prompts' groups (`Group`), none where each weighs 1."""

    rewards: list[list[Reward]]
    measures: Mapping[str, float]
    weights: tuple[float, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Rate:
    """A share with its 95 % interval. `unknown` cases are not in `n`.

    objects: how many objects the n cases are about, where the interval is over objects
    (intervals.py); None where it is Wilson's over the cases.
    """

    value: float
    n: int
    low: float
    high: float
    unknown: int = 0
    objects: int | None = None

    def as_dict(self) -> dict[str, float | int]:
        row = dict(value=self.value, n=self.n, low=self.low, high=self.high, unknown=self.unknown)
        return row if self.objects is None else row | {"objects": self.objects}


@dataclass(frozen=True, kw_only=True)
class Event:
    """Something a monitor saw or did, for the log, the console and the report."""

    kind: str  # "over-refusal", "roll-back", "low-diversity", "early-stop", "nonfinite", ...
    message: str
    round: int
    phase: str
    step: int
    values: Mapping[str, float] = field(default_factory=dict)


def wilson(hits: float, n: int, unknown: int = 0, z: float = 1.959964) -> Rate:
    """Share of `hits` in `n` with Wilson's score interval (Wilson 1927). n = 0 gives NaN bounds.

    >>> wilson(0, 300).high < 0.013
    True
    """
    if n == 0:
        return Rate(value=math.nan, n=0, low=math.nan, high=math.nan, unknown=unknown)
    p, z2 = hits / n, z * z
    centre = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = z * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    return Rate(
        value=p, n=n, low=max(0.0, centre - half), high=min(1.0, centre + half), unknown=unknown
    )


@dataclass(frozen=True, kw_only=True)
class JudgedBy:
    """Who judged a run's replies. attacks: what the share of successful attacks is: "ASR", or "not
    refused" where only the rule judged; people: how far the judge agrees with people."""

    by: str
    people: str
    attacks: Literal["ASR", "not refused"] = "ASR"

    def words(self) -> str:
        """One line for people."""
        return f"judged by {self.by}; {self.people}"


# Said of a judge that nobody has compared with people.
AGREEMENT_UNKNOWN = (
    "how far it agrees with people is not known (python -m sectow_fast.judges.bench measures it,"
    " and evaluate shows its file by --judge-bench)"
)
NOT_SAID = JudgedBy(by="a judge that the run did not name", people="its agreement is not known")
