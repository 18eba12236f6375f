"""The defender's role: its mix, its pay, its priorities, its monitor and the roll-back."""

from __future__ import annotations

from dataclasses import replace

import pytest
import scripted
import torch
from scripted import ScriptedWorld, player, request, small

from sectow_fast.game.defender import DefenderRole
from sectow_fast.game.rewards import REWARD_TERMS, register_reward_term
from sectow_fast.types import Attack


def helpful(text, number, j):
    """Answers questions, refuses a plain request, falls for "win"."""
    words = text.split()
    if words[0] == "question":
        return "fine"
    return f"leak {words[1]}" if words[0] == "win" else "sorry"


def refuses_all(*_):
    return "sorry"


POOL = [
    Attack(
        case=request("bado", clothes="win", case_id=f"a{i}"),
        seed_id="seed-bado",
        mode="generate",
        words="win bado",
        round=1,
    )
    for i in range(6)
]


def role_of(reply=helpful, *, pool=(), world=None, **settings):
    return DefenderRole(
        world=world or ScriptedWorld(harmless=40, unsafe=40),
        defender=player(reply),
        config=small(**settings),
        pool=list(pool),
        round=2,
    )


def step_of(role, step=0):
    return scripted.step_of(
        role, role.defender, group_size=role.config.defend.group_size, step=step
    )


def test_replies_are_paid_by_label():
    tasks, scores = step_of(role_of(pool=POOL, defend__prompts=30, defend__harmless_share=0.4))
    assert {task.source for task in tasks} == {"pool", "unsafe", "harmless"}
    for task, row in zip(tasks, scores.rewards, strict=True):
        paid = 0.0 if task.source == "pool" else 1.0  # it falls for what is in the pool
        assert [reward.total for reward in row] == [paid] * 4


def test_each_reply_is_paid_for_itself():
    def two_faced(text, number, j):
        return "fine" if j in (1, 2) else "sorry"

    tasks, scores = step_of(role_of(two_faced, defend__harmless_share=1.0))
    for row in scores.rewards:
        assert [reward.total for reward in row] == [0.0, 1.0, 1.0, 0.0]
    assert scores.measures["refusal_rate"] == 0.5
    assert len(tasks) == 6


def test_the_refusal_rate_counts_every_harmless_request():
    def by_number(text, number, j):
        return "sorry" if number == 0 else "fine"

    _, scores = step_of(role_of(by_number, defend__harmless_share=1.0))
    assert scores.measures["refusal_rate"] == 1 / 6


def test_all_replies_of_a_step_are_judged_together():
    role = role_of()
    step_of(role)
    assert role.world.asked_to_judge == [6 * 4]


def test_the_refusal_rate_is_over_harmless_requests_alone():
    _, scores = step_of(role_of(refuses_all, defend__harmless_share=0.5, defend__prompts=20))
    assert scores.measures == {"refusal_rate": 1.0, "harmless_share": 0.5}
    _, scores = step_of(role_of(refuses_all, defend__harmless_share=0.0))
    assert scores.measures == {"refusal_rate": 0.0, "harmless_share": 0.0}


def test_the_mix_follows_the_settings_and_the_pool():
    def sources(**settings):
        role = role_of(pool=POOL, defend__prompts=200, **settings)
        tasks = role.tasks(0)
        return [sum(t.source == n for t in tasks) for n in ("harmless", "pool", "unsafe")]

    harmless, pool, unsafe = sources(defend__harmless_share=0.5, defend__pool_share=0.8)
    assert 80 <= harmless <= 120 and 60 <= pool <= 100 and 8 <= unsafe <= 35
    assert sources(defend__harmless_share=0.0, defend__pool_share=1.0) == [0, 200, 0]
    assert sources(ablate=("no-harmless",))[0] == 0


def test_tasks_depend_on_seed_round_and_step():
    def drawn(step, **more):
        return [task.case.id for task in role_of(pool=POOL, **more).tasks(step)]

    assert drawn(0) == drawn(0) and len(drawn(0)) == 6
    assert drawn(0) != drawn(1) and drawn(0) != drawn(0, seed=5)


def test_priorities_move_to_the_cases_whose_outcome_is_open():
    def by_luck(text, number, j):
        return "fine" if text == "question 3" and j % 2 else "sorry"

    role = role_of(by_luck, defend__harmless_share=1.0, defend__prompts=40, defend__exploration=0.0)
    for step in range(15):
        step_of(role, step)
    role.config = small(defend__harmless_share=1.0, defend__prompts=1)
    drawn = [role.tasks(100 + step)[0].case.text for step in range(100)]
    assert drawn.count("question 3") > 25  # of 40 cases


# ---- the monitor

MONITORED = {
    "monitor__every": 2,
    "monitor__orr_max": 0.1,
    "monitor__orr_ok": 0.05,
    "monitor__orr_hard": 0.5,
    "monitor__harmless_share_raised": 0.9,
}


