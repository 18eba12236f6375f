"""The league: every round's attacker against every round's defender, on held-out seeds.

A defender that only learnt to beat its last opponent shows here: an earlier attacker gets through.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from sectow_fast.config import Config
from sectow_fast.game.measures import volley_success, written_volley
from sectow_fast.game.player import Player
from sectow_fast.protocols import World
from sectow_fast.rounds import LeagueRecord

SELF_INSTRUCT = "self-instruct"
COLD = "cold start"


def round_name(k: int) -> str:
    """A player's name by the round that it learnt last.

    >>> round_name(0), round_name(2)
    ('cold start', 'round 2')
    """
    return f"round {k}" if k else COLD


def play_league(
    world: World,
    *,
    attackers: Mapping[str, Callable[[], Player]],
    defenders: Mapping[str, Callable[[], Player]],
    config: Config,
) -> LeagueRecord:
    """Success of each attacker on each defender, at temperature 1; self-instruct comes first.

    All attackers get the same `evaluate.league_cases` seeds, and each writes once: every defender
    is given the same attacks. A player is called for when its turn has come, so that one of each
    role is held at a time.
    """
    cases, seed = config.evaluate.league_cases, f"{config.seed}/league"
    made = {
        name: written_volley(
            world, None if call is None else call(), cases=cases, config=config, seed=seed
        )
        for name, call in {SELF_INSTRUCT: None, **attackers}.items()
    }
    columns = []
    for call in defenders.values():
        defender = call()
        columns.append(
            [volley_success(world, volley, defender, config=config) for volley in made.values()]
        )
    rates = {
        name: dict(zip(defenders, row, strict=True))
        for name, row in zip(made, zip(*columns, strict=True), strict=True)
    }
    return LeagueRecord(cases=cases, rates=rates)
