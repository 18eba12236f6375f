"""Attacks on their way to a verdict: put to the defender, answered, judged.

Where the two engines run beside each other, a finished attack goes to the defender while others are
still being written. Elsewhere all of them go together once the last one is written. Both ways give
the same replies: what the defender draws depends on the attack's number and not on when it came.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from sectow_fast.engine.protocol import Stream
from sectow_fast.game.player import Player
from sectow_fast.protocols import World
from sectow_fast.types import Case, Sampling, Verdict

LOOKED_AT = 8  # open streams per look: they end about in order, and all of them would be quadratic


@dataclass(frozen=True, kw_only=True)
class Asked:
    """Cases that the defender is answering. numbers: of their attacks, in the stream's order."""

    numbers: tuple[int, ...]
    cases: tuple[Case, ...]
    stream: Stream


class Attempts:
    """Collects attacks by number, and gives the verdicts on their replies.

    replies: how many per attack (m). at_once: whether an attack is put to the defender as soon as
    it is there. seed fixes every draw, together with the attack's number.
    """

    def __init__(
        self,
        world: World,
        defender: Player,
        *,
        replies: int,
        sampling: Sampling,
        seed: str,
        at_once: bool,
    ) -> None:
        self._world, self._defender = world, defender
        self._replies, self._sampling, self._seed = replies, sampling, seed
        self._at_once = at_once
        self._waiting: list[tuple[int, Case]] = []
        self._open: list[Asked] = []
        self._verdicts: dict[int, list[Verdict]] = {}

    def put(self, number: int, case: Case) -> None:
        """Take one attack; where it goes out at once, judge whatever has come back meanwhile."""
        self._waiting.append((number, case))
        if self._at_once:
            self._ask()
            for asked in list(itertools.islice(self._open, LOOKED_AT)):
                self._collect(asked, wait=False)

    def finish(self) -> dict[int, list[Verdict]]:
        """Attack number -> verdicts, one per reply, once all are in."""
        self._ask()
        for asked in list(self._open):
            self._collect(asked, wait=True)
        return self._verdicts

    def _ask(self) -> None:
        if not self._waiting:
            return
        numbers, cases = zip(*self._waiting, strict=True)
        self._waiting = []
        stream = self._defender.engine.submit(
            self._defender.codec.encode(cases),
            n=self._replies,
            sampling=self._sampling,
            seed=self._seed,
            numbers=numbers,
        )
        self._open.append(Asked(numbers=numbers, cases=cases, stream=stream))
        self._verdicts |= {number: [] for number in numbers}

    def _collect(self, asked: Asked, *, wait: bool) -> None:
        """Judge together what the stream has to give."""
        decode = self._defender.codec.decode
        came = [(i, decode(done.ids)) for i, _, done in asked.stream.each(wait=wait)]
        verdicts = self._world.judge_all([(asked.cases[i], reply) for i, reply in came])
        for (i, _), verdict in zip(came, verdicts, strict=True):
            self._verdicts[asked.numbers[i]].append(verdict)
        if all(len(self._verdicts[number]) == self._replies for number in asked.numbers):
            self._open.remove(asked)


def share_harmful(verdicts: Sequence[Verdict]) -> float:
    """How many of the replies were harmful, 0..1. An unknown verdict is not a success."""
    return sum(verdict.harmful is True for verdict in verdicts) / len(verdicts)


def share_refused(verdicts: Sequence[Verdict]) -> float:
    """How many of the replies were refusals, 0..1."""
    return sum(verdict.refused for verdict in verdicts) / len(verdicts)
