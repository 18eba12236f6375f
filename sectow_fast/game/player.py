"""A player: a model with the engine that samples from it. Case in, words and verdict out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sectow_fast.engine.protocol import Engine
from sectow_fast.types import Case, Completion, Sampling, Verdict, World


@dataclass(frozen=True, kw_only=True)
class Player:
    """`engine` samples from `model`; `codec` turns cases into token ids and back; `policy` is the
    model as training calls it (learn/policy.py), None where it is never trained."""

    model: Any
    engine: Engine
    codec: Any
    policy: Any = None

    def complete(
        self, cases: Sequence[Case], *, n: int, sampling: Sampling, seed: str
    ) -> list[list[Completion]]:
        """n completions of each case."""
        if not cases:
            return []
        return self.engine.generate(self.codec.encode(cases), n=n, sampling=sampling, seed=seed)

    def words(self, completion: Completion) -> str | None:
        """What was written; None where the reply was cut at the length limit."""
        return self.codec.decode(completion.ids) if completion.finish_reason == "stop" else None


def judge_all(world: World, pairs: Sequence[tuple[Case, str]]) -> list[Verdict]:
    """Verdicts in order; a world with `judge_many` (a judge elsewhere) gets all at once."""
    many = getattr(world, "judge_many", None)
    return many(pairs) if many else [world.judge(case, reply) for case, reply in pairs]


def judged_replies(
    world: World,
    player: Player,
    cases: Sequence[Case],
    *,
    n: int,
    sampling: Sampling,
    seed: str,
) -> list[list[Verdict]]:
    """Ask `player` each case n times and judge every reply (a cut reply is judged as it stands)."""
    groups = player.complete(cases, n=n, sampling=sampling, seed=seed)
    pairs = [
        (case, player.codec.decode(one.ids))
        for case, group in zip(cases, groups, strict=True)
        for one in group
    ]
    flat = iter(judge_all(world, pairs))
    return [[next(flat) for _ in group] for group in groups]
