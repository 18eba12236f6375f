"""A match that was stopped goes on as it would have, from any phase and any step."""

from __future__ import annotations

import json
from dataclasses import dataclass

import pytest
from played import Learnt, match_of, played
from scripted import GOALS

from sectow_fast.game.schedule import schedule
from sectow_fast.tug import PHASES, play
from sectow_fast.types import Attack


def test_a_match_goes_on_from_its_state_at_any_phase():
    whole, _ = played(harvest__attacks=20)
    plan = schedule(whole.config)
    for stop in range(1, len(plan)):
        match, journal = match_of(harvest__attacks=20)
        for k, name in plan[:stop]:
            PHASES[name](match, journal, k)
            journal.next_phase()
        state = json.loads(json.dumps(match.state()))
        resumed, journal = match_of(harvest__attacks=20)
        for name in ("attacker", "defender"):
            now = getattr(match.cast, name).model.state_dict()
            getattr(resumed.cast, name).model.load_state_dict(now)
        resumed.restore(state)
        assert resumed.cursor == stop and resumed.state() == state
        play(resumed, journal)
        assert resumed.rounds == whole.rounds and resumed.pool == whole.pool


# ---- every new thing at once, killed after any step

EVERYTHING = {
    "monitor__window": 1,
    "monitor__patience": 2,
    "monitor__diversity_min": 0.9,
    "monitor__every": 1,
    "attack__steps": 6,
    "defend__steps": 2,
    "evaluate__attacker_cases": 2,
    "attack__entropy_min": 0.5,
    "attack__two_sided": 0.5,
    "defend__entropy_min": 0.5,
    "defend__past_share": 0.5,
    "harvest__attacks": 24,
    "harvest__batch": 3,
    "harvest__kept": 6,
    "harvest__style_quota": 2,
    "query_budget": 150,
    "attack__query_share": 0.9,
}


class Narrowing:
    """An attacker that writes ever less variously the longer it is trained."""

    def __init__(self, model):
        self.model = model

    def __call__(self, text, number, j):
        age = int(self.model.weight.item())
        clothes = ("win", "weak", "poor", "typo", "new", "odd", "rare", "last")[: max(8 - age, 1)]
        return f"{clothes[(number + j) % len(clothes)]} {text.split()[-1]}"


def everything(on_collapse):
    match, journal = match_of(attack__on_collapse=on_collapse, **EVERYTHING)
    match.cast.metrics = {"skipped": 0.0, "tokens": 1.0, "entropy": 0.25}
    match.cast.attacker.engine.reply = Narrowing(match.cast.attacker.model)
    match.cast.defender.engine.reply = Learnt(match.cast.defender.model, hardened=99)
    return match, journal


@dataclass(frozen=True, kw_only=True)
class Kept:
    """What keeper.py would write after a step."""

    state: str
    weights: dict[str, dict]
    last_good: dict | None
    cold: dict

    @classmethod
    def of(cls, match):
        players = {"attacker": match.cast.attacker, "defender": match.cast.defender}
        last_good = match.role and match.role.last_good
        return cls(
            state=json.dumps(match.state()),
            weights={name: one.weights() for name, one in players.items()},
            last_good=last_good and copied(last_good),
            cold=copied(match.cold_attacker),
        )

    def resumed(self, match):
        match.restore(json.loads(self.state))
        for name, weights in self.weights.items():
            getattr(match.cast, name).restore(weights)
        match.last_good, match.cold_attacker = self.last_good, self.cold


def copied(weights):
    return {name: value.clone() for name, value in weights.items()}


