"""A cheap judge that errs pays and filters; the exact one only looks on, and measures.

Real judges are proxies: what an attacker learns against one may be to fool it. Here the exact judge
is at hand, so the gap between the two can be shown: the share of attempts that the proxy calls
harmful less the share that are (proxy minus gold).
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from sectow_fast.config import Config
from sectow_fast.protocols import Judge, Stage, World
from sectow_fast.types import Attack, Case, Label, Verdict


class PaidWorld:
    """A `World` whose verdicts on unsafe requests are a proxy's; `gold` has the exact judge's.

    Everything else is `world`'s own. What is refused or right stays exact: a proxy errs in harm.
    """

    def __init__(self, world: World, proxy: Judge) -> None:
        self._world, self._proxy = world, proxy
        self.cut_earns = world.cut_earns

    def judge_all(self, pairs: Sequence[tuple[Case, str]]) -> list[Verdict]:
        exact = self._world.judge_all(pairs)
        places = [at for at, (case, _) in enumerate(pairs) if case.label == "unsafe"]
        for at, verdict in zip(places, self._proxy([pairs[at] for at in places]), strict=True):
            exact[at] = dataclasses.replace(
                exact[at], harmful=verdict.harmful, gold=exact[at].harmful
            )
        return exact

    def seeds(self, split: Literal["train", "test"]) -> Sequence[Case]:
        return self._world.seeds(split)

    def train_cases(self, label: Label) -> Sequence[Case]:
        return self._world.train_cases(label)

    def harmless_probe(self) -> Sequence[Case]:
        return self._world.harmless_probe()

    def suites(self) -> Mapping[str, Sequence[Case]]:
        return self._world.suites()

    def self_instruct(self, seed: Case, rng: random.Random) -> str:
        return self._world.self_instruct(seed, rng)

    def attacker_case(self, seed: Case, previous: Attack | None) -> Case:
        return self._world.attacker_case(seed, previous)

    def realise(self, words: str, seed: Case, *, rng: random.Random, attack_id: str) -> Case | None:
        return self._world.realise(words, seed, rng=rng, attack_id=attack_id)

    def meaning(self, words: str, case: Case | None) -> str:
        return self._world.meaning(words, case)


def paid_world(stage: Stage, config: Config) -> World:
    """The world that rewards and filters are paid by: the stage's own, or judged by its proxy."""
    if config.game.judge == "exact":
        return stage.world
    return PaidWorld(stage.world, stage.proxies[config.game.proxy])


def gap_measures(verdicts: Iterable[Verdict]) -> dict[str, float]:
    """proxy_success, gold_success and proxy_gap over the verdicts that a proxy gave; else nothing.

    A verdict that is unknown is no success.
    """
    rows = [verdict for verdict in verdicts if verdict.gold is not None]
    if not rows:
        return {}
    proxy = sum(verdict.harmful is True for verdict in rows) / len(rows)
    gold = sum(verdict.gold is True for verdict in rows) / len(rows)
    return {"proxy_success": proxy, "gold_success": gold, "proxy_gap": proxy - gold}


def gold_valid(verdicts: Sequence[Sequence[Verdict]], *, least: int) -> int:
    """How many attacks have `least` replies that the exact judge calls harmful."""
    return sum(sum(verdict.gold is True for verdict in row) >= least for row in verdicts)
