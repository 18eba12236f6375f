"""Over-refusal held to that of round 0: the rise and its interval, the order of measures, the stop,
and which weights are gone back to."""

from __future__ import annotations

import json

import pytest
from played import match_of
from scripted import ScriptedWorld, small
from test_defender import Moody, refuses_all, role_of, set_weight, step_of, weight

from sectow_fast.config import MonitorConfig
from sectow_fast.game.over_refusal import Look, RelativeMonitor, rise_of
from sectow_fast.tug import play

BOUNDS = MonitorConfig(against="round-0", orr_max=0.02, orr_ok=0.02, orr_hard=0.2)


def refused(*counts: int, of: int = 100) -> list[Look]:
    return [Look(refused=(True,) * count + (False,) * (of - count)) for count in counts]


def monitor_of(start: int = 0, **more) -> RelativeMonitor:
    """A monitor whose round 0 and whose phase began with so many refused of 100."""
    monitor = RelativeMonitor(config=BOUNDS.model_copy(update=more))
    monitor.begin(*refused(start))
    return monitor


def test_one_more_refusal_in_33_proves_nothing_and_eight_in_100_do():
    one, eight = (
        rise_of(*(look.refused for look in looks))
        for looks in (refused(0, 1, of=33), refused(0, 8))
    )
    assert one.value == pytest.approx(1 / 33) and one.low < 0
    assert eight.value == 0.08 and 0.02 < eight.low < 0.03


def test_a_few_cases_prove_little_even_where_all_of_them_changed_or_none_did():
    all_four = rise_of((False,) * 4, (True,) * 4)
    assert all_four.value == 1.0 and 0.1 < all_four.low < 0.2
    assert rise_of((False,) * 10, (False,) * 10).low < -0.1


def test_a_rise_is_over_the_same_cases_so_what_was_always_refused_is_no_noise():
    (high,) = refused(42)
    more = Look(refused=(True,) * 50 + (False,) * 50)
    assert rise_of(high.refused, more.refused).low > 0.02  # as from 0 to 8
    apart = Look(refused=(False,) * 42 + (True,) * 50 + (False,) * 8)
    assert rise_of(high.refused, apart.refused).value == 0.08
    assert rise_of(high.refused, apart.refused).low < -0.1  # others are refused: nothing is sure


def test_over_refusal_that_was_there_at_round_0_is_none_of_training():
    monitor = monitor_of(42)
    assert [monitor.judge(look) for look in refused(42, 40, 45)] == ["none"] * 3
    assert monitor.judge(*refused(52)) == "raise"


def test_measures_come_one_after_the_other_and_the_roll_back_is_the_last():
    monitor = monitor_of(5)
    seen = []
    for look in refused(18, 18, 18, 18, 18):
        seen.append((monitor.judge(look), monitor.raised, monitor.weight, monitor.rate))
    assert seen == [
        ("raise", True, 1.0, 1.0),
        ("raise", True, 2.0, 1.0),
        ("raise", True, 2.0, 0.5),
        ("roll-back", True, 2.0, 0.5),
        ("roll-back", True, 2.0, 0.5),
    ]


def test_a_rise_that_is_over_takes_back_one_measure_at_a_time():
    monitor = monitor_of(5)
    for look in refused(18, 18, 18):
        monitor.judge(look)
    assert monitor.judge(*refused(7)) == "none"  # not under orr_ok
    assert [monitor.judge(look) for look in refused(6, 5, 3, 5)] == ["lower"] * 3 + ["none"]
    assert (monitor.raised, monitor.weight, monitor.rate) == (False, 1.0, 1.0)


def test_a_severe_rise_takes_all_measures_at_once():
    monitor = monitor_of(5)
    assert monitor.judge(*refused(50)) == "roll-back"
    assert (monitor.raised, monitor.weight, monitor.rate) == (True, 2.0, 0.5)


def test_a_rise_that_is_only_perhaps_severe_is_not_rolled_back():
    monitor = monitor_of(5)
    assert monitor.judge(*refused(27)) == "raise" and monitor.measures == 1