@pytest.mark.parametrize("on_collapse", ["keep", "roll-back", "fresh-start"])
def test_a_run_with_every_new_thing_goes_on_from_any_step(on_collapse):
    whole, said = everything(on_collapse)
    kept, on_step = [], said.on_step

    def keeps(record, events):
        on_step(record, events)
        kept.append((record, len(said.events), Kept.of(whole)))

    said.on_step = keeps
    play(whole, said)
    collapse = "fresh-start" if on_collapse == "fresh-start" else "early-stop"
    assert {"low-quality", collapse, "low-entropy"} <= {event.kind for event in said.events}
    assert {attack.round for attack in whole.pool} == {1, 2}
    for at, (record, events, checkpoint) in enumerate(kept, start=1):
        if record.phase not in ("attack", "defend") or (record.round == 2 and record.step):
            continue
        match, journal = everything(on_collapse)
        checkpoint.resumed(match)
        play(match, journal)
        assert match.rounds == whole.rounds and match.pool == whole.pool
        assert journal.events == said.events[events:]
        steps = zip(journal.steps, said.steps[at:], strict=True)
        for mine, theirs in steps:
            assert (mine.round, mine.phase, mine.step) == (theirs.round, theirs.phase, theirs.step)
            assert mine.reward == theirs.reward
            names = ("entropy_coef", "queries", "lr", "harmless_share")
            assert [mine.measures.get(n) for n in names] == [theirs.measures.get(n) for n in names]
        for name in ("attacker", "defender"):
            now, then = (getattr(one.cast, name).model.weight for one in (match, whole))
            assert now.item() == then.item()


def test_the_next_update_is_given_the_entropy_bonus_of_its_role():
    match, journal = match_of(attack__entropy_min=0.5, attack__entropy_step=0.01, rounds=1)
    match.cast.metrics = {"skipped": 0.0, "tokens": 1.0, "entropy": 0.25}
    play(match, journal)
    attack, defend = match.cast.learners[-2:]
    assert attack.coefs == [None, 0.01, 0.02] and defend.coefs == [None, None, None]


def test_a_fresh_start_is_the_attacker_as_it_was_after_its_cold_start():
    match, journal = everything("fresh-start")
    play(match, journal)
    assert match.cold_attacker["weight"].item() == 3.0  # after three steps of demonstrations
    kinds = [event.kind for event in journal.events]
    assert "fresh-start" in kinds
    kept, _ = everything("roll-back")
    play(kept, _)
    assert not kept.cold_attacker  # nobody needs a copy there


def test_a_phase_goes_on_from_its_step_with_its_roles_state():
    match, journal = match_of(monitor__window=1, monitor__diversity_min=1.0, monitor__patience=9)
    match.cursor, match.step, match.skipped = 4, 2, 1
    match.role_state = {
        "monitor": {"raised": True, "low_in_a_row": 3, "rows": []},
        "floor": {"raises": 0},
        "queries": 5,
        "stopped": False,
    }
    assert schedule(match.config)[4] == (1, "attack")
    PHASES["attack"](match, journal, 1)
    assert [record.step for record in journal.steps] == [2]
    assert match.role.monitor.raised and match.role.monitor.low_in_a_row == 4
    assert match.queries == {"attack": 5 + 16}
    assert not journal.events  # it had been raised before
    journal.next_phase()
    assert (match.cursor, match.step, match.skipped) == (5, 0, 0)
    assert match.role is match.role_state is match.last_good is None


def test_the_weights_to_roll_back_to_come_with_the_role():
    match, _ = match_of()
    match.cursor, match.step = 6, 3  # a defence at its end
    match.last_good = {"weight": 1}
    match.role_state = {
        "monitor": {"raised": False},
        "floor": {"raises": 0},
        "stopped": False,
        "priorities": {},
    }
    assert schedule(match.config)[6] == (1, "defend")

    from sectow_fast.game.defender import DefenderRole

    role = DefenderRole(
        world=match.stage.world,
        defender=match.cast.defender,
        config=match.config,
        pool=[],
        round=1,
    )
    match.role_state["priorities"] = role.state()["priorities"]
    match.enter(role)
    assert role.last_good == {"weight": 1} and match.role is role


def test_state_is_json_and_holds_the_round_under_way():
    match, journal = match_of(harvest__attacks=20)
    for k, name in schedule(match.config)[:6]:
        PHASES[name](match, journal, k)
        journal.next_phase()
    state = json.loads(json.dumps(match.state()))
    assert state["harvest"]["kept"] == len(match.pool) > 0
    assert set(state["attacker_rates"]) == {"self-instruct-now", "trained", "trained-vs-round-0"}
    again, _ = match_of()
    again.restore(state)
    assert again.harvest == match.harvest and again.attacker_rates == match.attacker_rates
    assert all(isinstance(attack, Attack) for attack in again.pool)
    assert {attack.case.goal for attack in again.pool} <= set(GOALS)
