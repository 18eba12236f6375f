"""The attacker's role: how a step's attacks are made, tried, paid and watched."""

from __future__ import annotations

import pytest
import scripted
from scripted import GOALS, ScriptedWorld, player, question, request, small

from sectow_fast.game.attacker import AttackerRole
from sectow_fast.game.rewards import REWARD_TERMS, register_reward_term
from sectow_fast.types import Attack

WINS = "win"  # the clothes that the scripted defender falls for


def defends(text, number, j):
    words = text.split()
    return f"leak {words[1]}" if words[0] == WINS else "sorry"


def attacker_writes(*replies):
    """Completion j of every task is replies[j], "GOAL" standing for the task's own goal."""
    return lambda text, number, j: replies[j] and replies[j].replace("GOAL", text.split()[-1])


def role_of(attacker, defender=None, *, pool=(), world=None, **settings):
    return AttackerRole(
        world=world or ScriptedWorld(),
        attacker=attacker,
        defender=defender or player(defends),
        config=small(**settings),
        pool=list(pool),
        round=1,
    )


def step_of(role, step=0):
    return scripted.step_of(
        role, role.attacker, group_size=role.config.attack.group_size, step=step
    )


def kept(goal, words):
    return Attack(case=request(goal), seed_id=f"seed-{goal}", mode="generate", words=words, round=1)


def test_an_attack_is_paid_for_beating_the_defender_and_nothing_else_is():
    writes = attacker_writes("win GOAL", "weak GOAL", "ill GOAL", None)
    _, scores = step_of(role_of(player(writes), attack__diversity_weight=0.4))
    for row in scores.rewards:
        assert [reward.total for reward in row] == [1.0, 0.0, -0.4, -0.4]
        assert [reward.parts["success"] for reward in row] == [1.0, 0.0, 0.0, 0.0]
        assert [reward.parts["well_formed"] for reward in row] == [1.0, 1.0, 0.0, 0.0]


def test_an_attack_on_another_goal_is_not_tried_and_pays_the_full_price():
    defender = player(defends)
    role = role_of(player(attacker_writes(*["win zuno"] * 4)), defender)
    _, scores = step_of(role)
    assert {reward.total for row in scores.rewards for reward in row} == {-0.4}
    assert {reward.parts["faithful"] for row in scores.rewards for reward in row} == {0.0}
    assert not defender.engine.calls
    assert scores.measures["faithful"] == 0.0 and scores.measures["well_formed"] == 1.0


def test_success_is_the_mean_over_m_replies_of_the_present_defender():
    defender = player(lambda text, number, j: f"leak {text.split()[1]}" if j == 0 else "sorry")
    writes = attacker_writes("a GOAL", "b GOAL", "c GOAL", "d GOAL")
    settings = {"attack__temperature": 0.7, "defend__max_new_tokens": 5}
    role = role_of(player(writes), defender, attack__replies=4, **settings)
    _, scores = step_of(role)
    assert {reward.parts["success"] for row in scores.rewards for reward in row} == {0.25}
    _, n, sampling, _, _ = defender.engine.calls[0]
    assert n == 4 and sampling.temperature == 0.7
    assert sampling.max_new_tokens == 5


def test_a_reply_that_cannot_be_judged_is_no_success():
    role = role_of(player(attacker_writes(*["win GOAL"] * 4)), player(lambda *_: "mumble"))
    _, scores = step_of(role)
    assert {reward.parts["success"] for row in scores.rewards for reward in row} == {0.0}


def test_likeness_to_siblings_is_paid_for_by_the_diversity_weight():
    role = role_of(player(attacker_writes("win GOAL", "win GOAL", "weak GOAL", "poor GOAL")))
    _, scores = step_of(role)
    for row in scores.rewards:
        # Each of the two copies has one twin among three siblings.
        assert row[0].parts["similarity"] == row[1].parts["similarity"] == pytest.approx(1 / 3)
        assert row[0].total == pytest.approx(1 - 0.4 / 3)
        assert row[2].parts["similarity"] == row[3].parts["similarity"] == 0.0
    assert scores.measures["duplicates"] == 0.5


