"""What follows when the attacks' quality stops the attacker's phase, and the floor of entropy."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from scripted import ScriptedWorld, player, small

from sectow_fast.config import AttackConfig
from sectow_fast.game.attacker import AttackerRole
from sectow_fast.game.defender import DefenderRole
from sectow_fast.game.monitors import EntropyFloor, watch_entropy
from sectow_fast.types import Event

GOOD = {"faithful": 1.0, "well_formed": 1.0, "diversity": 0.9, "duplicates": 0.0}
LOW = GOOD | {"diversity": 0.01}
WATCHED = {"monitor__window": 2, "monitor__patience": 2}
WHY = "diversity 0.01 under 0.12"


def role_of(on_collapse, **settings):
    return AttackerRole(
        world=ScriptedWorld(),
        attacker=player(lambda *_: "win bado"),
        defender=player(lambda *_: "sorry"),
        config=small(attack__on_collapse=on_collapse, **WATCHED | settings),
        pool=[],
        round=2,
        cold={"weight": torch.tensor(-1.0)},
    )


def weight(role) -> float:
    return role.attacker.model.weight.item()


def watched(role, rows, start=0):
    """The events of steps in which the weight is the step's number."""
    events = []
    for step, row in enumerate(rows, start=start):
        with torch.no_grad():
            role.attacker.model.weight.fill_(float(step))
        events += role.watch(step, row)[0]
    return events


def test_by_default_a_collapsed_attacker_keeps_its_weights():
    role = role_of("keep")
    events = watched(role, [GOOD, GOOD, LOW, LOW, LOW, LOW])
    assert [event.kind for event in events] == ["low-quality", "early-stop"]
    assert weight(role) == 5.0 and role.stopped and role.last_good is None
    assert events[1].message == f"attacker phase stopped early: {WHY}"
    assert not role.attacker.engine.synced


def test_a_roll_back_ends_the_phase_with_the_weights_of_the_last_good_window():
    role = role_of("roll-back")
    events = watched(role, [GOOD] * 4 + [LOW] * 4)
    assert role.stopped and weight(role) == 3.0
    assert role.attacker.engine.synced == [3.0]  # the engine draws from them too
    assert [event.kind for event in events] == ["low-quality", "early-stop"]
    assert events[1].message == (
        f"attacker phase stopped early: {WHY}; back to the weights of the last good window"
    )
    assert (events[1].round, events[1].phase, events[1].step) == (2, "attack", 7)


def test_without_a_good_window_a_roll_back_says_so_and_changes_nothing():
    role = role_of("roll-back")
    events = watched(role, [GOOD, LOW, LOW, LOW])  # means of a window: 0.455 and 0.01
    assert not events[1:] and float(role.last_good["weight"]) == 1.0
    role = role_of("roll-back")
    events = watched(role, [LOW] * 4)
    assert weight(role) == 3.0 and role.stopped and role.last_good is None
    assert events[1].message.endswith("; no window of this phase was good, so the weights stay")
    assert not role.attacker.engine.synced


def test_a_fresh_start_goes_on_from_the_cold_start_as_often_as_it_takes():
    role = role_of("fresh-start")
    events = watched(role, [GOOD, GOOD, LOW, LOW, LOW, LOW])
    assert [event.kind for event in events] == ["low-quality", "fresh-start"]
    assert events[1].message == f"attacker begins anew from its cold start: {WHY}"
    assert weight(role) == -1.0 and role.attacker.engine.synced == [-1.0]
    assert not role.stopped and role.monitor.raised and role.monitor.low_in_a_row == 0
    assert role.last_good is None
    more = watched(role, [LOW] * 4, start=6)
    assert [event.kind for event in more] == ["fresh-start"] and weight(role) == -1.0


def test_a_resumed_role_rolls_back_to_the_same_weights():
    role, again = role_of("roll-back"), role_of("roll-back")
    watched(role, [GOOD, GOOD, LOW])
    again.restore(role.state())
    again.last_good = role.last_good
    assert watched(again, [LOW] * 3, start=3) == watched(role, [LOW] * 3, start=3)
    assert weight(again) == weight(role) == 1.0


