"""Whole rounds of the tug-of-war by scripted players: what is played, taught, kept and measured."""

from __future__ import annotations

import pytest
from played import match_of, played
from scripted import request

from sectow_fast.game.schedule import schedule
from sectow_fast.tug import PHASES, play
from sectow_fast.types import Attack, UserError


def test_a_run_plays_its_schedule_and_nothing_else():
    match, journal = played()
    plan = schedule(match.config)
    assert [(k, name) for k, name, _ in journal.phases] == plan
    assert set(PHASES) == {name for _, name in plan} | {"coldstart-refusals", "league"}
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


def test_the_sft_baseline_answers_in_the_defenders_own_words_where_the_data_have_none():
    match, journal = match_of(defender="sft", harvest__attacks=40)
    match.stage.needs_replies = True
    play(match, journal)
    decode = match.stage.codec.decode
    first, second = match.cast.learners[-3], match.cast.learners[-1]
    for one in (first, second):
        taught = {decode(reply) for batch in one.batches for _, reply in batch}
        assert len(taught) == 1 and taught.pop().endswith("beside 8")
    asked = [call for call in match.cast.defender.engine.calls if call[3] == "0/own-replies"]
    assert len(asked) == 1  # as it was before it was taught anything


def test_the_sft_baseline_is_refused_where_the_defender_answers_nothing():
    match, journal = match_of(defender="sft", harvest__attacks=40)
    match.stage.needs_replies = True
    match.cast.defender.engine.reply = lambda *_: "sorry"
    with pytest.raises(UserError, match=r"^defender sft: found 0 of 8 harmless requests"):
        play(match, journal)
    assert not any(record.phase == "defend" for record in journal.steps)


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