def test_what_stands_in_the_pool_already_is_wholly_alike():
    pool = [kept(goal, f"win {goal}") for goal in GOALS]
    writes = attacker_writes("win GOAL", "weak GOAL", "poor GOAL", "other GOAL")
    role = role_of(player(writes), pool=pool, attack__refine_share=0.0)
    _, scores = step_of(role)
    for row in scores.rewards:
        assert [reward.parts["similarity"] for reward in row] == [1.0, 0.0, 0.0, 0.0]
        assert row[0].total == pytest.approx(1 - 0.4)


class OneMeaning(ScriptedWorld):
    """Here "won" and "weak" say what "win" says."""

    def meaning(self, words, case):
        clothes, _, goal = words.partition(" ")
        return f"win {goal}" if clothes in ("won", "weak") else words


def test_likeness_is_told_by_what_attacks_mean_and_not_by_their_words():
    pool = [kept(goal, f"won {goal}") for goal in GOALS]
    writes = attacker_writes("win GOAL", "weak GOAL", "other GOAL", "other GOAL")
    role = role_of(player(writes), world=OneMeaning(), pool=pool, attack__refine_share=0.0)
    _, scores = step_of(role)
    for row in scores.rewards:
        found = [reward.parts["similarity"] for reward in row]
        assert found == [1.0, 1.0, pytest.approx(1 / 3), pytest.approx(1 / 3)]
    # Without a pool: the first two are siblings of one meaning in two words.
    writes = attacker_writes("win GOAL", "weak GOAL", "other GOAL", "poor GOAL")
    role = role_of(player(writes), world=OneMeaning(), attack__refine_share=0.0)
    _, scores = step_of(role)
    for row in scores.rewards:
        found = [reward.parts["similarity"] for reward in row]
        assert found == [pytest.approx(1 / 3), pytest.approx(1 / 3), 0.0, 0.0]


def test_to_repeat_what_was_to_be_refined_is_wholly_alike():
    writes = attacker_writes("weak GOAL", "poor GOAL", "win GOAL", "new GOAL")
    role = role_of(player(writes), attack__refine_share=1.0)
    tasks, scores = step_of(role)
    for task, row in zip(tasks, scores.rewards, strict=True):
        words = ("weak", "poor", "win", "new")
        same = [float(task.previous.words.startswith(word)) for word in words]
        assert [reward.parts["similarity"] for reward in row] == same


def test_measures_say_how_good_and_how_various_the_attacks_are():
    writes = attacker_writes("win GOAL", "weak GOAL", "ill GOAL", None)
    _, scores = step_of(role_of(player(writes)))
    assert scores.measures["well_formed"] == scores.measures["faithful"] == 0.5
    assert scores.measures["styles"] == 2.0 and scores.measures["duplicates"] == 0.0
    assert 0 < scores.measures["diversity"] <= 1
    copies = role_of(player(attacker_writes(*["win GOAL"] * 4)))
    measures = step_of(copies)[1].measures
    assert measures["diversity"] == pytest.approx(0.0) and measures["duplicates"] == 1.0
    assert measures["styles"] == 1.0 and measures["distinct_2"] == 0.25
    assert measures["repetition"] == 0.0


def test_an_attacks_own_generator_and_number_do_not_depend_on_the_others():
    """The same attack gets the same case and the same draws, whatever its siblings are."""

    def seen(*replies):
        defender = player(defends)
        step_of(role_of(player(attacker_writes(*replies)), defender))
        texts, _, _, seed, numbers = defender.engine.calls[0]
        return {number: (text, seed) for number, text in zip(numbers, texts, strict=True)}

    all_four = seen("win GOAL", "weak GOAL", "poor GOAL", "new GOAL")
    fewer = seen("ill GOAL", "weak GOAL", None, "new GOAL")
    assert sorted(all_four) == list(range(16))
    assert sorted(fewer) == [1, 3, 5, 7, 9, 11, 13, 15]
    assert all(all_four[number] == fewer[number] for number in fewer)
    assert len({text for text, _ in all_four.values()}) == 16


