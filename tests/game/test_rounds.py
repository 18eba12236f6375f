"""Whole rounds of the tug-of-war by scripted players: what is played, taught, kept and measured."""

from __future__ import annotations

import json
from dataclasses import dataclass

import pytest
from scripted import GOALS, OneWeight, ScriptedEngine, request, small
from scripted_match import MemoryJournal, ScriptedCast, ScriptedStage

from sectow_fast.game.player import Player
from sectow_fast.game.schedule import schedule
from sectow_fast.match import Match
from sectow_fast.tug import PHASES, play
from sectow_fast.types import Attack


class Learnt:
    """A defender that falls for "win" until it has been trained: its weight is its experience."""

    def __init__(self, model, hardened=4):
        self.model, self.hardened = model, hardened

    def __call__(self, text, number, j):
        words = text.split()
        if words[0] == "question":
            return "fine"
        hardened = self.model.weight.item() >= self.hardened
        return "sorry" if hardened or words[0] not in ("win", "typo") else f"leak {words[1]}"


def writes(text, number, j):
    return f"{('win', 'weak', 'poor', 'other')[(number + j) % 4]} {text.split()[-1]}"


def match_of(**settings):
    stage = ScriptedStage()
    players = {}
    for name in ("attacker", "defender", "frozen"):
        model = OneWeight()
        reply = writes if name == "attacker" else Learnt(model)
        engine = ScriptedEngine(model, stage.codec, reply)
        players[name] = Player(model=model, engine=engine, codec=stage.codec)
    cast = ScriptedCast(**players)
    match = Match(config=small(**settings), stage=stage, cast=cast)
    return match, MemoryJournal(match)


def played(**settings):
    match, journal = match_of(**settings)
    play(match, journal)
    return match, journal


def test_a_run_plays_its_schedule_and_nothing_else():
    match, journal = played()
    plan = schedule(match.config)
    assert [(k, name) for k, name, _ in journal.phases] == plan
    assert set(PHASES) == {name for _, name in plan} | {"coldstart-refusals"}
    steps = {name: steps for _, name, steps in journal.phases}
    assert steps == {
        "coldstart-caption": 1,
        "coldstart-defender": 2,
        "coldstart-attacker": 3,
        "evaluate": 1,
        "attack": 3,
        "harvest": 1,
        "defend": 3,
    }
    assert match.cursor == len(plan)
    assert [(r.round, r.phase, r.step) for r in journal.steps if r.phase == "attack"] == [
        (k, "attack", step) for k in (1, 2) for step in range(3)
    ]


def test_each_phase_trains_the_player_it_is_about():
    match, _ = played()
    trained = [one.player is match.cast.attacker for one in match.cast.learners]
    # caption, defender, attacker; then attack and defend in each of two rounds
    assert trained == [False, False, True, True, False, True, False]
    assert [len(one.batches) for one in match.cast.learners] == [1, 2, 3, 3, 3, 3, 3]


def test_the_lessons_of_a_phase_are_its_own_and_in_batches_as_set():
    match, _ = played(rounds=0)
    decode = match.stage.codec.decode
    taught = [
        {decode(reply) for batch in one.batches for _, reply in batch}
        for one in match.cast.learners
    ]
    assert taught == [{"coldstart-caption"}, {"coldstart-defender"}, {"coldstart-attacker"}]
    assert all(len(batch) == 4 for one in match.cast.learners for batch in one.batches)


def test_lessons_of_two_steps_differ_and_are_drawn_from_the_seed():
    def lessons(**more):
        match, _ = played(rounds=0, coldstart__defender_steps=3, **more)
        return [[prompt.case_id for prompt, _ in batch] for batch in match.cast.learners[1].batches]

    first = lessons()
    assert first == lessons() and first != lessons(seed=1)
    assert len({tuple(batch) for batch in first}) == 3


