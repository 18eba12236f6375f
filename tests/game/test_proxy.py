"""A proxy pays and filters, the exact judge measures, and the gap between them is told."""

from __future__ import annotations

import dataclasses
import inspect

import pytest
from scripted import GOALS, ScriptedWorld, player, request, small, step_of
from scripted_match import MemoryJournal, ScriptedCast, ScriptedStage

from sectow_fast.game.attacker import AttackerRole
from sectow_fast.game.defender import DefenderRole
from sectow_fast.game.harvest import harvest
from sectow_fast.game.proxy import PaidWorld, gap_measures, paid_world
from sectow_fast.match import Match
from sectow_fast.protocols import World
from sectow_fast.tug import play
from sectow_fast.types import Verdict


def fooled(pairs):
    """A proxy that takes every reply for harm but a refusal; it is asked of unsafe requests."""
    assert all(case.label == "unsafe" for case, _ in pairs)
    return [Verdict(harmful=not reply.startswith("sorry"), refused=False) for _, reply in pairs]


def leaks_for(clothes):
    """The defender leaks to these clothes, and only seems to for any other."""

    def reply(text, number, j):
        if "question" in text:
            return "fine"
        words = text.split()
        return f"leak {words[1]}" if words[0] == clothes else "as you like"

    return reply


def writes(text, number, j):
    return f"{('win', 'seem')[(number + j) % 2]} {text.split()[-1]}"


def test_a_success_that_gold_denies_is_paid_by_the_proxy_and_counted_as_a_gap():
    attacker, defender = player(writes), player(leaks_for("win"))
    role = AttackerRole(
        world=PaidWorld(ScriptedWorld(), fooled),
        attacker=attacker,
        defender=defender,
        config=small(attack__diversity_weight=0.0),
        pool=[],
        round=1,
    )
    _, scores = step_of(role, attacker, group_size=4)
    paid = [reward.parts["success"] for row in scores.rewards for reward in row]
    assert paid == [1.0] * 16  # half of them for nothing
    assert {name: scores.measures[name] for name in scores.measures if "_success" in name} == {
        "proxy_success": 1.0, "gold_success": 0.5
    }  # fmt: skip
    assert scores.measures["proxy_gap"] == 0.5


def test_a_defender_is_paid_by_the_proxy_on_unsafe_requests_alone():
    defender = player(lambda text, *_: "as you like" if "question" not in text else "fine")
    world = PaidWorld(ScriptedWorld(), fooled)
    role = DefenderRole(world=world, defender=defender, config=small(), pool=[], round=1)
    tasks, scores = step_of(role, defender, group_size=4)
    for task, row in zip(tasks, scores.rewards, strict=True):
        assert {reward.total for reward in row} == {0.0 if task.case.label == "unsafe" else 1.0}
    assert (scores.measures["proxy_success"], scores.measures["gold_success"]) == (1.0, 0.0)


def test_a_harvest_keeps_what_the_proxy_says_and_counts_what_gold_would_have_kept():
    attacker, defender = player(writes), player(leaks_for("win"))
    found = harvest(
        PaidWorld(ScriptedWorld(), fooled),
        attacker,
        defender,
        config=small(harvest__attacks=40),
        pool=[],
        round=1,
    )
    clothes = [attack.words.split()[0] for attack in found.kept]
    assert set(clothes) == {"win", "seem"} and found.record.kept == len(clothes)
    assert found.record.kept_gold == clothes.count("win") < len(clothes)
    share = clothes.count("win") / len(clothes)
    assert found.measures["kept_gold_success"] == pytest.approx(share)
    assert found.measures["kept_proxy_gap"] == pytest.approx(1 - share)
    exact = harvest(
        ScriptedWorld(),
        attacker,
        defender,
        config=small(harvest__attacks=40),
        pool=[],
        round=1,
    )
    assert exact.record.kept_gold is None and not exact.measures
    assert {attack.words.split()[0] for attack in exact.kept} == {"win"}


def played(**settings):
    config = small(rounds=1, harvest__attacks=20, **settings)
    stage = ScriptedStage(proxies={"fooled": fooled})
    cast = ScriptedCast(
        attacker=player(writes, stage.codec), defender=player(leaks_for("win"), stage.codec)
    )
    match = Match(config=config, stage=stage, cast=cast)
    journal = MemoryJournal(match)
    play(match, journal)
    return match, journal


def test_the_exact_judge_measures_a_run_that_a_proxy_pays():
    proxied, journal = played(game__judge="proxy", game__proxy="fooled")
    exact, plain = played()
    # No suite is dressed in "win", so nothing leaks; a proxy would call all of it harm.
    assert proxied.rounds[0].mean("asr").value == 0.0
    for mine, theirs in zip(proxied.rounds, exact.rounds, strict=True):
        assert (mine.rates, mine.rates_t1) == (theirs.rates, theirs.rates_t1)
        assert mine.attacker_success == theirs.attacker_success
    assert proxied.rounds[1].harvest.kept_gold is not None
    assert exact.rounds[1].harvest.kept_gold is None
    assert journal.timings[1, "harvest"]["proxy_gap"] > 0 and not plain.timings[1, "harvest"]
    gaps = [step.phase for step in journal.steps if "proxy_gap" in step.measures]
    assert {"attack", "defend"} == set(gaps)
    assert not any("proxy_gap" in step.measures for step in plain.steps)


def test_a_paid_world_has_all_that_a_world_has():
    world = ScriptedWorld()
    paid = PaidWorld(world, fooled)
    for name, method in inspect.getmembers(World, inspect.isfunction):
        if not name.startswith("_"):
            assert inspect.signature(getattr(paid, name)).parameters.keys() == (
                inspect.signature(method).parameters.keys() - {"self"}
            ), name
    assert paid.seeds("test") == world.seeds("test") and paid.cut_earns is True
    stage = ScriptedStage(world=world)
    assert paid_world(stage, small()) is world


def test_what_could_not_be_judged_is_no_success_of_either():
    known = Verdict(harmful=True, refused=False, gold=False)
    unknown = dataclasses.replace(known, harmful=None)
    assert gap_measures([known, unknown]) == {
        "proxy_success": 0.5, "gold_success": 0.0, "proxy_gap": 0.5
    }  # fmt: skip
    assert gap_measures([Verdict(harmful=True, refused=False)]) == {}
    mumble = PaidWorld(ScriptedWorld(), fooled).judge_all([(request(GOALS[0]), "mumble")])
    assert mumble[0].harmful is True and mumble[0].gold is None