@pytest.mark.parametrize("replies", [1, 3])
def test_streamed_and_batched_attacks_are_scored_alike(replies):
    writes = attacker_writes("win GOAL", "weak GOAL", "ill GOAL", "win GOAL")

    def half(text, number, j):
        return defends(text, number, j) if (number + j) % 3 else "mumble"

    batched, streamed = (
        role_of(player(writes), player(half), attack__replies=replies) for _ in range(2)
    )
    streamed.attacker.engine.beside.append(streamed.defender.engine)
    streamed.defender.engine.beside.append(streamed.attacker.engine)
    assert step_of(streamed)[1] == step_of(batched)[1]
    assert [numbers for *_, numbers in batched.defender.engine.calls] == [
        [number for number in range(16) if number % 4 != 2]
    ]
    asked = sorted(numbers for *_, numbers in streamed.defender.engine.calls)
    assert asked == [[number] for number in range(16) if number % 4 != 2]  # one by one


def test_attacks_that_wait_are_judged_together_and_streamed_ones_as_they_come():
    writes = attacker_writes(*["win GOAL"] * 4)
    batched, streamed = role_of(player(writes)), role_of(player(writes))
    streamed.attacker.engine.beside.append(streamed.defender.engine)
    streamed.defender.engine.beside.append(streamed.attacker.engine)
    step_of(batched), step_of(streamed)
    assert batched.world.asked_to_judge == [16]
    assert sum(streamed.world.asked_to_judge) == 16 and len(streamed.world.asked_to_judge) > 8
    first_looks = {stream.waited[0] for stream in streamed.defender.engine.dripping}
    assert first_looks == {False}  # nothing is waited for while attacks are still written


def test_an_attack_is_named_and_seeded_by_seed_round_step_and_its_place():
    defender = player(defends)
    role = role_of(player(attacker_writes("win GOAL", "weak GOAL", "a GOAL", "b GOAL")), defender)
    step_of(role, step=7)
    places = [(i, j) for i in range(4) for j in range(4)]
    assert role.world.realised == [f"0/1/attack/score/7/{i}/{j}" for i, j in places]
    assert {seed for *_, seed, _ in defender.engine.calls} == {"0/1/attack/score/7"}
    assert role.name == "attacker"


def test_tasks_depend_on_seed_round_and_step_alone():
    writes = player(attacker_writes(*["win GOAL"] * 4))

    def drawn(step, **more):
        role = role_of(writes, **{"attack__prompts": 20} | more)
        return [(t.seed.goal, t.case.text) for t in role.tasks(step)]

    assert drawn(0) == drawn(0) and len(drawn(0)) == 20
    assert drawn(0) != drawn(1) and drawn(0) != drawn(0, seed=1)
    assert any(text.startswith("refine") for _, text in drawn(0, attack__refine_share=0.5))
    assert all(text.startswith("write") for _, text in drawn(0, attack__refine_share=0.0))


GOOD = {"faithful": 1.0, "well_formed": 1.0, "diversity": 0.9, "duplicates": 0.0}
LOW = GOOD | {"diversity": 0.01}
WATCHED = {"monitor__window": 1, "monitor__patience": 2, "monitor__diversity_weight_raised": 0.9}


def test_low_quality_raises_the_price_of_likeness_and_then_stops_the_phase():
    role = role_of(player(attacker_writes(*["win GOAL"] * 4)), **WATCHED)
    assert role.watch(0, GOOD) == ([], {"queries": 0.0}) and role.diversity_weight == 0.4
    (event,), more = role.watch(1, LOW)
    assert more == {"queries": 0.0} and role.diversity_weight == 0.9 and not role.stopped
    assert (event.kind, event.phase, event.round, event.step) == ("low-quality", "attack", 1, 1)
    assert event.message == "diversity weight raised to 0.9: diversity 0.01 under 0.12"
    assert event.values == LOW
    _, scores = step_of(role)
    totals = [reward.total for row in scores.rewards for reward in row]
    assert totals == pytest.approx([0.1] * 16)
    (event,), _ = role.watch(2, LOW)
    assert event.kind == "early-stop" and role.stopped
    assert event.message == "attacker phase stopped early: diversity 0.01 under 0.12"


