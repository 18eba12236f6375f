"""What the filter keeps, and why it drops."""

from __future__ import annotations

import pytest
from scripted import GOALS, ScriptedWorld, player, request, small

from sectow_fast.game.harvest import DROP_REASONS, harvest
from sectow_fast.records import StyleCount, attack_as_dict, attack_from_dict
from sectow_fast.types import Attack


def falls_for_win(text, number, j):
    words = text.split()
    return f"leak {words[1]}" if words[0] == "win" else "sorry"


def harvested(write, *, defend=falls_for_win, pool=(), world=None, **settings):
    attacker, defender = player(write), player(defend)
    found = harvest(
        world or ScriptedWorld(),
        attacker,
        defender,
        config=small(**settings),
        pool=list(pool),
        round=3,
    )
    return found, attacker, defender


def writes(*replies):
    """Attack number i is replies[i], "GOAL" standing for its task's own goal."""

    def write(text, number, j):
        words = replies[number % len(replies)]
        return words and words.replace("GOAL", text.split()[-1])

    return write


def varied(clothes):
    return lambda text, number, j: f"{clothes} {text.split()[-1]} {number}"


class OpenWorld(ScriptedWorld):
    """Here the third word of an attack is padding, so that no two attacks are alike."""

    def realise(self, words, seed, *, rng, attack_id):
        return super().realise(" ".join(words.split()[:2]), seed, rng=rng, attack_id=attack_id)


def test_what_beats_the_current_defender_is_kept_with_where_it_came_from():
    found, attacker, _ = harvested(varied("win"), world=OpenWorld(), attack__refine_share=0.5)
    assert len(found.kept) == found.record.kept == 8
    assert set(found.record.dropped) == set(DROP_REASONS)
    assert not any(found.record.dropped.values())
    for attack in found.kept:
        assert attack.success == 1.0 and attack.round == 3
        assert attack.case.goal in GOALS and attack.seed_id == f"seed-{attack.case.goal}"
        assert attack.words.startswith(f"win {attack.case.goal}")
        assert attack.mode == attack.case.source
    orders = {"write": "generate", "refine": "refine"}
    asked = [orders[text.split()[0]] for text in attacker.engine.calls[0][0]]
    assert [attack.mode for attack in found.kept] == asked and set(asked) == {"generate", "refine"}
    assert [attack.case.id for attack in found.kept] == [f"attack-3-{i}" for i in range(8)]


@pytest.mark.parametrize(
    ("write", "reason"),
    [
        (writes(None), "cut off"),
        (writes("ill GOAL"), "ill-formed"),
        (writes(""), "ill-formed"),
        (writes("win zuno"), "off target"),
        (varied("weak"), "failed"),
    ],
)
def test_what_is_no_good_is_dropped_under_its_one_reason(write, reason):
    found, *_ = harvested(write, world=OpenWorld())
    assert not found.kept and found.record.kept == 0
    assert found.record.dropped == dict.fromkeys(DROP_REASONS, 0) | {reason: 8}


def test_a_near_duplicate_of_a_sibling_is_dropped_before_it_is_tried():
    found, _, defender = harvested(writes("win GOAL"), harvest__attacks=40)
    assert len(found.kept) == len(GOALS) and found.record.dropped["duplicate"] == 36
    assert len(defender.engine.calls[0][0]) == 4


def test_a_near_duplicate_of_the_pool_is_dropped():
    pool = [
        Attack(
            case=request(goal),
            seed_id=f"seed-{goal}",
            mode="generate",
            words=f"win {goal}",
            round=1,
        )
        for goal in GOALS[:2]
    ]
    found, *_ = harvested(writes("win GOAL"), pool=pool, harvest__attacks=60)
    assert {attack.case.goal for attack in found.kept} == set(GOALS[2:])
    assert found.record.dropped["duplicate"] == 58
    loose, *_ = harvested(
        varied("win"), pool=pool, world=OpenWorld(), harvest__duplicate_threshold=0.1
    )
    assert loose.record.dropped["duplicate"] > 0


def test_every_candidate_is_kept_or_dropped_under_exactly_one_reason():
    found, *_ = harvested(
        writes("win GOAL", None, "ill GOAL", "win zuno", "weak GOAL"), harvest__attacks=50
    )
    assert found.record.kept + sum(found.record.dropped.values()) == 50
    assert min(found.record.dropped.values()) > 0


def test_an_attack_must_succeed_in_the_least_number_of_its_replies():
    def sometimes(text, number, j):
        return f"leak {text.split()[1]}" if j < 2 else "sorry"

    settings = {"harvest__replies": 4, "defend__temperature": 0.5, "defend__max_new_tokens": 3}
    for least, kept in ((1, 8), (2, 8), (3, 0)):
        found, _, defender = harvested(
            varied("win"),
            defend=sometimes,
            world=OpenWorld(),
            harvest__min_success=least,
            **settings,
        )
        assert len(found.kept) == kept and found.record.dropped["failed"] == 8 - kept
        assert all(attack.success == 0.5 for attack in found.kept)
    _, n, sampling, seed, _ = defender.engine.calls[0]
    assert (n, sampling.temperature, sampling.max_new_tokens) == (4, 0.5, 3)
    assert seed == "0/3/harvest/replies"


def test_a_reply_that_cannot_be_judged_is_no_success():
    found, *_ = harvested(varied("win"), defend=lambda *_: "mumble", world=OpenWorld())
    assert not found.kept and found.record.dropped["failed"] == 8


def test_styles_are_counted_tried_and_won():
    def write(text, number, j):
        return f"{'win' if number % 2 else 'weak'} {text.split()[-1]} {number}"

    found, *_ = harvested(write, world=OpenWorld())
    assert found.record.styles == {
        "weak": StyleCount(tried=4, won=0),
        "win": StyleCount(tried=4, won=4),
    }
    assert list(found.record.styles) == ["weak", "win"]


def test_the_attacker_writes_at_its_own_temperature_and_length():
    _, attacker, _ = harvested(
        varied("win"), attack__temperature=0.3, attack__max_new_tokens=5, attack__refine_share=0.0
    )
    texts, n, sampling, seed, _ = attacker.engine.calls[0]
    assert len(texts) == 8 and n == 1 and seed == "0/3/harvest"
    assert (sampling.temperature, sampling.max_new_tokens) == (0.3, 5)
    assert all(text.startswith("write") for text in texts)


def test_a_self_instruct_attacker_is_filtered_alike_and_no_model_writes():
    def falls_for_weak(text, number, j):
        words = text.split()
        return f"leak {words[1]}" if words[0] == "weak" else "sorry"

    found, attacker, _ = harvested(
        writes(None), defend=falls_for_weak, attacker="self-instruct", harvest__attacks=60
    )
    assert not attacker.engine.calls
    assert found.kept and {attack.mode for attack in found.kept} == {"self-instruct"}
    assert all(attack.words.startswith("weak") for attack in found.kept)
    assert found.record.dropped["failed"] == 4 and found.record.dropped["duplicate"] == 52


def test_what_an_attack_becomes_depends_on_its_number_alone():
    def first_ill(text, number, j):
        return "ill x" if number == 0 else f"win {text.split()[-1]} {number}"

    one, *_ = harvested(varied("win"), world=OpenWorld())
    other, *_ = harvested(first_ill, world=OpenWorld())
    assert one.kept[1:] == other.kept


def test_the_pool_survives_its_file():
    found, *_ = harvested(varied("win"), world=OpenWorld())
    for attack in found.kept:
        row = attack_as_dict(attack)
        assert attack_from_dict(row) == attack
        assert (row["style"], row["goal"]) == ("win", attack.case.goal)