def test_the_attacker_begins_as_the_defenders_twin():
    match, _ = played()
    assert match.cast.said == ["fork", "save round 0"]
    match, _ = played(ablate=("no-cold-start",))
    assert match.cast.said == ["fork", "save round 0"]  # forked just before round 0 is kept
    match, _ = played(model__attacker="x")
    assert match.cast.said == ["save round 0"]


def test_kept_attacks_go_into_the_pool_and_the_defender_trains_on_them():
    match, journal = played(
        rounds=1, defend__harmless_share=0.0, defend__pool_share=1.0, harvest__attacks=40
    )
    assert match.pool and {attack.round for attack in match.pool} == {1}
    assert journal.pools == [len(match.pool)]
    known = {attack.case.id for attack in match.pool}
    defended = match.cast.learners[-1].batches
    assert {group.prompt.case_id for batch in defended for group in batch} <= known
    assert match.rounds[1].harvest.kept == len(match.pool)


def test_the_pool_grows_round_by_round():
    match, journal = match_of(rounds=2, harvest__attacks=40, defend__steps=1)
    play(match, journal)
    assert journal.pools == sorted(journal.pools) and len(journal.pools) == 2
    assert {attack.round for attack in match.pool} == {1}  # in round 2 all were known already
    assert match.rounds[2].harvest.kept == 0
    assert match.rounds[2].harvest.dropped["duplicate"] > 0


def test_the_attacker_is_tried_on_its_opponent_and_on_the_defender_of_round_zero():
    match, _ = played(evaluate__attacker_cases=40)
    first = match.rounds[1].attacker_success
    names = {"self-instruct", "self-instruct-now", "trained", "trained-vs-round-0"}
    assert set(first) == names
    # The frozen defender never learns; the trained one is hardened by the end of round 1.
    last = match.rounds[2].attacker_success
    assert last["trained-vs-round-0"].value == first["trained-vs-round-0"].value > 0.1
    assert last["trained"].value == 0.0 < first["trained"].value
    assert set(match.rounds[0].attacker_success) == {"self-instruct"}


def test_every_round_is_measured_greedily_and_at_temperature_one():
    match, _ = played()
    assert [record.round for record in match.rounds] == [0, 1, 2]
    asr = [record.mean("asr").value for record in match.rounds]
    assert asr == [1.0, 0.0, 0.0]  # hardened by the defence of round 1
    calls = [c for c in match.cast.defender.engine.calls if c[3].startswith("0/evaluate")]
    assert [(c[2].temperature, c[3]) for c in calls] == [
        (t, f"0/evaluate/{k}") for k in range(3) for t in (0.0, 1.0)
    ]
    assert match.rounds[0].harvest is None and match.rounds[1].harvest is not None


def test_what_happened_in_a_round_stands_in_its_record_and_not_in_the_next():
    match, journal = played(monitor__window=1, monitor__diversity_min=1.0, monitor__patience=9)
    kinds = [[event.kind for event in record.events] for record in match.rounds]
    assert kinds == [[], ["low-quality"], ["low-quality"]]
    assert len(journal.events) == 2


def test_an_attack_phase_that_its_monitor_stops_ends_early():
    match, journal = played(monitor__window=1, monitor__diversity_min=1.0, monitor__patience=2)
    steps = [record.step for record in journal.steps if record.phase == "attack"]
    assert steps == [0, 1, 0, 1]
    assert [e.kind for e in match.rounds[1].events] == ["low-quality", "early-stop"]


def test_without_iteration_nothing_is_attacked_and_one_long_defence_is_played():
    match, journal = played(ablate=("no-iteration",))
    assert [name for _, name, _ in journal.phases] == [
        "coldstart-caption", "coldstart-defender", "evaluate", "defend", "evaluate"
    ]  # fmt: skip
    assert not match.pool and len(match.rounds) == 2
    assert sum(record.phase == "defend" for record in journal.steps) == 6


def test_a_self_instruct_attacker_fills_the_pool_and_is_never_trained_nor_measured():
    match, journal = played(attacker="self-instruct", harvest__attacks=30)
    assert all(one.player is match.cast.defender for one in match.cast.learners)
    assert set(match.rounds[1].attacker_success) == {"self-instruct", "self-instruct-now"}
    assert not any(record.phase == "attack" for record in journal.steps)