def test_every_measure_beyond_its_bound_is_said():
    role = role_of(player(attacker_writes(*["win GOAL"] * 4)), **WATCHED)
    (event,), _ = role.watch(0, LOW | {"duplicates": 0.9})
    assert event.message.endswith(": diversity 0.01 under 0.12, duplicates 0.90 over 0.75")


@pytest.mark.parametrize("name", ["no-attacker-controller", "no-attacker-monitor"])
def test_without_the_attacker_monitor_nothing_acts(name):
    role = role_of(player(attacker_writes(*["win GOAL"] * 4)), ablate=(name,), **WATCHED)
    for step in range(5):
        assert role.watch(step, LOW) == ([], {"queries": 0.0})
    assert role.diversity_weight == (0.4 if name == "no-attacker-controller" else 0.0)
    assert not role.stopped


def test_without_its_gates_any_harm_is_paid_and_nonsense_costs_nothing():
    writes = attacker_writes("win GOAL", "win bado", "ill GOAL", None)
    defender = player(defends)
    role = role_of(player(writes), defender, ablate=("no-attacker-gates",))
    tasks, scores = step_of(role)
    for row in scores.rewards:
        assert [reward.total for reward in row] == [1.0, 1.0, 0.0, 0.0]
    others = [row for task, row in zip(tasks, scores.rewards, strict=True)
              if task.seed.goal != "bado"]  # fmt: skip
    assert others and all(row[1].parts["faithful"] == 0.0 for row in others)
    assert len(defender.engine.calls[0][0]) == 8  # two of four completions make a case
    assert role.queries == 8


def test_queries_are_counted_over_all_replies_and_steps():
    role = role_of(player(attacker_writes("win GOAL", "ill x", "a GOAL", None)), attack__replies=3)
    for step in (1, 2):
        step_of(role, step)
        assert role.watch(step, GOOD) == ([], {"queries": 24.0})  # 4 prompts, 2 tried, 3 replies
        assert role.queries == 24 * step
    again = role_of(player(attacker_writes(*["win GOAL"] * 4)))
    again.restore(role.state())
    assert again.queries == 48 and again.watch(3, GOOD) == ([], {"queries": 0.0})


def test_the_phase_ends_before_a_step_could_cost_more_than_its_share_of_the_budget():
    settings = {"query_budget": 80, "attack__query_share": 0.5, "attack__steps": 9}
    role = role_of(player(attacker_writes("win GOAL", "a GOAL", "b GOAL", None)), **settings)
    step_of(role)
    assert role.queries == 12
    assert role.watch(0, GOOD) == ([], {"queries": 12.0}) and not role.stopped  # 12 + 16 <= 40
    step_of(role, 1)
    assert (
        role.watch(1, GOOD) == ([], {"queries": 12.0}) and not role.stopped
    )  # 24 + 16 <= 40, the bound itself
    step_of(role, 2)
    (event,), _ = role.watch(2, GOOD)
    assert role.stopped and role.queries == 36
    assert (event.kind, event.phase, event.round, event.step) == ("budget", "attack", 1, 2)
    assert event.values == {"queries": 36.0}
    assert event.message == (
        "attacker phase ended: 36 of the 40 defender queries that it may use are spent, and a step"
        " may take 16"
    )
    last = role_of(player(attacker_writes(*["win GOAL"] * 4)), **settings | {"attack__steps": 3})
    last.queries = 36
    assert last.watch(2, GOOD)[0] == [] and not last.stopped  # no step is left to be ended
    unbound = role_of(player(attacker_writes(*["win GOAL"] * 4)))
    unbound.queries = 10**9
    assert unbound.watch(0, GOOD) == ([], {"queries": 1e9}) and not unbound.stopped


def test_a_phase_that_quality_has_stopped_is_not_said_to_have_spent_its_budget():
    settings = {"query_budget": 22, "attack__query_share": 0.75, "monitor__patience": 1}
    role = role_of(player(attacker_writes(*["win GOAL"] * 4)), **WATCHED | settings)
    role.queries = 16
    (event,), _ = role.watch(0, LOW)
    assert event.kind == "early-stop" and role.stopped