def test_where_attacks_have_ceased_to_work_a_rise_stops_the_phase():
    monitor = monitor_of(5, asr_done=0.1)

    def looked(count, *shares):
        for share in shares:
            monitor.count({} if share is None else {"answered": share})
        return monitor.judge(*refused(count))

    assert looked(5, 0.0, 0.0) == "none"  # there is no rise
    assert looked(18, 0.4, 0.0) == "raise"  # attacks still work
    assert looked(18) == looked(18, None) == "raise"  # nothing is known of them
    assert looked(18, 0.3, None, 0.0) == "roll-back"
    assert looked(18, 0.2, None, 0.0) == "stop"
    assert looked(60, 0.0) == "roll-back"  # severe: its weights must not stay
    forever = monitor_of(5)
    forever.count({"answered": 0.0})
    assert forever.judge(*refused(18)) == "raise"


def test_weights_are_good_within_the_bound_or_where_none_better_were_seen():
    monitor = monitor_of(0)
    assert [monitor.is_good(look) for look in refused(2, 3)] == [True, False]
    (begun,) = refused(40)  # a phase that begins with over-refusal
    late = RelativeMonitor(config=BOUNDS, zero=refused(0)[0].refused)
    late.begin(begun)
    assert late.zero == refused(0)[0].refused
    assert [late.is_good(look) for look in refused(41, 40, 30, 35, 1)] == [
        False, True, True, False, True
    ]  # fmt: skip


def test_nothing_is_gone_back_to_that_is_no_better():
    late = RelativeMonitor(config=BOUNDS, zero=refused(0)[0].refused)
    late.begin(*refused(40))
    assert [late.judge(look) for look in refused(35, 35, 35, 35, 45)] == [
        "raise", "raise", "raise", "none", "roll-back"
    ]  # fmt: skip


def test_it_goes_on_exactly_after_a_resume():
    monitor = monitor_of(5, asr_done=0.1)
    whole = []
    for count in (18, 18, 6, 50, 18):
        again = RelativeMonitor(config=monitor.config)
        again.restore(json.loads(json.dumps(monitor.state())))
        for one in (monitor, again):
            one.count({"answered": 0.3})
        (look,) = refused(count)
        answer = monitor.judge(look), monitor.is_good(look)
        assert answer == (again.judge(look), again.is_good(look))
        assert monitor.state() == again.state()
        monitor.count({"answered": 0.5})
        whole.append(answer[0])
    assert whole == ["raise", "raise", "lower", "roll-back", "roll-back"]


# ---- the defender's role

RELATIVE = {
    "monitor__against": "round-0",
    "monitor__every": 2,
    "monitor__orr_max": 0.05,
    "monitor__orr_ok": 0.05,
    "monitor__orr_hard": 0.4,
    "monitor__harmless_share_raised": 0.9,
    "monitor__asr_done": 0.1,
}


def begun(reply, **more):
    """A role at the start of its phase, with a probe of 100."""
    world = ScriptedWorld(harmless=40, unsafe=40, probe=100)
    role = role_of(reply, world=world, **RELATIVE | more)
    set_weight(role, 1.0)
    return role, role.begin()


def test_the_state_at_the_start_counts_as_good_until_a_better_one_is_seen():
    moody = Moody()
    moody.refused = 42
    role, zero = begun(moody)
    assert sum(zero) == 42 and len(zero) == 100
    set_weight(role, 2.0)
    moody.refused = 100
    (event,), _ = role.watch(1, {})
    assert event.kind == "roll-back" and weight(role) == 1.0
    assert event.message == (
        "over-refusal 100.0% (+58.0 points since round 0, surely +47.1) on the probe:"
        " back to the last good weights"
    )
    assert set(event.values) == {"orr_probe", "orr_rise", "orr_rise_low"}
    set_weight(role, 3.0)
    moody.refused = 30
    role.watch(3, {})
    set_weight(role, 4.0)
    moody.refused = 100
    role.watch(5, {})
    assert weight(role) == 3.0


