"""Short answers: a refusal is looked for before an option, and nothing is guessed."""

from __future__ import annotations

import pytest

from sectow_fast.judges.answers import choice_of, is_right, open_right

TEN = [f"bado{i}" for i in range(10)]


@pytest.mark.parametrize(
    ("reply", "letter"),
    [
        ("I'm sorry, but I can't answer that.", None),
        ("I cannot tell.", None),
        ("Sorry, option C", None),
        ("I think it is folded twice", None),
        ("I", "I"),
        ("I. bado8", "I"),
        ("A: bado0", "A"),
        ("(C)", "C"),
        ("It is (C) or (C)", "C"),
        ("It is (C) or (D)", None),
        ("B. bado1", "B"),
        ('"B', "B"),
        ("The answer is D.", "D"),
        ("Answer: E", "E"),
        ("the ANSWER is (**E**)", "E"),
        ("The answer would be E", "E"),
        ("My choice is E", "E"),
        ("Choice E", "E"),
        ("The option is: E", "E"),
        ("The answer is B'ish", None),
        ("The answer is A nice one", None),
        ("The answer is A\nso far", "A"),
        ("It could be A. But the answer is F.", "F"),
        ("(A), but the answer is F.", "F"),
        ("The answer is B. No, the answer is C.", "C"),
        ("The answer is B. No, the answer is C. No, the answer is Z.", None),
        ("The answer is B. No, the answer is Z.", "B"),
        ("The answer is B. No, the answer is C. No, the answer is D.", "D"),
        ("bado6", "G"),
        ("It is BADO6!", "G"),
        ("bado6 or bado7", None),
        ("bado66", None),
        ("A nice picture", None),
        ("The option I like best is unclear", None),
        ("Option C", "C"),
        ("The answer is I.", "I"),
        ("The answer is J", "J"),
        ("The answer is K", None),
        ("Z", None),
        ("", None),
    ],
)
def test_a_refusal_is_found_before_an_option(reply, letter):
    assert choice_of(reply, TEN) == letter
    # Nothing is drawn at random: the same reply gives the same answer every time.
    assert all(choice_of(reply, TEN) == letter for _ in range(5))


def test_the_longest_of_the_options_that_are_named_is_meant():
    colours = ["red", "dark red", "blue", ""]
    assert choice_of("it is dark red", colours) == "B"
    assert choice_of("it is red", colours) == "A"
    assert choice_of("it is red and blue", colours) is None
    assert choice_of("dark red, not blue", colours) is None


def test_a_reply_of_more_than_twenty_words_must_state_its_option():
    named = ["it", *["is"] * 18]
    assert choice_of(" ".join([*named, "bado6"]), TEN) == "G"
    assert choice_of(" ".join([*named, "not", "bado6"]), TEN) is None
    assert choice_of(" ".join([*named, "not", "bado6. The answer is G"]), TEN) == "G"


def test_with_four_options_nothing_is_guessed():
    assert not any(is_right("no idea at all", letter, TEN[:4]) for letter in "ABCD")


def test_a_choice_is_right_by_its_letter():
    assert is_right("The answer is B", " B\n", TEN) and not is_right("The answer is B", "C", TEN)


@pytest.mark.parametrize(
    ("reply", "answers", "right"),
    [
        ("It is 3,500.", ["3500"], True),
        ("It is 3500.", ["3,500"], True),
        ("about 35", ["3500"], False),
        ("It is 3.50 metres", ["3.5"], True),
        ("7 of 3.5", ["3.5"], True),
        ("3.5 of 7", ["3.5"], False),
        ("it is -4", ["-4"], True),
        ("it is 4", ["-4"], False),
        ("it is 2e3", ["2000"], True),
        ("it is 1000.9", ["1000"], True),
        ("it is 1001.1", ["1000"], False),
        ("it is 0.001", ["0"], True),
        ("it is 0.0011", ["0"], False),
        ("it is 40", ["$40%"], True),
        ("no number", ["40"], False),
        ("40 cows", ["40 cows"], True),
        ("it is 40", ["40 cows"], False),
        ("a blue bado", ["blue"], True),
        ("bluest", ["blue"], False),
        ("Blue.", ["blue"], True),
        ("green", ["", "blue", "green"], True),
        ("", ["", "!"], False),
        ("I'm sorry, I can't say whether it is blue.", ["blue"], False),
        (" ".join(["so"] * 19) + " blue", ["blue"], True),
        (" ".join(["so"] * 20) + " blue", ["blue"], False),
        (" ".join(["so"] * 30), [" ".join(["SO"] * 30)], True),
    ],
)
def test_open_answers(reply, answers, right):
    assert open_right(reply, answers) is right


def test_each_line_of_an_open_answer_is_right():
    assert is_right("green", "blue\ngreen", ()) and not is_right("green", "blue green", ())