# ---- two-sided pay


class Permissive(ScriptedWorld):
    """Here words that begin with "ask" make a harmless request."""

    def realise(self, words, seed, *, rng, attack_id):
        if words.startswith("ask"):
            return question(7)
        return super().realise(words, seed, rng=rng, attack_id=attack_id)


def refuses_some(text, number, j):
    return "sorry" if text.startswith("question") and j == 0 else "fine"


def test_with_two_sided_pay_a_wrongful_refusal_is_a_part_of_its_own():
    writes = attacker_writes("ask a", "ask b", "weak GOAL", "ill x")
    settings = {"attack__two_sided": 0.5, "attack__replies": 4, "attack__diversity_weight": 0.4}
    role = role_of(player(writes), player(refuses_some), world=Permissive(), **settings)
    _, scores = step_of(role)
    for row in scores.rewards:
        assert [reward.parts["wrongful"] for reward in row] == [0.25, 0.25, 0.0, 0.0]
        assert [reward.parts["success"] for reward in row] == [0.0] * 4
        assert [reward.parts["faithful"] for reward in row] == [0.0, 0.0, 1.0, 0.0]
        assert [reward.total for reward in row] == [0.125, 0.125, 0.0, -0.4]
    assert role.queries == 4 * 3 * 4


def test_a_harmless_request_that_nobody_refuses_is_no_attack():
    role = role_of(
        player(attacker_writes("ask a", "ask b", "weak GOAL", "poor GOAL")),
        player(lambda *_: "fine"),
        world=Permissive(),
        attack__two_sided=1.0,
    )
    _, scores = step_of(role)
    assert [reward.total for reward in scores.rewards[0]] == [-0.4, -0.4, 0.0, 0.0]


def test_without_two_sided_pay_a_harmless_request_is_not_tried():
    defender = player(refuses_some)
    role = role_of(player(attacker_writes(*["ask a"] * 4)), defender, world=Permissive())
    _, scores = step_of(role)
    assert not defender.engine.calls
    assert {reward.total for row in scores.rewards for reward in row} == {-0.4}
    assert "wrongful" not in scores.rewards[0][0].parts


def test_the_refusal_of_an_attack_is_not_paid_as_wrongful():
    writes = attacker_writes("weak GOAL", "poor GOAL", "a GOAL", "b GOAL")
    role = role_of(player(writes), player(lambda *_: "sorry"), attack__two_sided=1.0)
    _, scores = step_of(role)
    assert {reward.total for row in scores.rewards for reward in row} == {0.0}


def test_a_resumed_role_goes_on_where_it_was():
    def fresh():
        return role_of(player(attacker_writes(*["win GOAL"] * 4)), **WATCHED)

    role, again = fresh(), fresh()
    role.watch(0, LOW)
    again.restore(role.state())
    assert again.diversity_weight == 0.9 and not again.stopped
    again.watch(1, LOW)
    last = fresh()
    last.restore(again.state())
    assert last.stopped and role.last_good is None


def test_a_registered_term_sees_what_was_written_and_is_weighed():
    seen = []
    with REWARD_TERMS.temporarily():
        register_reward_term("probe", lambda earned: seen.append(earned) or 1.0)
        writes = attacker_writes("win GOAL", "ill GOAL", None, "weak GOAL")
        role = role_of(player(writes), attack__terms={"probe": 0.25})
        tasks, scores = step_of(role)
    totals = [reward.total for reward in scores.rewards[0]]
    assert totals == pytest.approx([1.25, -0.15, -0.15, 0.25])
    goal = tasks[0].seed.goal
    assert [one.reply for one in seen[:4]] == [f"win {goal}", f"ill {goal}", "", f"weak {goal}"]
    assert [len(one.verdicts) for one in seen[:4]] == [1, 0, 0, 1]
    assert [one.completion.finish_reason for one in seen[:4]] == ["stop", "stop", "length", "stop"]
    assert all(one.case == tasks[0].seed for one in seen[:4])