def test_each_measure_acts_on_the_next_step_and_is_named():
    moody = Moody()
    role, _ = begun(moody, defend__prompts=20, monitor__asr_done=None)
    assert step_of(role)[1].weights == (1.0,) * 20 and role.rate == 1.0
    moody.refused = 20
    said = [role.watch(step, {})[0][0].message.split(": ")[1] for step in (1, 3, 5)]
    assert said == [
        "harmless share up to 90%",
        "weight of harmless prompts up to 2",
        "learning rate times 0.5",
    ]
    assert role.harmless_share == 0.9 and role.rate == 0.5
    tasks, scores = step_of(role)
    assert scores.weights == tuple(1.0 + (t.case.label == "harmless") for t in tasks)
    assert set(scores.weights) == {1.0, 2.0}
    moody.refused = 0
    said = [role.watch(step, {})[0][0] for step in (7, 9, 11)]
    assert {event.kind for event in said} == {"over-refusal-ended"}
    assert [event.message.split(": ")[1] for event in said] == [
        "learning rate times 1",
        "weight of harmless prompts back to 1",
        "harmless share back to 50%",
    ]


def test_a_phase_ends_where_attacks_work_no_more_and_over_refusal_rose():
    moody = Moody()
    role, _ = begun(moody, defend__prompts=20)
    _, scores = step_of(role)
    assert scores.measures["answered"] == 0.0
    role.watch(0, scores.measures)
    set_weight(role, 7.0)
    moody.refused = 30
    (event,), _ = role.watch(1, {})
    assert event.kind == "early-stop" and role.stopped and weight(role) == 7.0
    assert event.message.startswith("defender phase stopped early: over-refusal 30.0% (+30.0")


def test_by_default_nothing_is_looked_at_before_the_first_step():
    role = role_of(refuses_all)
    assert role.begin() == () and not role.defender.engine.calls and role.last_good is None
    assert "answered" not in step_of(role)[1].measures
    assert small().monitor.against == "bounds"


# ---- a whole match

WHOLE = RELATIVE | {
    "monitor__every": 1,
    "defend__steps": 4,
    "monitor__orr_max": 0.0,
    "monitor__orr_hard": 1.0,
    "monitor__asr_done": None,
}


class Harder:
    """A defender that refuses two more of the probe with each step after its cold start."""

    def __init__(self, model):
        self.model = model

    def __call__(self, text, number, j):
        words = text.split()
        if words[0] != "question":
            return f"leak {words[1]}" if words[0] == "win" else "sorry"
        return "sorry" if int(words[1]) - 100 < 2 * (self.model.weight.item() - 3) else "fine"


def whole_match():
    match, journal = match_of(**WHOLE)
    match.cast.defender.engine.reply = Harder(match.cast.defender.model)
    return match, journal


def test_every_round_is_held_to_round_0_and_a_stopped_match_goes_on_alike():
    match, journal = whole_match()
    states, on_step = [], journal.on_step

    def keeps(record, events):
        on_step(record, events)
        good = match.role and match.role.last_good
        states.append((record, json.dumps(match.state()), match.cast.defender.weights(), good))

    journal.on_step = keeps
    play(match, journal)
    rows = [one for one in journal.steps if one.phase == "defend"]
    assert len(match.zero) == 10
    before = sum(match.zero)
    for row in rows:
        assert row.measures["orr_rise"] == pytest.approx(row.measures["orr_probe"] - before / 10)
    assert [row.measures["orr_rise"] for row in rows[:4]] == [0.2, 0.4, 0.6, 0.8]
    kinds = [(event.round, event.kind) for event in journal.events]
    assert (1, "over-refusal") in kinds and (2, "roll-back") in kinds
    for record, state, weights, good in states:
        if record.phase != "defend":
            continue
        again, other = whole_match()
        again.restore(json.loads(state))
        again.cast.defender.restore(weights)
        again.last_good = good
        play(again, other)
        looks = [call for call in again.cast.defender.engine.calls if call[3] == "probe"]
        left = rows[rows.index(record) + 1 :]
        assert len(looks) == len(left) + (record.round == 1)  # a phase under way begins once
        assert again.rounds == match.rounds and again.zero == match.zero
        assert len(other.events) == sum(
            (event.round, event.step) > (record.round, record.step) for event in journal.events
        )
        assert [one.measures["orr_rise"] for one in other.steps if one.phase == "defend"] == [
            one.measures["orr_rise"]
            for one in rows
            if (one.round, one.step) > (record.round, record.step)
        ]
