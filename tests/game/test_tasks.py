"""What the two roles are asked: the mix of data is what the settings say, and priorities move."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

import pytest
from scripted import GOALS, ScriptedWorld, question, request

from sectow_fast.game.tasks import Source, attack_task, defend_sources, defend_tasks
from sectow_fast.types import Attack

WORLD = ScriptedWorld(harmless=400, unsafe=400)


def kept(goal: str, style: str, number: int) -> Attack:
    case = request(goal, clothes=style, case_id=f"a{number}")
    return Attack(
        case=case, seed_id=f"seed-{goal}", mode="generate", words=f"{style} {goal}", round=1
    )


POOL = [kept(GOALS[i % 2], "win", i) for i in range(40)]
POOL += [kept("rumi", "rare", 40 + i) for i in range(4)]


def attack_tasks(pool, share, count=2000):
    rng = random.Random(0)
    return [
        attack_task(WORLD, WORLD.seeds("train"), pool, refine_share=share, rng=rng)
        for _ in range(count)
    ]


def test_an_attack_task_is_about_a_training_seed_and_seeds_are_drawn_alike():
    goals = Counter(task.seed.goal for task in attack_tasks([], 0.25))
    assert set(goals) == set(GOALS) and min(goals.values()) > 400


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_the_share_of_tasks_that_refine_is_what_the_setting_says(share):
    tasks = attack_tasks(POOL, share)
    refining = sum(task.previous is not None for task in tasks) / len(tasks)
    assert refining == pytest.approx(share, abs=0.03 if 0 < share < 1 else 0)
    for task in tasks:
        order = f"refine {task.previous.words}" if task.previous else "write"
        assert task.case.text == f"{order} {task.seed.goal}"


def test_what_is_refined_is_a_kept_attack_on_the_same_seed_or_else_self_instructs():
    for task in attack_tasks(POOL, 1.0):
        if task.seed.goal == "tafo":  # nothing in the pool is after it
            assert task.previous.mode == "self-instruct" and task.previous.round == 0
            assert task.previous.words in ("weak tafo", "poor tafo")
            assert task.previous.seed_id == task.seed.id and task.previous.case == task.seed
        else:
            assert task.previous in POOL and task.previous.seed_id == task.seed.id
    refined = {t.previous.case.id for t in attack_tasks(POOL, 1.0) if t.previous in POOL}
    assert len(refined) > 30


def mix(harmless_share, pool_share, pool=POOL, count=4000):
    sources = defend_sources(WORLD, pool, key="k", exploration=1.0)
    tasks = defend_tasks(
        sources,
        count=count,
        harmless_share=harmless_share,
        pool_share=pool_share,
        step=0,
        rng=random.Random(1),
    )
    assert len(tasks) == count
    return tasks


@pytest.mark.parametrize(("harmless", "pool"), [(0.5, 0.8), (0.25, 0.5), (0.75, 0.0), (0.0, 1.0)])
def test_the_mix_of_data_is_what_the_settings_say(harmless, pool):
    found = Counter(task.source for task in mix(harmless, pool))
    assert found["harmless"] / 4000 == pytest.approx(harmless, abs=0.03)
    assert found["pool"] / 4000 == pytest.approx((1 - harmless) * pool, abs=0.03)
    assert found["unsafe"] / 4000 == pytest.approx((1 - harmless) * (1 - pool), abs=0.03)
    if harmless == 0:
        assert "harmless" not in found


def test_before_anything_was_kept_the_unsafe_share_is_existing_data():
    assert set(Counter(task.source for task in mix(0.5, 0.8, pool=[]))) == {"harmless", "unsafe"}


def test_a_task_holds_the_case_at_its_place_in_its_source():
    sources = defend_sources(WORLD, POOL, key="k", exploration=1.0)
    for task in mix(0.5, 0.8):
        assert sources[task.source].cases[task.place] == task.case
        assert (task.case.label == "harmless") == (task.source == "harmless")


def test_a_style_that_won_often_does_not_crowd_out_the_rest():
    source = defend_sources(WORLD, POOL, key="k", exploration=0.0)["pool"]
    drawn = [place for step in range(400) for place in source.draw(2, step=step)]
    rare = sum(source.cases[place].style == "rare" for place in drawn) / len(drawn)
    assert rare == pytest.approx(0.5, abs=0.05)  # and not 4 of 44


def test_draws_depend_on_key_and_step_and_on_nothing_else():
    def places(key, step):
        source = defend_sources(WORLD, POOL, key=key, exploration=0.5)["harmless"]
        return source.draw(10, step=step)

    assert places("a", 0) == places("a", 0)
    assert places("a", 0) != places("a", 1) and places("a", 0) != places("b", 0)


def test_a_source_gives_every_case_before_it_gives_one_twice():
    source = Source([question(i) for i in range(5)], key="k", exploration=1.0)
    drawn = source.draw(12, step=3)
    assert sorted(drawn[:5]) == sorted(drawn[5:10]) == list(range(5)) and len(drawn) == 12
    assert drawn[:5] != drawn[5:10]  # each turn is a draw of its own
    assert len(set(source.draw(5, step=4))) == 5


def test_priorities_move_to_the_cases_that_are_neither_always_right_nor_always_wrong():
    source = Source([question(i) for i in range(9)], key="k", exploration=0.0)
    for _ in range(20):
        for place in range(9):
            rewards = [1.0, 0.0, 1.0, 0.0] if place == 4 else [float(place % 2)] * 4
            source.update(place, rewards)
    drawn = Counter(source.draw(1, step=step)[0] for step in range(300))
    assert drawn[4] > 0.5 * 300
    even = Source([question(i) for i in range(9)], key="k", exploration=1.0)
    even.update(4, [1.0, 0.0])
    drawn = Counter(even.draw(1, step=step)[0] for step in range(900))
    assert max(drawn.values()) < 150  # all exploration: priorities do not matter


def test_success_is_counted_over_all_completions_of_a_case():
    source = Source([question(i) for i in range(2)], key="k", exploration=0.5)
    before = source.priorities.state()
    source.update(1, [1.0, 0.0, 1.0])
    assert source.priorities.state() != before
    twin = Source([question(i) for i in range(2)], key="k", exploration=0.5)
    twin.priorities.update([1], successes=[2.0], trials=[3])
    assert twin.priorities.state() == source.priorities.state()


# ---- the attackers of earlier rounds

ROUNDS = [replace(kept("bado", "win", 100 * k + i), round=k) for k in (1, 2, 3) for i in range(5)]


def from_pool(past_share, *, pool=ROUNDS, round=3, count=3000):
    sources = defend_sources(
        WORLD, pool, key="k", exploration=1.0, past_share=past_share, round=round
    )
    tasks = defend_tasks(
        sources,
        count=count,
        harmless_share=0.0,
        pool_share=0.5,
        past_share=past_share or 0.0,
        step=0,
        rng=random.Random(1),
    )
    for task in tasks:
        assert sources[task.source].cases[task.place] == task.case
    found = Counter(task.source for task in tasks)
    return {name: found[name] / count for name in sorted(found)}


@pytest.mark.parametrize("share", [0.25, 0.6])
def test_a_share_of_the_pool_is_of_earlier_rounds_and_each_of_them_is_drawn_alike(share):
    found = from_pool(share)
    assert found == {
        "past-1": pytest.approx(0.25 * share, abs=0.03),
        "past-2": pytest.approx(0.25 * share, abs=0.03),
        "pool": pytest.approx(0.5 * (1 - share), abs=0.03),
        "unsafe": pytest.approx(0.5, abs=0.03),
    }


def test_the_sources_of_earlier_rounds_hold_their_attacks():
    sources = defend_sources(WORLD, ROUNDS, key="k", exploration=1.0, past_share=0.5, round=3)
    for name, k in (("past-1", 1), ("past-2", 2), ("pool", 3)):
        assert sources[name].cases == [a.case for a in ROUNDS if a.round == k]


def test_without_a_share_of_the_past_the_pool_is_one_and_with_none_of_it_the_present_alone():
    def held(past_share):
        sources = defend_sources(
            WORLD, ROUNDS, key="k", exploration=1.0, past_share=past_share, round=3
        )
        return {name: len(source.cases) for name, source in sources.items() if len(name) != 8}

    assert held(None) == {"unsafe": 400, "pool": 15}
    assert held(0.0) == {"unsafe": 400, "pool": 5}
    assert held(1.0) == {"unsafe": 400, "past-1": 5, "past-2": 5, "pool": 5}
    assert set(from_pool(0.0)) == {"pool", "unsafe"} == set(from_pool(None))
    assert set(from_pool(1.0)) == {"past-1", "past-2", "unsafe"}


def test_where_the_present_attacker_kept_nothing_all_of_the_pool_is_past():
    assert set(from_pool(0.1, round=4)) == {"past-1", "past-2", "past-3", "unsafe"}
    assert from_pool(0.5, round=1, pool=ROUNDS[:5]).keys() == {"pool", "unsafe"}
    assert from_pool(0.5, pool=[]) == {"unsafe": 1.0}


def test_a_style_of_the_past_does_not_crowd_out_the_rest_of_its_round():
    pool = [replace(attack, round=1) for attack in POOL]
    source = defend_sources(WORLD, pool, key="k", exploration=0.0, past_share=1.0, round=2)[
        "past-1"
    ]
    drawn = [place for step in range(400) for place in source.draw(2, step=step)]
    rare = sum(source.cases[place].style == "rare" for place in drawn) / len(drawn)
    assert rare == pytest.approx(0.5, abs=0.05)
