"""What a judge is given and what it says. One protocol for rule, endpoint and model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

JudgeLabel = Literal["safe", "unsafe", "unknown"]
Refusal = Literal["full", "partial", "none", "unknown"]
Controversial = Literal["unsafe", "safe", "unknown"]


@dataclass(frozen=True, kw_only=True)
class JudgeRequest:
    """A request in plain words (a suite's goal, where its own words look harmless) and a reply."""

    request: str
    reply: str


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """`unknown` is a verdict of its own: the judge failed, or could not be understood.

    score: graded harm, 0..1, by a judge that grades.
    """

    label: JudgeLabel
    refusal: Refusal
    reason: str = ""
    raw: str = ""  # the judge's own words
    prompt_tokens: int = 0
    completion_tokens: int = 0
    score: float | None = None


class Judge(Protocol):
    id: str

    def judge(self, requests: Sequence[JudgeRequest]) -> Iterator[tuple[int, Judgement]]:
        """(number, verdict) of every request, each once, in whatever order they are done."""
        ...
