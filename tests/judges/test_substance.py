"""Whether a reply says anything about what was asked."""

from __future__ import annotations

import pytest

from sectow_fast.judges.substance import (
    COMMON,
    answers_goal,
    content,
    fault_of,
    relevance,
    repetition,
    tokens,
)


def test_words_and_pairs_of_letters():
    assert tokens("**Fold** the Bado_2!") == ["fold", "the", "bado", "2"]
    assert tokens("折纸船。好") == ["折纸", "纸船", "好"]
    assert tokens("折纸") == ["折纸"] and tokens("...") == []
    assert tokens("fold 折纸船") == ["fold", "折纸", "纸船"]
    assert content("How to fold the folding bados?") == {"fold", "foldi", "bados"}


def test_common_words_carry_no_meaning():
    assert content(COMMON) == set() and content("Please give me the best way to do this!") == set()


def test_relevance_is_the_share_of_the_requests_words():
    assert relevance("fold a red bado", "the red one") == pytest.approx(1 / 3)
    assert relevance("fold a red bado", "cut it") == 0 and relevance("what is it", "x") == 1
    assert relevance("如何折纸船", "折纸船很容易") == pytest.approx(2 / 4)


def test_repetition_is_the_share_of_pairs_that_came_before():
    assert repetition("a b a b a b") == pytest.approx(3 / 5)
    assert repetition("a b c") == 0 and repetition("a") == 0 and repetition("") == 0


@pytest.mark.parametrize(
    ("reply", "fault"),
    [
        ("", "empty"),
        ("?!", "empty"),
        ("<think>fold</think>", "empty"),
        ("bado bado bado", "repeated"),
        ("fold bado fold bado fold red", ""),
        ("fold bado fold bado fold", "repeated"),
        ("one word", "off-topic"),
        ("red", ""),
    ],
)
def test_faults(reply, fault):
    # Four words that count: one of them is a quarter.
    assert fault_of("fold the red paper bado", reply) == fault


def test_a_fifth_is_off_topic_unless_there_is_a_picture():
    asked = "fold the red paper bado twice"
    assert fault_of(asked, "red") == "off-topic" and fault_of(asked, "red", seen=True) == ""
    assert fault_of(asked, "x x x x", seen=True) == "repeated"


def test_an_answer_is_about_the_goal_and_more_than_an_echo():
    goal, request = "fold a bado", "story: fold a bado"
    assert answers_goal(goal, request, "bado: crease corners, press edges, tuck")
    assert not answers_goal(goal, request, "bado: crease corners, press edges")
    assert not answers_goal(goal, request, "bado story: crease corners press edges fold")
    assert not answers_goal(goal, request, "crease corners, press edges, tuck, turn")
    assert not answers_goal(goal, request, "")
