"""What each phase hands on: seeds, settings, rounds, and what a resumed run had behind it."""

from __future__ import annotations

import json
import random

import pytest
from played import match_of, played

from sectow_fast.game.schedule import schedule
from sectow_fast.learn.phase import NonFiniteRun
from sectow_fast.tug import PHASES, play
from sectow_fast.types import UserError


def seeds_of(player) -> set[str]:
    return {seed for *_, seed, _ in player.engine.calls}


def test_every_draw_is_seeded_by_seed_round_and_phase():
    match, _ = played(rounds=1, seed=5, attack__steps=1, defend__steps=1, monitor__every=1)
    assert seeds_of(match.cast.attacker) == {
        "5/1/attack/rollout/0",
        "5/1/harvest",
        "5/attacker-success",
    }
    assert seeds_of(match.cast.defender) == {
        "5/evaluate/0",
        "5/attacker-success/replies",
        "5/1/attack/score/0",
        "5/1/harvest/replies",
        "5/1/defend/rollout/0",
        "probe",
        "5/evaluate/1",
    }
    assert seeds_of(match.cast.frozen) == {"5/attacker-success/replies"}


@pytest.mark.parametrize(
    ("place", "key"),
    [(0, "5/0/coldstart-caption"), (1, "5/0/coldstart-defender"), (2, "5/coldstart-attacker")],
)
def test_the_lessons_of_a_phase_are_seeded_by_its_name(place, key):
    match, _ = played(rounds=0, seed=5)
    rng = random.Random(f"{key}/0")
    expected = [f"q{rng.randrange(100)}" for _ in range(4)]
    taught = match.cast.learners[place].batches[0]
    assert [prompt.case_id for prompt, _ in taught] == expected


def test_the_sft_baselines_lessons_are_seeded_by_its_round():
    match, journal = played(rounds=2, seed=5, defender="sft", harvest__attacks=0)
    batches = [one.batches[0] for one in match.cast.learners if len(one.batches) == 18]
    for k, batch in enumerate(batches, start=1):
        rng = random.Random(f"5/{k}/defend/0")
        assert [p.case_id for p, _ in batch] == [f"q{rng.randrange(100)}" for _ in range(4)]
    assert [r.round for r in journal.steps if r.phase == "defend"] == [1] * 18 + [2] * 18


def test_each_phase_trains_by_its_own_settings():
    match, _ = played(rounds=1, coldstart__lr=0.02, coldstart__attacker_lr=0.03)
    config = match.config
    assert match.cast.given == [0.02, 0.02, 0.03, config.attack, config.defend]
    match, _ = played(rounds=2, ablate=("no-iteration",))
    assert match.cast.given[-1].steps == 2 * match.config.defend.steps
    match, _ = played(rounds=1, defender="sft")
    assert match.cast.given[-1] == 3e-4


def test_measures_are_decoded_up_to_the_defenders_length():
    match, _ = played(rounds=0, defend__max_new_tokens=3)
    assert {call[2].max_new_tokens for call in match.cast.defender.engine.calls} == {3}


def test_before_round_zero_is_kept_the_attacker_is_the_defenders_twin():
    match, journal = match_of(ablate=("no-cold-start",))
    for k, name in schedule(match.config)[:3]:
        PHASES[name](match, journal, k)
    assert [name for _, name in schedule(match.config)[:3]][-1] == "evaluate"
    assert match.cast.said == ["fork", "save round 0"]
    assert not match.cast.frozen.engine.calls  # nobody is asked what was just measured


def test_self_instruct_is_always_measured_on_the_defender_of_round_zero():
    match, journal = match_of()
    match.stage.world.self_instruct = lambda seed, rng: f"win {seed.goal}"
    for k, name in schedule(match.config):
        PHASES[name](match, journal, k)
        journal.next_phase()
    found = [record.attacker_success["self-instruct"].value for record in match.rounds]
    assert found == [1.0, 1.0, 1.0]  # although the defender of round 2 falls for nothing
    assert match.rounds[2].mean("asr").value == 0.0


def test_events_name_their_round_and_phase():
    noisy = {"monitor__window": 1, "monitor__diversity_min": 1.0, "monitor__patience": 9}
    match, _ = played(**noisy)
    places = [(e.round, e.phase) for record in match.rounds for e in record.events]
    assert places == [(1, "attack"), (2, "attack")]


def test_skips_before_a_resume_count():
    match, journal = match_of()
    match.cast.metrics = {"skipped": 1.0, "tokens": 1.0}
    match.cursor, match.skipped = 4, 2
    with pytest.raises(NonFiniteRun, match="step 0: "):
        PHASES["attack"](match, journal, 1)
    match, journal = match_of(coldstart__defender_steps=9)
    match.cast.metrics = {"skipped": 1.0, "tokens": 1.0}
    match.cursor, match.skipped = 1, 2
    with pytest.raises(UserError, match="step 0: "):
        PHASES["coldstart-defender"](match, journal, 0)


def test_a_state_in_the_middle_of_a_phase_holds_its_role_and_events():
    noisy = {"monitor__window": 1, "monitor__diversity_min": 1.0, "monitor__patience": 9}
    match, journal = match_of(**noisy)
    assert match.state()["role"] is None and (match.step, match.skipped) == (0, 0)
    match.cursor = 4
    PHASES["attack"](match, journal, 1)
    state = json.loads(json.dumps(match.state()))
    assert state["role"] == match.role.state() and len(state["events"]) == 1
    again, journal = match_of(**noisy)
    again.restore(state)
    assert again.events == match.events and again.step == 3
    PHASES["attack"](again, journal, 1)  # nothing is left of it
    assert again.role.state() == match.role.state() and not journal.steps


def test_a_round_of_a_checkpoint_that_cannot_be_read_is_named():
    match, _ = match_of()
    state = match.state() | {"rounds": [{"round": 1}]}
    with pytest.raises(UserError, match=r"^checkpoint: field rounds"):
        match.restore(state)


def test_a_given_defender_is_taught_beside_its_own_replies_which_a_resumed_run_still_has():
    settings = dict(model__defender="x", coldstart__refusal_steps=3, rounds=0)
    match, journal = match_of(**settings)
    seen = []
    on_step = journal.on_step

    def stop(record, events):
        on_step(record, events)
        seen.append(json.loads(json.dumps(match.state())))

    journal.on_step = stop
    play(match, journal)
    attacker, taught = match.cast.learners
    decode = match.stage.codec.decode
    words = {decode(reply) for batch in taught.batches for _, reply in batch}
    assert len(match.own_replies) == 8 and words == {"refusals beside 8"}
    assert taught.player is match.cast.defender and max(taught.rates) <= 1e-5
    # Its attacker was forked before it learnt to refuse, and not again.
    assert match.cast.said == ["fork", "save round 0"] and attacker.player is match.cast.attacker
    again, journal = match_of(**settings)
    again.restore(seen[-2])
    calls = len(again.cast.defender.engine.calls)
    PHASES["coldstart-refusals"](again, journal, 0)
    assert again.own_replies == match.own_replies
    assert len(again.cast.defender.engine.calls) == calls  # nothing was asked a second time