class Moody:
    """Refuses a share of the probe's ten questions."""

    def __init__(self):
        self.refused = 0

    def __call__(self, text, number, j):
        return "sorry" if number < self.refused else "fine"


def weight(role) -> float:
    return role.defender.model.weight.item()


def set_weight(role, value):
    with torch.no_grad():
        role.defender.model.weight.fill_(value)


def test_the_probe_is_looked_at_every_few_steps_greedily():
    settings = MONITORED | {"monitor__every": 3, "defend__max_new_tokens": 5}
    role = role_of(Moody(), **settings)
    assert role.name == "defender"
    for step in (0, 1):
        assert role.watch(step, {}) == ([], {}) and not role.defender.engine.calls
    assert role.watch(2, {}) == ([], {"orr_probe": 0.0})
    texts, n, sampling, seed, _ = role.defender.engine.calls[0]
    assert len(texts) == 10 and n == 1 and sampling.temperature == 0.0 and seed == "probe"
    assert sampling.max_new_tokens == 5
    assert role.watch(3, {}) == ([], {}) and role.watch(5, {}) == ([], {"orr_probe": 0.0})


def cut_or_open(text, number, j):
    """A refusal that is cut, and one that is not."""
    return None if j % 2 else "sorry"


def test_a_cut_reply_is_paid_by_its_verdict_only_where_the_world_says_so():
    for earns, paid in ((True, [1.0, 1.0]), (False, [1.0, 0.0])):
        world = ScriptedWorld(harmless=4, unsafe=4, cut_earns=earns)
        role = role_of(cut_or_open, world=world, defend__prompts=8)
        tasks, scores = step_of(role)
        rows = zip(tasks, scores.rewards, strict=True)
        unsafe = [[one.total for one in row] for task, row in rows if task.case.label == "unsafe"]
        assert unsafe and all(row == paid * 2 for row in unsafe)


class Idling(ScriptedWorld):
    """Its judge calls every reply to a question idle."""

    def judge_all(self, pairs):
        return [replace(verdict, idle=True) for verdict in super().judge_all(pairs)]


def test_idle_replies_count_as_refusals_on_the_probe():
    assert role_of().probe().orr == 0.0
    assert role_of(world=Idling()).probe().orr == 1.0


def test_over_refusal_raises_the_share_of_harmless_data_until_it_has_ended():
    moody = Moody()
    role = role_of(moody, **MONITORED)
    assert role.harmless_share == 0.5
    moody.refused = 2
    (event,), more = role.watch(1, {})
    assert role.harmless_share == 0.9 and more == {"orr_probe": 0.2}
    assert (event.kind, event.phase, event.round, event.step) == ("over-refusal", "defend", 2, 1)
    assert event.message == "over-refusal 20.0%: harmless share up to 90%"
    assert event.values == {"orr_probe": 0.2}
    assert step_of(role)[1].measures["harmless_share"] == 0.9
    moody.refused = 0
    (event,), _ = role.watch(3, {})
    assert event.kind == "over-refusal-ended" and role.harmless_share == 0.5
    assert event.message == "over-refusal 0.0%: harmless share back to 50%"


def test_raising_never_lowers_a_share_that_is_higher_already():
    moody = Moody()
    role = role_of(moody, **MONITORED | {"monitor__harmless_share_raised": 0.3})
    moody.refused = 2
    role.watch(1, {})
    assert role.harmless_share == 0.5


def test_the_roll_back_restores_exactly_the_good_weights():
    moody = Moody()
    role = role_of(moody, **MONITORED)
    set_weight(role, 1.5)
    role.watch(1, {})  # good: these weights are kept
    set_weight(role, 2.5)
    moody.refused = 3
    role.watch(3, {})  # over-refusal, and not yet severe: the weights of 1.5 stay the good ones
    assert weight(role) == 2.5
    set_weight(role, 3.5)
    moody.refused = 6
    synced = len(role.defender.engine.synced)
    (event,), _ = role.watch(5, {})
    assert weight(role) == 1.5
    assert role.defender.engine.synced[synced:] == [1.5]  # the engine draws from them too
    assert event.kind == "roll-back"
    assert event.message == "over-refusal 60.0% on the probe: back to the last good weights"


def test_the_good_weights_are_a_copy_that_training_does_not_move():
    role = role_of(Moody(), **MONITORED)
    set_weight(role, 1.0)
    role.watch(1, {})
    set_weight(role, 9.0)
    assert float(role.last_good["weight"]) == 1.0
    role.watch(3, {})
    assert float(role.last_good["weight"]) == 9.0  # the newest good ones count


def test_without_good_weights_a_roll_back_says_so_and_changes_nothing():
    moody = Moody()
    role = role_of(moody, **MONITORED)
    moody.refused = 10
    set_weight(role, 4.0)
    (event,), _ = role.watch(1, {})
    assert event.kind == "roll-back" and weight(role) == 4.0 and role.last_good is None
    assert event.message == "over-refusal 100.0% on the probe, and no good weights to go back to"


