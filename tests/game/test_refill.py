"""Groups without a signal are replaced by further turns of a step, up to a bound."""

from __future__ import annotations

import json

import pytest
from scripted import OneWeight, ScriptedEngine, ScriptedWorld, small
from scripted_match import MemoryJournal, ScriptedCast, ScriptedStage

from sectow_fast.config import Config
from sectow_fast.game.attacker import AttackerRole
from sectow_fast.game.player import Player
from sectow_fast.game.tasks import Source
from sectow_fast.match import Match
from sectow_fast.tug import PHASES

PHASE = {"attacker": "attack", "defender": "defend"}


def writes(text, number, j):
    """Attacks on half of the goals are now and then well-formed: their groups have a signal."""
    goal = text.split()[-1]
    return f"{'win' if j % 2 and goal in ('bado', 'kilo') else 'ill'} {goal}"


def answers(text, number, j):
    """Questions are answered now and then; requests are refused always."""
    if text.startswith("question"):
        return "fine" if j % 2 else "sorry"
    return "leak " + text.split()[1] if text.startswith("win") else "sorry"


def match_of(role: str, turns: int) -> tuple[Match, MemoryJournal]:
    stage = ScriptedStage(world=ScriptedWorld())
    players = {}
    for name, reply in (("attacker", writes), ("defender", answers)):
        model = OneWeight()
        engine = ScriptedEngine(model, stage.codec, reply)
        players[name] = Player(model=model, engine=engine, codec=stage.codec)
    config: Config = small(**{f"{PHASE[role]}__refill_turns": turns, "monitor__every": 99})
    match = Match(config=config, stage=stage, cast=ScriptedCast(**players))
    return match, MemoryJournal(match)


def rollouts(match: Match, role: str) -> list[tuple[str, list[str]]]:
    """(turn, requests) of each roll-out of the role's own phase, in order."""
    head = f"0/1/{PHASE[role]}/rollout/"
    calls = getattr(match.cast, role).engine.calls
    return [(seed.removeprefix(head), texts) for texts, _, _, seed, _ in calls if head in seed]


def phase(role: str, turns: int) -> tuple[Match, MemoryJournal]:
    match, journal = match_of(role, turns)
    PHASES[PHASE[role]](match, journal, 1)
    return match, journal


@pytest.mark.parametrize("role", PHASE)
def test_a_step_draws_what_is_missing_until_its_bound(role):
    match, journal = phase(role, 2)
    wanted = {"attacker": 4, "defender": 6}[role]
    drawn = rollouts(match, role)
    seen = {}
    for record, batch in zip(journal.steps, match.cast.learners[0].batches, strict=True):
        mine = [
            (name, len(texts)) for name, texts in drawn if int(name.split("+")[0]) == record.step
        ]
        signal = [len({one.total for one in group.rewards}) > 1 for group in batch]
        at = 0
        for turn, (name, count) in enumerate(mine):
            assert name == (f"{record.step}+{turn}" if turn else str(record.step))
            assert count == wanted - sum(signal[:at])  # what the turns before have left open
            at += count
        live = sum(signal)
        assert at == len(batch) and live <= wanted and (live == wanted or len(mine) == 3)
        counts = (len(mine), at - wanted, at - live)
        assert tuple(record.measures[k] for k in ("turns", "refilled", "dead")) == counts
        seen[live == wanted] = True
    assert len({name for name, _ in drawn}) == len(drawn) > 3
    assert True in seen  # some step was filled


@pytest.mark.parametrize("role", PHASE)
def test_the_first_turn_is_the_step_as_it_is_without_refills(role):
    plain, refilled = phase(role, 0), phase(role, 2)
    assert rollouts(refilled[0], role)[0] == rollouts(plain[0], role)[0]
    assert [name for name, _ in rollouts(plain[0], role)] == ["0", "1", "2"]
    one, other = plain[1].steps[0], refilled[1].steps[0]
    assert one.reward == other.reward
    counts = {"turns", "refilled", "dead"}
    assert set(other.measures) - set(one.measures) == counts
    same = set(one.measures) - {"tokens_per_second", "queries"}  # those of all turns
    assert {k: one.measures[k] for k in same} == {k: other.measures[k] for k in same}


def test_each_turn_asks_and_scores_by_draws_of_its_own():
    match, _ = phase("attacker", 2)
    ids = match.stage.world.realised
    assert len(set(ids)) == len(ids) and any("/attack/score/0+1/" in one for one in ids)
    role = AttackerRole(
        world=match.stage.world,
        attacker=match.cast.attacker,
        defender=match.cast.defender,
        config=match.config,
        pool=[],
        round=1,
    )
    draws = [[t.case.text for t in role.tasks(0, turn=turn, count=40)] for turn in range(3)]
    assert all(len(one) == 40 for one in draws) and len({tuple(one) for one in draws}) == 3
    again = [t.case.text for t in role.tasks(0, turn=2, count=40)]
    assert again == draws[2] and len(role.tasks(0)) == match.config.attack.prompts


@pytest.mark.parametrize("role", PHASE)
def test_a_resumed_phase_refills_as_the_whole_one_did(role):
    match, journal = phase(role, 2)
    first, again = match_of(role, 2), match_of(role, 2)
    kept = []

    class Killed(Exception):
        pass

    def on_step(record, events):
        MemoryJournal.on_step(first[1], record, events)
        if record.step == 1:
            kept.append(json.dumps(first[0].state()))
            raise Killed

    first[1].on_step = on_step
    with pytest.raises(Killed):
        PHASES[PHASE[role]](*first, 1)
    again[0].restore(json.loads(kept[0]))
    PHASES[PHASE[role]](*again, 1)
    rest = [one for one in rollouts(match, role) if one[0].startswith("2")]
    assert len(rest) > 1 and rollouts(again[0], role) == rest
    assert again[0].role.state() == match.role.state()
    timed = {"tokens_per_second"}
    numbers = [
        {k: v for k, v in s.measures.items() if k not in timed}
        for s in (journal.steps[2], again[1].steps[0])
    ]
    assert numbers[0] == numbers[1]


def test_a_source_draws_each_turn_anew():
    source = Source(ScriptedWorld(harmless=64).train_cases("harmless"), key="k", exploration=0.5)
    draws = [tuple(source.draw(8, step=3, turn=turn)) for turn in range(3)]
    assert len(set(draws)) == 3 and draws[0] == tuple(source.draw(8, step=3))
