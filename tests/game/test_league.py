"""The league: every round's attacker against every round's defender, after the last round."""

from __future__ import annotations

import pytest
from played import match_of
from scripted import OneWeight, ScriptedEngine

from sectow_fast.game.league import play_league
from sectow_fast.game.player import Player
from sectow_fast.game.schedule import keeps_round, schedule
from sectow_fast.match import Match
from sectow_fast.rounds import LeagueRecord, RunSummary
from sectow_fast.tug import play
from sectow_fast.types import NOT_SAID, UserError

CASES = 12


def falls_for(*clothes):
    return lambda text, *_: f"leak {text.split()[1]}" if text.split()[0] in clothes else "sorry"


def with_past(**settings):
    """A match of two rounds; what is kept of its players follows a script of its own."""
    match, journal = match_of(rounds=2, evaluate__league_cases=CASES, **settings)

    def kept(reply):
        model = OneWeight()
        engine = ScriptedEngine(model, match.stage.codec, reply)
        return Player(model=model, engine=engine, codec=match.stage.codec)

    match.cast.past = {
        ("attacker", 0): kept(lambda text, *_: f"weak {text.split()[-1]}"),
        ("attacker", 1): kept(lambda text, *_: f"win {text.split()[-1]}"),
        ("defender", 0): kept(falls_for("win", "weak", "poor")),
        ("defender", 1): kept(falls_for("win")),
    }
    return match, journal


def test_the_players_of_all_rounds_meet_on_held_out_goals():
    match, journal = with_past()
    match.cast.attacker.engine.reply = lambda text, *_: f"poor {text.split()[-1]}"
    play(match, journal)
    found = match.league
    assert found is not None and found.cases == CASES
    values = {name: [rate.value for rate in row.values()] for name, row in found.rates.items()}
    assert list(values) == ["self-instruct", "cold start", "round 1", "round 2"]
    assert all(list(row) == ["cold start", "round 1", "round 2"] for row in found.rates.values())
    # The attacker writes "weak" at first, then "win", then "poor"; self-instruct "weak" or "poor".
    assert values["cold start"] == [1.0, 0.0, 0.0]
    assert values["round 1"] == [1.0, 1.0, 0.0]
    assert values["round 2"] == [1.0, 0.0, 0.0]
    assert values["self-instruct"] == [1.0, 0.0, 0.0]
    asked, *_ = match.cast.past["attacker", 1].engine.calls
    assert len(asked[0]) == CASES and not any("bado" in text for text in asked[0])


def test_every_defender_is_given_the_same_attacks():
    match, journal = with_past()
    play(match, journal)
    given = [match.cast.past["defender", k].engine.calls for k in (0, 1)]
    mine = [[call for call in calls if call[3].endswith("league/replies")] for calls in given]
    texts = [[call[0] for call in calls] for calls in mine]
    assert len(texts[0]) == 4 and [len(row) for row in texts[0]] == [CASES] * 4
    # The scripted world puts a draw into a request: it is drawn by the attack, so it is the same.
    assert texts[0] == texts[1]


def test_one_player_of_a_role_is_held_at_a_time():
    match, journal = with_past()
    play(match, journal)
    order = [one for one in match.cast.said if one.partition(" ")[2].startswith("of round")]
    assert order == [f"{role} of round {k}" for role in ("attacker", "defender") for k in (0, 1)]


def test_the_rounds_before_the_last_are_kept_and_only_for_a_league():
    match, journal = with_past()
    play(match, journal)
    assert [one for one in match.cast.said if one.startswith("save")] == [
        "save round 0",
        "save round 1",
    ]
    match, journal = match_of(rounds=2)
    play(match, journal)
    assert [one for one in match.cast.said if one.startswith("save")] == ["save round 0"]
    assert match.league is None and not keeps_round(match.config, 1)


def test_without_a_trained_attacker_self_instruct_meets_every_defender():
    match, journal = with_past(attacker="self-instruct")
    play(match, journal)
    assert list(match.league.rates) == ["self-instruct"]
    alone, journal = match_of(rounds=0, evaluate__league_cases=CASES)
    assert schedule(alone.config)[-1] == (0, "evaluate")


def test_a_league_that_was_played_outlives_a_checkpoint_and_the_summary():
    match, journal = with_past()
    play(match, journal)
    again = Match(config=match.config, stage=match.stage, cast=match.cast)
    again.restore(match.state())
    assert again.league == match.league
    given = dict(preset="p", seed=1, versions={}, device="cpu", wall_seconds=1.0, ablate=[])
    given |= dict(attacker="grpo", defender="grpo", judged=NOT_SAID, rounds=match.rounds)
    summary = RunSummary(**given, league=match.league)
    assert RunSummary.from_dict(summary.as_dict()) == summary
    assert "league" not in RunSummary(**given).as_dict()
    with pytest.raises(UserError, match=r"s\.json: field league: found none that this"):
        RunSummary.from_dict(summary.as_dict() | {"league": {"cases": 3}}, where="s.json")


def test_a_league_of_nobody_else_is_self_instruct_alone():
    match, _ = match_of(evaluate__league_cases=3)
    found = play_league(
        match.stage.world,
        attackers={},
        defenders={"cold start": lambda: match.cast.defender},
        config=match.config,
    )
    assert isinstance(found, LeagueRecord) and list(found.rates) == ["self-instruct"]
