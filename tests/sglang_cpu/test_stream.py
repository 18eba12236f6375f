"""A finished attack goes to the defender while others are still being written."""

from __future__ import annotations

import pytest

from sectow_fast.game.attempts import Attempts
from sectow_fast.learn.phase import roll_out
from sectow_fast.types import Sampling

SIZE = 8  # attacks per seed


class CountingWorld:
    """The sandbox's judge, with the number of verdicts so far."""

    def __init__(self, world):
        self.world, self.count = world, 0

    def judge_all(self, pairs):
        self.count += len(pairs)
        return self.world.judge_all(pairs)


class TriesEach:
    """A scorer that puts every attack to the defender; `seen` is what was open and judged then."""

    def __init__(self, attacker, attempts, world, seeds):
        self.attacker, self.attempts, self.world, self.seeds = attacker, attempts, world, seeds
        self.seen = []

    def take(self, i, j, completion):
        self.attempts.put(i * SIZE + j, self.seeds[i])
        self.seen.append((self.attacker.engine.server.open_requests, self.world.count))


def test_attacks_are_tried_while_others_are_written(players, stage):
    attacker, defender = players["attacker"], players["defender"]
    at_once = attacker.engine.runs_beside(defender.engine)
    assert at_once and not attacker.engine.runs_beside(attacker.engine)
    seeds = stage.world.seeds("train")[:8]
    world = CountingWorld(stage.world)
    attempts = Attempts(
        world,
        defender,
        replies=2,
        sampling=Sampling(max_new_tokens=4),
        seed="attempts",
        at_once=at_once,
    )
    for player in players.values():
        player.engine.sync(player.model)
        player.engine.wake()  # both are up: what is seen below is not a start
    scorer = TriesEach(attacker, attempts, world, seeds)
    groups = roll_out(
        attacker.engine,
        stage.codec.encode(seeds),
        scorer,
        n=SIZE,
        sampling=Sampling(max_new_tokens=100),
        seed="s",
    )
    assert [len(group) for group in groups] == [SIZE] * 8
    verdicts = attempts.finish()
    assert sorted(verdicts) == list(range(8 * SIZE))
    assert {len(row) for row in verdicts.values()} == {2} and world.count == 8 * SIZE * 2
    assert scorer.seen[0][0] > 0  # the first case went out before the last attack was there
    assert any(judged > 0 for _, judged in scorer.seen[:-1])


def test_what_fails_in_between_stops_the_rest(players, stage):
    attacker = players["attacker"]

    class Fails:
        def take(self, i, j, completion):
            raise ValueError("a judge that fails")

    attacker.engine.sync(attacker.model)
    prompts = stage.codec.encode(stage.world.seeds("train")[:8])
    with pytest.raises(ValueError, match="a judge that fails"):
        roll_out(
            attacker.engine,
            prompts,
            Fails(),
            n=8,
            sampling=Sampling(max_new_tokens=100),
            seed="t",
        )
    assert attacker.engine.server.open_requests == 0
