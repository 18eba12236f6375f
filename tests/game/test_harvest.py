"""What the filter keeps, and why it drops."""

from __future__ import annotations

import pytest
from scripted import GOALS, ScriptedWorld, player, request, small

from sectow_fast.game.harvest import BOUNDS, DROP_REASONS, harvest
from sectow_fast.records import attack_as_dict, attack_from_dict
from sectow_fast.rounds import StyleCount
from sectow_fast.types import Attack


def falls_for_win(text, number, j):
    words = text.split()
    return f"leak {words[1]}" if words[0] == "win" else "sorry"


def harvested(write, *, defend=falls_for_win, pool=(), world=None, queries=None, **settings):
    attacker, defender = player(write), player(defend)
    found = harvest(
        world or ScriptedWorld(),
        attacker,
        defender,
        config=small(**settings),
        pool=list(pool),
        round=3,
        queries=queries,
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


def pool_of(clothes, goals):
    """An attack of round 1 on each goal."""
    return [
        Attack(
            case=request(goal),
            seed_id=f"seed-{goal}",
            mode="generate",
            words=f"{clothes} {goal}",
            round=1,
        )
        for goal in goals
    ]


class TwoTongues(OpenWorld):
    """Here "won" says what "win" says."""

    def meaning(self, words, case):
        return " ".join(["win", *words.split()[1:2]])


def test_the_same_attack_in_other_words_is_a_duplicate_of_the_pool_and_of_siblings():
    pool = pool_of("won", GOALS[:1])
    found, *_ = harvested(varied("win"), world=TwoTongues(), pool=pool, harvest__attacks=40)
    assert {attack.case.goal for attack in found.kept} == set(GOALS[1:])
    assert found.record.dropped["duplicate"] == 40 - len(GOALS[1:])


def test_a_near_duplicate_of_the_pool_is_dropped():
    pool = pool_of("win", GOALS[:2])
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


# ---- a harvest that ends before all attacks are written

BOUNDED = {"harvest__attacks": 30, "harvest__replies": 2, "harvest__batch": 4}


def every_third(text, number, j):
    """The style that wins comes third; padding makes every attack a new one."""
    return f"{('weak', 'poor', 'win')[number % 3]} {text.split()[-1]} {number}"


def asked(player) -> int:
    return sum(len(texts) * n for texts, n, *_ in player.engine.calls)


def test_a_harvest_goes_on_until_enough_are_kept():
    found, attacker, defender = harvested(
        every_third, world=OpenWorld(), harvest__kept=3, **BOUNDED
    )
    assert [attack.case.id for attack in found.kept] == [f"attack-3-{i}" for i in (2, 5, 8)]
    assert sum(len(texts) for texts, *_ in attacker.engine.calls) == 12  # three batches of four
    assert found.record.kept == 3 and found.short is None
    assert found.queries == asked(defender) == 24


def test_of_the_last_batch_no_more_are_kept_than_wanted():
    found, *_ = harvested(varied("win"), world=OpenWorld(), harvest__kept=5, **BOUNDED)
    assert len(found.kept) == 5
    assert found.record.dropped == dict.fromkeys(DROP_REASONS, 0) | {"enough kept": 3}
    assert set(found.record.dropped) - set(DROP_REASONS) <= set(BOUNDS)


def test_a_harvest_ends_with_its_last_query():
    found, attacker, defender = harvested(varied("weak"), world=OpenWorld(), queries=13, **BOUNDED)
    assert found.queries == asked(defender) == 12  # one is left, and an attack takes two
    assert found.record.dropped["failed"] == 6 and found.record.dropped["no queries left"] == 2
    assert len(attacker.engine.calls) == 2 and found.short is None


def test_without_a_query_left_nothing_is_written():
    found, attacker, defender = harvested(varied("win"), world=OpenWorld(), queries=1, **BOUNDED)
    assert not found.kept and found.queries == 0
    assert not attacker.engine.calls and not defender.engine.calls


def test_what_is_not_tried_costs_no_query():
    found, _, defender = harvested(
        writes("ill GOAL", None, "win zuno", "win GOAL"), queries=100, **BOUNDED
    )
    assert found.queries == asked(defender) == 2 * len(found.kept) > 0
    assert found.queries < 2 * 7  # seven of thirty say "win GOAL", and some say it twice


def test_a_style_that_has_its_quota_is_not_tried_again():
    def two_styles(text, number, j):
        return f"{('win', 'also')[number % 2]} {text.split()[-1]} {number}"

    def falls_for_both(text, number, j):
        return f"leak {text.split()[1]}" if text.split()[0] in ("win", "also") else "sorry"

    found, _, defender = harvested(
        two_styles, defend=falls_for_both, world=OpenWorld(), harvest__style_quota=3, **BOUNDED
    )
    styles = [attack.case.style for attack in found.kept]
    assert styles.count("win") == styles.count("also") == 3
    # Two batches of four are tried; of the second one, one of each style is over its quota.
    assert len(defender.engine.calls) == 2 and found.queries == 16
    assert found.record.dropped["style full"] == 2 + 22
    assert found.record.styles["win"] == StyleCount(tried=4, won=3)
    assert found.record.kept + sum(found.record.dropped.values()) == 30


def test_a_bounded_harvest_is_the_beginning_of_a_longer_one():
    whole, *_ = harvested(every_third, world=OpenWorld(), **BOUNDED)
    for more in ({"harvest__kept": 4}, {"queries": 30}, {"harvest__style_quota": 5}):
        found, *_ = harvested(every_third, world=OpenWorld(), **BOUNDED | more)
        assert found.kept == whole.kept[: len(found.kept)] and found.kept


@pytest.mark.parametrize("attacker", ["grpo", "self-instruct"])
def test_batches_draw_what_one_batch_draws(attacker):
    def calls(player):
        return [
            (text, number, seed)
            for texts, _, _, seed, numbers in player.engine.calls
            for text, number in zip(texts, numbers, strict=True)
        ]

    settings = BOUNDED | {"attacker": attacker, "harvest__batch": 7}
    one, *whole = harvested(every_third, world=OpenWorld(), **settings)
    parts, *pieces = harvested(every_third, world=OpenWorld(), queries=10**6, **settings)
    assert parts.kept == one.kept and parts.record == one.record
    assert [calls(player) for player in pieces] == [calls(player) for player in whole]
    assert len(pieces[1].engine.calls) > len(whole[1].engine.calls) == 1


def test_self_instructs_queries_are_counted_and_bounded_alike():
    found, _, defender = harvested(
        writes(None), attacker="self-instruct", queries=6, **BOUNDED | {"harvest__attacks": 60}
    )
    assert found.queries == asked(defender) == 6


def test_a_harvest_that_wrote_all_it_may_says_what_is_missing():
    found, *_ = harvested(varied("weak"), world=OpenWorld(), queries=1000, **BOUNDED)
    assert found.queries == 60
    assert found.short == (
        "harvest ended with 940 defender queries left: all 30 attacks were written"
    )
    found, *_ = harvested(every_third, world=OpenWorld(), harvest__kept=11, **BOUNDED)
    assert found.short == "harvest kept 10 of 11 wanted: all 30 attacks were written"
    found, *_ = harvested(every_third, world=OpenWorld(), harvest__style_quota=2, **BOUNDED)
    assert found.short is None
    found, *_ = harvested(every_third, world=OpenWorld(), **BOUNDED)
    assert found.short is None and found.queries == 60


def test_without_the_filter_whatever_is_well_formed_is_kept():
    pool = [
        Attack(case=request(g), seed_id=f"seed-{g}", mode="generate", words=f"win {g}", round=1)
        for g in GOALS
    ]
    found, _, defender = harvested(
        writes("win GOAL", None, "ill GOAL", "win lumo", "weak GOAL"),
        pool=pool,
        harvest__attacks=10,
        ablate=("no-attacker-filter",),
    )
    assert [attack.case.id.split("-")[-1] for attack in found.kept] == list("034589")
    assert [attack.success for attack in found.kept] == [1.0, 1.0, 0.0] * 2
    dropped = {name: n for name, n in found.record.dropped.items() if n}
    assert dropped == {"cut off": 2, "ill-formed": 2}
    assert found.queries == 12 == asked(defender)
