"""One judge for several ranks: the first rank makes and asks it, and tells the others."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, TypeVar

from sectow_fast.judges.base import Judge, Judgement, JudgeRequest

T = TypeVar("T")


class Told(Protocol):
    """What the first rank makes, on every rank (`Ranks.told` of learn/ranks.py)."""

    def __call__(self, make: Callable[[], T]) -> T: ...


class SharedJudge:
    """A `Judge`. Each rank must ask the same at the same time; `make` is called on the first alone.

    An endpoint may answer each rank otherwise. Rewards would differ then, and with them what each
    rank trains on, and the ranks would wait for each other without end.
    """

    def __init__(self, make: Callable[[], Judge], told: Told) -> None:
        self._made: list[Judge] = []  # empty on every other rank
        self._told = told

        def identity() -> str:
            self._made.append(make())
            return self._made[0].id

        self.id = told(identity)

    def judge(self, requests: Sequence[JudgeRequest]) -> Iterator[tuple[int, Judgement]]:
        """See `Judge`."""
        yield from self._told(lambda: list(self._made[0].judge(requests)))