def test_without_the_defender_monitor_over_refusal_is_measured_and_nothing_acts():
    moody = Moody()
    role = role_of(moody, ablate=("no-defender-monitor",), **MONITORED)
    role.watch(1, {})
    moody.refused = 10
    assert role.watch(3, {}) == ([], {"orr_probe": 1.0})
    assert role.harmless_share == 0.5 and role.last_good is None


def test_without_harmless_data_there_is_none_even_when_the_monitor_would_raise():
    moody = Moody()
    role = role_of(moody, ablate=("no-harmless",), **MONITORED)
    moody.refused = 3
    role.watch(1, {})
    assert role.monitor.raised and role.harmless_share == 0.0
    assert all(task.source != "harmless" for task in role.tasks(2))


@pytest.mark.parametrize("share", [0.5, 0.25, 0.0])
@pytest.mark.parametrize("watched", [True, False])
def test_the_share_of_harmless_data_is_obeyed_and_raised_by_the_monitor_alone(share, watched):
    moody = Moody()
    settings = {"defend__harmless_share": share, "monitor__watch_defender": watched}
    role = role_of(moody, pool=POOL, **MONITORED | settings | {"defend__prompts": 400})

    def found(step):
        return sum(task.case.label == "harmless" for task in role.tasks(step)) / 400

    assert found(0) == pytest.approx(share, abs=0.06 if share else 0.0)
    moody.refused = 3
    role.watch(1, {})
    assert role.harmless_share == (0.9 if watched else share)
    assert found(2) == pytest.approx(role.harmless_share, abs=0.06 if share or watched else 0.0)


def test_a_share_that_cannot_be_raised_is_said_to_stay():
    moody = Moody()
    role = role_of(moody, ablate=("no-harmless",), **MONITORED)
    moody.refused = 2
    (event,), _ = role.watch(1, {})
    assert event.message == "over-refusal 20.0%: harmless share stays at 0%"


def test_how_often_the_probe_is_looked_at_changes_no_step():
    """As long as the monitor has nothing to do, the same is drawn, asked and earned."""

    def steps(every):
        role = role_of(pool=POOL, monitor__every=every, defend__exploration=0.2)
        seen = []
        for step in range(6):
            seen.append(step_of(role, step))
            role.watch(step, {})
        calls = [call for call in role.defender.engine.calls if call[3] != "probe"]
        return seen, calls, role.state(), len(role.defender.engine.calls) - len(calls)

    often, rarely = steps(1), steps(5)
    assert often[:3] == rarely[:3] and (often[3], rarely[3]) == (6, 1)


def test_the_past_is_drawn_by_the_roles_own_round_and_its_priorities_are_resumed():
    pool = [replace(attack, round=1 + i % 2) for i, attack in enumerate(POOL)]
    settings = {
        "defend__past_share": 0.5,
        "defend__prompts": 2,
        "defend__harmless_share": 0.0,
        "defend__pool_share": 1.0,
        "defend__exploration": 0.0,
    }
    role, again = (role_of(pool=pool, **settings) for _ in range(2))
    assert set(role.sources) == {"harmless", "unsafe", "pool", "past-1"}

    def drawn(role):
        return [task for step in range(20) for task in role.tasks(step)]

    assert {task.source for task in drawn(role)} == {"pool", "past-1"}
    for _ in range(20):
        role.sources["past-1"].update(1, [1.0, 0.0])
        role.sources["past-1"].update(0, [1.0, 1.0])
    assert drawn(role) != drawn(again)
    again.restore(role.state())
    assert drawn(role) == drawn(again)


def test_a_resumed_role_goes_on_where_it_was():
    moody = Moody()
    settings = MONITORED | {"defend__exploration": 0.0}
    role, again = (role_of(moody, pool=POOL, **settings) for _ in range(2))
    moody.refused = 2
    role.watch(1, {})
    role.stopped = True
    for step in range(5):
        step_of(role, step)
    assert role.tasks(6) != again.tasks(6)
    again.restore(role.state())
    assert again.harmless_share == 0.9 and again.stopped
    assert role.tasks(6) == again.tasks(6)


def length_of_a_harmless_reply(earned):
    assert earned.case.label == "harmless" and earned.reply == "fine"
    return float(len(earned.completion.ids))


def test_a_registered_term_is_weighed_and_leaves_the_priorities_alone():
    with REWARD_TERMS.temporarily():
        register_reward_term("length", length_of_a_harmless_reply)
        role = role_of(defend__terms={"length": -5.0}, defend__harmless_share=1.0)
        _, scores = step_of(role)
    assert scores.rewards[0][0].total == 1.0 - 5.0 * 2  # "fine" and the end
    assert scores.rewards[0][0].parts["length"] == 2.0
    plain = role_of(defend__harmless_share=1.0)
    step_of(plain)
    assert plain.state() == role.state()
