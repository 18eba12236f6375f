"""A finished attack goes to the defender while others are still being written."""

from __future__ import annotations

import pytest

from sectow_fast.game.stream import Relay, Trial, can_stream
from sectow_fast.types import Sampling


def test_attacks_are_tried_while_others_are_written(players, stage):
    attacker, defender = players["attacker"], players["defender"]
    assert can_stream(attacker, defender) and not can_stream(attacker, attacker)
    seeds = stage.world.seeds("train")[:8]
    trial = Trial(
        world=stage.world, defender=defender, sampling=Sampling(max_new_tokens=4), replies=2
    )
    for player in players.values():
        player.engine.sync(player.model)
        player.engine.wake()  # both are up: what is seen below is not a start
    still_open, judged = [], []

    def try_one(i, j, done):
        trial.put((i, j), seeds[i], seed=f"{i}/{j}")
        still_open.append(attacker.engine.server.open_requests)
        judged.append(sum(len(row) for row in trial.verdicts.values()))

    relay = Relay(engine=attacker.engine, on_done=try_one)
    prompts = stage.codec.encode(seeds)
    groups = relay.generate(prompts, n=8, sampling=Sampling(max_new_tokens=100), seed="s")
    assert [len(group) for group in groups] == [8] * 8
    verdicts = trial.finish()
    assert sorted(verdicts) == [(i, j) for i in range(8) for j in range(8)]
    assert {len(row) for row in verdicts.values()} == {2}
    assert still_open[0] > 0  # the first case went out before the last attack was there
    assert any(verdict > 0 for verdict in judged[:-1])


def test_what_fails_in_between_stops_the_rest(players, stage):
    attacker = players["attacker"]

    def fail(i, j, done):
        raise ValueError("a judge that fails")

    attacker.engine.sync(attacker.model)
    relay = Relay(engine=attacker.engine, on_done=fail)
    prompts = stage.codec.encode(stage.world.seeds("train")[:8])
    with pytest.raises(ValueError, match="a judge that fails"):
        relay.generate(prompts, n=8, sampling=Sampling(max_new_tokens=100), seed="t")
    assert attacker.engine.server.open_requests == 0
