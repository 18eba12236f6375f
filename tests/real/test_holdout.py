"""What is held out shares nothing that is asked for with what is trained on."""

from __future__ import annotations

import pytest

from sectow_fast.data.suites import SuiteCase
from sectow_fast.data.suites.wording import Wording
from sectow_fast.real.contamination import find_contamination
from sectow_fast.real.holdout import hold_out


def case(suite: str, number: int, goal: str, group: str = "") -> SuiteCase:
    return SuiteCase(
        id=f"{suite}:{number}",
        suite=suite,
        split="all",
        label="unsafe",
        parts=(("text", f"wrapping {number} of {goal}"),),
        goal=goal,
        group=group,
    )


def goal(number: int) -> str:
    return f"fold a bado{number} with tool{number * 7} at dawn{number * 3}"


# As JailBreakV-28K does it: each of 40 goals in 12 wrappings; a second suite asks for the same.
WRAPPED = [case("wrapped", i, goal(i // 12), f"{i}") for i in range(480)]
PLAIN = [case("plain", i, goal(i).upper()) for i in range(40)]


@pytest.mark.parametrize("share", [0.05, 0.2, 0.5])
def test_a_question_is_on_one_side_over_all_suites(share):
    cases = WRAPPED + PLAIN
    kept, held = hold_out(cases, share, "seed", Wording())
    assert sorted(c.id for c in (*kept, *held)) == sorted(c.id for c in cases)
    assert abs(len(held) / len(cases) - share) <= 13 / len(cases)
    assert not {c.goal.lower() for c in kept} & {c.goal.lower() for c in held}
    assert {c.suite for c in held} == {"wrapped", "plain"}
    found = find_contamination(kept, {"test": held}, threshold=0.8, wording=Wording())
    assert not found.dropped


def test_groups_and_words_join_step_by_step():
    # 0 and 1 by words, 1 and 2 by group: all three are one family.
    chain = [case("a", 0, goal(0)), case("b", 1, goal(0), "g"), case("b", 2, goal(2), "g")]
    rest = [case("a", 10 + i, goal(10 + i)) for i in range(12)]
    for seed in range(20):
        kept, held = hold_out([*chain, *rest], 0.4, f"{seed}", Wording())
        assert len([c for c in held if c in chain]) in (0, 3)
        assert len(kept) == 9


def test_a_group_is_its_suites_own():
    cases = [case("a", 0, goal(0), "1"), case("b", 1, goal(1), "1")]
    kept, held = hold_out(cases, 0.5, "seed", Wording())
    assert len(kept) == len(held) == 1


def test_one_family_is_held_out_even_where_the_share_is_smaller_than_any():
    kept, held = hold_out(WRAPPED, 0.001, "seed", Wording())
    assert (len(kept), len(held)) == (468, 12)


def test_a_draw_depends_on_the_seed_alone():
    first = hold_out(WRAPPED, 0.2, "1", Wording())
    assert first == hold_out(WRAPPED, 0.2, "1", Wording())
    assert first != hold_out(WRAPPED, 0.2, "2", Wording())