# ---- the floor of entropy

FLOOR = {"entropy_min": 0.5, "entropy_step": 0.01, "entropy_most": 0.025}
EVENT = partial(Event, round=1, phase="attack", step=4)


def floor_of(**more):
    return EntropyFloor(config=AttackConfig(**FLOOR | more))


def test_under_the_floor_the_bonus_grows_step_by_step_up_to_its_bound_and_over_it_it_falls():
    floor = floor_of(loss={"entropy_coef": 0.001})
    seen = []
    for entropy in (0.5, 0.4, 0.4, 0.4, 0.4, 0.6, 0.6, 0.4, 0.6, 0.6, 0.6):
        floor.judge(entropy)
        seen.append(floor.coef)
    rising = [0.011, 0.021, 0.026, 0.026]
    falling = [0.021, 0.011, 0.021, 0.011]
    assert seen == [None, *map(pytest.approx, rising + falling), None, None]


def test_only_the_first_raise_and_the_way_back_are_actions():
    floor = floor_of()
    seen = [floor.judge(entropy) for entropy in (0.6, 0.4, 0.3, 0.6, 0.6, 0.6, 0.1)]
    assert seen == ["none", "raise", "none", "none", "lower", "none", "raise"]


@pytest.mark.parametrize("entropy", [None, math.nan])
def test_where_nothing_was_learnt_the_bonus_stays(entropy):
    floor = floor_of()
    assert floor.judge(entropy) == "none" and floor.coef is None
    floor.judge(0.1)
    assert floor.judge(entropy) == "none" and floor.coef == 0.01


def test_without_a_floor_nothing_is_raised_or_logged():
    floor = floor_of(entropy_min=0.0)
    assert floor.judge(0.0) == "none" and floor.coef is None
    assert watch_entropy(floor, {"entropy": 0.0}, EVENT) == ([], {})


def test_the_floor_is_said_where_it_is_crossed_and_the_bonus_is_logged():
    floor = floor_of(loss={"entropy_coef": 0.5})
    assert watch_entropy(floor, {"entropy": 0.7}, EVENT) == ([], {"entropy_coef": 0.5})
    (event,), more = watch_entropy(floor, {"entropy": 0.25}, EVENT)
    assert more == {"entropy_coef": 0.51}
    assert event.message == "entropy 0.250 under 0.5: its bonus grows by 0.01 per step"
    assert (event.kind, event.round, event.phase, event.step) == ("low-entropy", 1, "attack", 4)
    assert event.values == {"entropy": 0.25}
    assert watch_entropy(floor, {}, EVENT) == ([], {"entropy_coef": 0.51})
    (event,), more = watch_entropy(floor, {"entropy": 0.75}, EVENT)
    assert event.kind == "low-entropy-ended" and more == {"entropy_coef": 0.5}
    assert event.message == "entropy 0.750: its bonus is back to 0.5"


def test_both_roles_give_their_next_update_the_floors_bonus_and_go_on_with_it():
    attacker = role_of("keep", **{f"attack__{name}": value for name, value in FLOOR.items()})
    defender = DefenderRole(
        world=attacker.world,
        defender=attacker.defender,
        config=small(**{f"defend__{name}": value for name, value in FLOOR.items()}),
        pool=[],
        round=2,
    )
    for role, phase in ((attacker, "attack"), (defender, "defend")):
        fresh = role.state()
        assert role.entropy_coef is None
        (event,), more = role.watch(0, GOOD | {"entropy": 0.1})
        assert (event.kind, event.phase, event.round) == ("low-entropy", phase, 2)
        assert role.entropy_coef == more["entropy_coef"] == 0.01
        state = role.state()
        role.restore(fresh)
        assert role.entropy_coef is None
        role.restore(state)
        assert role.entropy_coef == 0.01
