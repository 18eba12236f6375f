"""When a monitor acts, and what it says."""

from __future__ import annotations

import pytest

from sectow_fast.config import MonitorConfig
from sectow_fast.game.monitors import AttackerMonitor
from sectow_fast.game.over_refusal import DefenderMonitor, Look

ORR = MonitorConfig(orr_max=0.03, orr_ok=0.01, orr_hard=0.2)
GOOD = {"faithful": 1.0, "well_formed": 1.0, "diversity": 0.9, "duplicates": 0.0}
LOW = GOOD | {"diversity": 0.0}


def look(orr: float) -> Look:
    """A probe of 10,000 cases."""
    refused = round(orr * 10_000)
    return Look(refused=(True,) * refused + (False,) * (10_000 - refused))


def test_over_refusal_raises_the_harmless_share_until_it_is_low_again():
    monitor = DefenderMonitor(config=ORR)
    seen = [monitor.judge(look(orr)) for orr in (0.0, 0.05, 0.05, 0.02, 0.005, 0.02)]
    assert seen == ["none", "raise", "none", "none", "lower", "none"]


def test_severe_over_refusal_rolls_back_and_raises():
    monitor = DefenderMonitor(config=ORR)
    assert [monitor.judge(look(orr)) for orr in (0.21, 0.21, 0.05)] == [
        "roll-back",
        "roll-back",
        "none",
    ]
    assert monitor.raised and monitor.judge(look(0.0)) == "lower" and not monitor.raised


@pytest.mark.parametrize(
    ("orr", "raised", "action"),
    [
        (0.03, False, "none"),
        (0.0301, False, "raise"),
        (0.2, True, "none"),
        (0.2001, True, "roll-back"),
        (0.01, True, "none"),
        (0.0099, True, "lower"),
    ],
)
def test_the_bounds_themselves_are_allowed(orr, raised, action):
    assert DefenderMonitor(config=ORR, raised=raised).judge(look(orr)) == action


def test_weights_are_good_while_over_refusal_is_within_its_bound():
    monitor = DefenderMonitor(config=ORR)
    assert monitor.is_good(look(0.03)) and not monitor.is_good(look(0.0301))


def test_attacks_of_low_quality_raise_the_price_of_likeness_and_then_stop_the_phase():
    monitor = AttackerMonitor(config=MonitorConfig(window=2, patience=3))
    rows = [GOOD, GOOD, LOW, LOW, LOW, LOW, LOW, LOW]
    actions = [monitor.judge(row)[0] for row in rows]
    assert actions == ["none", "none", "none", "raise", "none", "none", "none", "stop"]


def test_a_good_window_in_between_starts_the_count_anew():
    monitor = AttackerMonitor(config=MonitorConfig(window=1, patience=2))
    actions = [monitor.judge(row)[0] for row in (LOW, GOOD, LOW, LOW)]
    assert actions == ["raise", "none", "none", "stop"]


def test_means_are_taken_over_the_window_and_the_window_starts_anew():
    monitor = AttackerMonitor(config=MonitorConfig(window=2))
    assert monitor.judge(GOOD | {"faithful": 0.6}) == ("none", {})
    action, means = monitor.judge(GOOD | {"faithful": 0.2})
    assert action == "raise" and means == GOOD | {"faithful": pytest.approx(0.4)}
    assert monitor.judge(GOOD) == ("none", {}) and monitor.judge(GOOD)[1] == GOOD


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"faithful": 0.4}, ["faithful 0.40 under 0.5"]),
        ({"well_formed": 0.3}, ["well_formed 0.30 under 0.6"]),
        ({"diversity": 0.1}, ["diversity 0.10 under 0.2"]),
        ({"duplicates": 0.7}, ["duplicates 0.70 over 0.65"]),
        (
            {"diversity": 0.1, "duplicates": 0.7},
            ["diversity 0.10 under 0.2", "duplicates 0.70 over 0.65"],
        ),
        ({"faithful": 0.5, "well_formed": 0.6, "diversity": 0.2, "duplicates": 0.65}, []),
    ],
)
def test_what_crossed_its_bound_is_said(row, words):
    config = MonitorConfig(
        faithful_min=0.5, well_formed_min=0.6, diversity_min=0.2, duplicates_max=0.65
    )
    assert AttackerMonitor(config=config).crossed(GOOD | row) == words


def test_both_monitors_go_on_exactly_after_a_resume():
    config = MonitorConfig(window=3, patience=2)
    monitor, resumed = AttackerMonitor(config=config), AttackerMonitor(config=config)
    rows = [LOW, GOOD, LOW, LOW, LOW, LOW, LOW, LOW, LOW]
    actions = []
    for row in rows:
        again = AttackerMonitor(config=config)
        again.restore(resumed.state())
        resumed = again
        assert resumed.judge(row) == monitor.judge(row)
        actions.append(resumed.state())
    assert any(state["raised"] for state in actions)
    defender = DefenderMonitor(config=ORR)
    defender.judge(look(0.1))
    again = DefenderMonitor(config=ORR)
    again.restore(defender.state())
    assert again.raised and again.judge(look(0.1)) == "none"