def test_the_sft_baseline_is_taught_to_refuse_what_was_kept():
    match, journal = played(defender="sft", rounds=1, harvest__attacks=40)
    steps = [record for record in journal.steps if record.phase == "defend"]
    assert len(steps) == 18  # as many sequences as GRPO rolls out, in batches of 4
    decode = match.stage.codec.decode
    taught = {decode(reply) for _, reply in match.cast.learners[-1].batches[0]}
    assert taught == {f"safe after {len(match.pool)}"} and match.pool
    assert max(match.cast.learners[-1].rates) == pytest.approx(3e-4)


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


# ---- queries


def test_a_rounds_queries_are_those_of_its_attack_phase_and_of_its_harvest():
    match, journal = played(harvest__attacks=20)
    for record in match.rounds[1:]:
        steps = [s for s in journal.steps if (s.round, s.phase) == (record.round, "attack")]
        assert record.queries["attack"] == sum(step.measures["queries"] for step in steps) == 48
        tried = sum(count.tried for count in record.harvest.styles.values())
        assert record.queries["harvest"] == tried * 2
    assert match.rounds[0].queries == {} and match.rounds[1].queries["harvest"] > 0


@pytest.mark.parametrize("attacker", ["grpo", "self-instruct"])
def test_every_attacker_stays_within_the_rounds_budget(attacker):
    settings = {"query_budget": 44, "attack__query_share": 0.75, "harvest__attacks": 500}
    match, journal = played(attacker=attacker, rounds=1, **settings)
    queries = match.rounds[1].queries
    trained = attacker == "grpo"
    assert queries.get("attack") == (32 if trained else None)  # two steps, as 48 is over 33
    assert queries["harvest"] == sum(c.tried for c in match.rounds[1].harvest.styles.values()) * 2
    assert sum(queries.values()) <= 44
    kinds = [event.kind for event in match.rounds[1].events]
    assert kinds == (["budget"] if trained else []) + ["harvest"] * (sum(queries.values()) < 43)
    assert kinds == [event.kind for event in journal.events]


def test_without_an_attack_phase_the_whole_budget_is_the_harvests():
    settings = {"attacker": "self-instruct", "rounds": 1, "harvest__attacks": 200}
    match, _ = played(query_budget=6, **settings)
    assert match.rounds[1].queries == {"harvest": 6}


def test_a_match_knows_the_phase_that_is_under_way():
    match, journal = match_of(rounds=1)
    seen = []
    while match.phase is not None:
        k, name = schedule(match.config)[match.cursor]
        seen.append(match.phase)
        PHASES[name](match, journal, k)
        journal.next_phase()
    assert seen == [name for _, name in schedule(match.config)]


def test_what_a_harvest_could_not_reach_is_an_event_of_its_round():
    match, journal = played(rounds=1, harvest__attacks=6, harvest__kept=50, attack__steps=0)
    (event,) = match.rounds[1].events
    assert (event.kind, event.round, event.phase, event.step) == ("harvest", 1, "harvest", 0)
    assert event.message.endswith("of 50 wanted: all 6 attacks were written")
    assert journal.events == [event]


def test_the_defender_trains_against_the_attackers_of_every_round():
    settings = {"defend__past_share": 0.5, "defend__pool_share": 1.0, "defend__prompts": 40}
    match, journal = match_of(rounds=2, harvest__attacks=40, defend__harmless_share=0.0, **settings)
    match.pool = [
        Attack(case=request("bado", case_id="old"), seed_id="s", mode="refine", words="w", round=1)
    ]
    match.cursor = schedule(match.config).index((2, "harvest"))
    play(match, journal)
    asked = [g.prompt.case_id for b in match.cast.learners[-1].batches for g in b]
    assert 0.3 < asked.count("old") / len(asked) < 0.7


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
