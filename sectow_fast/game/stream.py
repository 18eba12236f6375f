"""Attack -> reply -> verdict as a stream: a finished attack goes to the defender at once.

Only where attacker and defender have engines of their own that run beside this process; elsewhere
a step waits for its last attack before the first is tried.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from sectow_fast.game.player import Player
from sectow_fast.types import Case, Completion, Prompt, Sampling, Verdict, World

LOOKED_AT = 8  # open cases a turn: they end about in order, and a look at all would be quadratic


def can_stream(attacker: Player, defender: Player) -> bool:
    """Whether the two engines draw tokens at the same time."""
    beside = getattr(attacker.engine, "runs_beside", None)
    return beside is not None and beside(defender.engine)


@dataclass(frozen=True, kw_only=True)
class Relay:
    """An engine that calls `on_done(prompt number, sample number, completion)` for each sample.

    It does so while others are being drawn. What `on_done` raises stops the rest.
    """

    engine: Any
    on_done: Callable[[int, int, Completion], None]

    def generate(
        self,
        prompts: Sequence[Prompt],
        *,
        n: int,
        sampling: Sampling,
        seed: str,
        numbers: Sequence[int] | None = None,
    ) -> list[list[Completion]]:
        batch = self.engine.submit(prompts, n=n, sampling=sampling, seed=seed, numbers=numbers)
        out: list[list[Any]] = [[None] * n for _ in prompts]
        try:
            for i, j, done in batch.each():
                out[i][j] = done
                self.on_done(i, j, done)
        finally:
            batch.abort()
        return out

    def sync(self, model: Any) -> None:
        self.engine.sync(model)

    def sleep(self) -> None:
        self.engine.sleep()

    def wake(self) -> None:
        self.engine.wake()

    def close(self) -> None:
        self.engine.close()


@dataclass(kw_only=True)
class Trial:
    """Cases put to the defender one by one, judged as the replies come in."""

    world: World
    defender: Player
    sampling: Sampling
    replies: int
    verdicts: dict[Any, list[Verdict]] = field(default_factory=dict)
    _open: dict[Any, tuple[Case, Any]] = field(default_factory=dict)

    def put(self, key: Any, case: Case, *, seed: str) -> None:
        """Ask now; judge whatever has come back meanwhile."""
        batch = self.defender.engine.submit(
            self.defender.codec.encode([case]), n=self.replies, sampling=self.sampling, seed=seed
        )
        self.verdicts[key] = []
        self._open[key] = (case, batch)
        for other in list(itertools.islice(self._open, LOOKED_AT)):
            self._judge(other, wait=False)

    def finish(self) -> dict[Any, list[Verdict]]:
        """key -> verdicts, one a reply, once all are in."""
        for key in list(self._open):
            self._judge(key, wait=True)
        return self.verdicts

    def abort(self) -> None:
        for _, batch in self._open.values():
            batch.abort()
        self._open = {}

    def _judge(self, key: Any, *, wait: bool) -> None:
        case, batch = self._open[key]
        for _, _, done in batch.each(wait=wait):
            reply = self.defender.codec.decode(done.ids)
            self.verdicts[key].append(self.world.judge(case, reply))
        if len(self.verdicts[key]) == self.replies:
            del self._open[key]
