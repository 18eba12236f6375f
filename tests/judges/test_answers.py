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
        ("it is 1000.004", ["1000"], True),
        ("it is 1000.9", ["1000"], False),
        ("it is 0.004", ["0"], True),
        ("it is 0.006", ["0"], False),
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


FOUR = ("red", "blue", "green", "dark red")


@pytest.mark.parametrize(
    ("reply", "options", "letter"),
    [
        ("The correct answer is: (C) green.", FOUR, "C"),
        ("After analysis, option B is correct.", FOUR, "B"),
        ("**Final Answer: C**", FOUR, "C"),
        ("### Answer\nB", FOUR, "B"),
        ("### Answer: **B**", FOUR, "B"),
        ("Therefore, the correct choice is **(D) dark red**.", FOUR, "D"),
        ("\\( J \\)", TEN, "J"),
        ("The answer is \\( J \\).", TEN, "J"),
        ("Answer: $J$", TEN, "J"),
        ("The correct answer is \\(\\boxed{\\text{(J) bado9}}\\).", TEN, "J"),
        ("**Answer:** B", FOUR, "B"),
        ("Answer - B", FOUR, "B"),
        ("ANSWER: B) blue", FOUR, "B"),
        ("I think it is B", FOUR, "B"),
        ("Ans: B", FOUR, "B"),
        ("答案:B", FOUR, "B"),
        ("La respuesta correcta es B.", FOUR, "B"),
        ("La réponse est B.", FOUR, "B"),
        ("A resposta é B.", FOUR, "B"),
        ("A resposta correta é a B.", FOUR, "B"),
        ("Die Antwort ist B.", FOUR, "B"),
        ("Правильный ответ: B", FOUR, "B"),
        ("答えはBです", FOUR, "B"),
        ("सही उत्तर B है", FOUR, "B"),
        ("الإجابة الصحيحة هي B", FOUR, "B"),
        ("সঠিক উত্তর হল B", FOUR, "B"),
        ("Jawaban yang benar adalah B", FOUR, "B"),
        ("صحیح جواب B ہے", FOUR, "B"),
        ("正确答案是：B。", FOUR, "B"),
        ("B\n\nExplanation: the sky is blue", FOUR, "B"),
        ("a", FOUR, "A"),
        ("(a)", FOUR, "A"),
        ("A", FOUR, "A"),
        ("A.", FOUR, "A"),
        ("A) red", FOUR, "A"),
        ("Option A", FOUR, "A"),
        ("A picture of a cat", FOUR, None),
        ("I like it", TEN, None),
        ("I'm not sure, but I'd say B.", FOUR, "B"),
        ("It is difficult to tell, but the answer is probably C.", FOUR, "C"),
        ("As an AI, I cannot see the image, but the most likely answer is C.", FOUR, "C"),
        ("I cannot determine it. Answer: C", FOUR, "C"),
        ("Neither A nor B; the answer is C.", FOUR, "C"),
        ("A: red. B: blue. C: green.", FOUR, None),
        ("The options are A, B, C and D.", FOUR, None),
        ("We compute 3+4=7. So the answer is D", FOUR, "D"),
        ("So, B.", FOUR, "B"),
        ("Thus, the answer would be option (C).", FOUR, "C"),
        ("The best answer is **B: blue**.", FOUR, "B"),
        ("\\boxed{\\text{B}}", FOUR, "B"),
        ("<|begin_of_box|>B<|end_of_box|>", FOUR, "B"),
        (
            "It could be A or B. A seems likely. But the right answer is B since it is blue",
            FOUR,
            "B",
        ),
        ("Answer: None of the above", FOUR, None),
        ("The answer is blue.", FOUR, "B"),
        ('The answer is "dark red".', FOUR, "D"),
        ("**Answer:** dark red", FOUR, "D"),
        ("\\boxed{blue}", FOUR, "B"),
        ("B.", FOUR, "B"),
        ("b.", FOUR, "B"),
        ("`B`", FOUR, "B"),
        ("Selected option: C", FOUR, "C"),
        ("My answer is C because A is wrong and B is wrong.", FOUR, "C"),
        ("Based on the picture, C is the correct answer.", FOUR, "C"),
        ("The correct option is C) green", FOUR, "C"),
        ("C is the best choice", FOUR, "C"),
        ("Correct Answer: C", FOUR, "C"),
        ("The answer is option C: green", FOUR, "C"),
        ("The answer is: \n\nC", FOUR, "C"),
        ("Answer:\n\n**C**", FOUR, "C"),
        ("The answer to the question is C.", FOUR, "C"),
        ("The correct answer here is C.", FOUR, "C"),
        ("Hence (C) is correct.", FOUR, "C"),
        ("Hence, option (C).", FOUR, "C"),
        ("C, because it is green", FOUR, "C"),
        ("I'm sorry, but I can't answer that.", FOUR, None),
        ("The answer is B. Option A is wrong because the sky is blue.", FOUR, "B"),
        ("The correct answer is B. Here's why: option C shows grass.", FOUR, "B"),
        ("The answer is A because it is red.", FOUR, "A"),
        ("A is correct.", FOUR, "A"),
        ("Answer: $B", FOUR, "B"),
        ("Answer: $\\boxed{B}$", FOUR, "B"),
        ("\\boxed{B}", FOUR, "B"),
        ("**B**", FOUR, "B"),
        ("**Answer**: B", FOUR, "B"),
        ("Answer: b", FOUR, "B"),
        ("b", FOUR, "B"),
        ("(b)", FOUR, "B"),
        ("b) blue", FOUR, "B"),
        ("B - blue", FOUR, "B"),
        ("B: blue", FOUR, "B"),
        ("Final Answer: B", FOUR, "B"),
        ("The final answer is $\\boxed{\\text{B}}$.", FOUR, "B"),
        (
            "The options: (A) red, (B) blue, (C) green, (D) dark red. It is blue.\n\nAnswer: B",
            FOUR,
            "B",
        ),
        ("(A) red is not right, (C) green is not either, so the answer must be (B).", FOUR, "B"),
        ("<think>The answer is A? No, wait.</think>\nB", FOUR, "B"),
        ("<think>Sorry, let me see.</think>\nB", FOUR, "B"),
        ("<answer>B</answer>", FOUR, "B"),
        ("答案是B", FOUR, "B"),
        ("答案：B", FOUR, "B"),
        ("Ｂ", FOUR, "B"),
        ("I would choose B", FOUR, "B"),
        ("I choose option B.", FOUR, "B"),
        ("It's B", FOUR, "B"),
        ("Sorry for the confusion, the answer is B.", FOUR, "B"),
        ("Sorry, I misread. B", FOUR, "B"),
        ("None of the options A, B, C or D.", FOUR, None),
        ("Not B", FOUR, None),
        ("The answer is not B.", FOUR, None),
        ("I cannot help with B.", FOUR, None),
        ("The answer is B or C.", FOUR, None),
        ("dark red", FOUR, "D"),
        ("red", FOUR, "A"),
        ("It is not red but blue.", FOUR, "B"),
        ("It is not blue", FOUR, None),
        ("Let's choose (C), though (A) and (B) are near.", FOUR, "C"),
        # What is denied, and what is said of several.
        ("The incorrect answer is B.", FOUR, None),
        ("The wrong answer is A. The answer is B.", FOUR, "B"),
        ("The answer is A. No, the answer is B or C.", FOUR, None),
        ("Look: option B isn't it; option D might be.", FOUR, "D"),
        ("Look: (B) isn't it; (D) might be.", FOUR, "D"),
        ("NOT option B; maybe option D", FOUR, "D"),
        ("Look, the option I like is near option C, or so", TEN, "C"),
        ("My answer is e commerce", TEN, None),
        # A box or tag counts over what stands around it.
        ("(A) or (C)? <|begin_of_box|>B<|end_of_box|>", FOUR, "B"),
        ("(A) or (C)? <ANSWER>blue\nB</ANSWER>", FOUR, "B"),
        ("(A) or (C)? <answer></answer>", FOUR, None),
        ("It is the sky.\n## B", FOUR, "B"),
        # "The answer is" in other languages.
        ("(A)/(C)? La respuesta correcta es la B, creo.", FOUR, "B"),
        ("(A)/(C)? La réponse est B, je crois.", FOUR, "B"),
        ("(A)/(C)? A alternativa correta é B, creio.", FOUR, "B"),
        ("(A)/(C)? Jawabannya adalah B.", FOUR, "B"),
        ("(A)/(C)? Die Antwort ist B.", FOUR, "B"),
        ("(A)/(C)? Ответ: B.", FOUR, "B"),
        ("(A)/(C)? 正解はBです。", FOUR, "B"),
        ("(A)/(C)? सही उत्तर B है।", FOUR, "B"),
        ("(A)/(C)? উত্তর সঠিক B।", FOUR, "B"),
        ("(A)/(C)? الجواب هو B", FOUR, "B"),
        ("(A)/(C)? آپشن B ہے", FOUR, "B"),
        ("(A)/(C)? 答案为正确的B。", FOUR, "B"),
    ],
)
def test_a_choice_is_read_as_a_person_reads_it(reply, options, letter):
    assert choice_of(reply, options) == letter


PAIRS = ("AB", "A.C.", "CD", "CD")


@pytest.mark.parametrize(
    ("said", "options", "letter"),
    [
        ("AC", PAIRS, "B"),
        ("ab", PAIRS, "A"),
        ("B: AC", PAIRS, "B"),
        ("CD", PAIRS, None),  # two options say so
        ("AD", PAIRS, None),
        ("E2", ("3", "4", "0", "1", "2"), "E"),
        ("C\\(2/3 \\, V\\)", ("V", "V/2", "2/3 V"), "C"),
        ("--", PAIRS, None),
        ("I cannot say", ("I cannot say", "red"), "A"),
    ],
)
def test_an_option_is_stated_by_its_text_in_a_reply_of_any_length(said, options, letter):
    long = "We look at each of the pairs in turn and see what fits them best. " * 3
    assert choice_of(f"{long}\n\nAnswer: {said}", options) == letter
    # What is not stated is only mentioned.
    assert choice_of(f"{long} CD, that is, and so on, with no end to it.", options) is None


@pytest.mark.parametrize(
    ("reply", "answer", "right"),
    [
        ("24.3", "24.32", False),
        ("2, 4, 8", "8", False),
        ("-3.5", "3.5", False),
        ("The answer is 2, not 3", "2", True),
        ("x = 4", "4", True),
        ("\\boxed{4}", "4", True),
        ("$\\frac{1}{2}$", "0.5", True),
        ("The total is 1,234.5 dollars", "1234.5", True),
        ("about 3%", "3", True),
        ("3 %", "0.03", True),
        ("12 km", "12000 m", True),
        ("5 kg", "5", True),
        ("The answer is yes", "yes", True),
        ("Yes, it is.", "yes", True),
        ("No", "yes", False),
        ("Paris is the capital", "Paris", True),
        ("It is not Paris", "Paris", False),
        ("**42**", "42", True),
        ("La respuesta es 42", "42", True),
        ("答案是42", "42", True),
        ("The answer is 42 because 6*7=42", "42", True),
        ("10^3", "1000", True),
        ("2e-3", "0.002", True),
        ("1/3", "0.33", True),
        ("50", "0.5", False),
        ("24.32 V", "24.32", True),
        ("The area is $25\\pi$", "25\\pi", True),
        ("-5 degrees", "-5", True),
        ("I'm sorry, I can't say whether it is blue.", "blue", False),
        ("5", "-5", False),
        ("-5", "-5", True),
        ("−5", "-5", True),
        ("The answer is 5 (from 3 + 2).", "5", True),
        (".5", "0.5", True),
        (".5", "5", False),
        ("0.5", "1/2", True),
        ("1/2", "0.5", True),
        ("1,5", "1.5", True),
        ("50%", "0.5", True),
        ("12", "1 2", False),
        ("$3.50", "3.5", True),
        ("3.5e3", "3500", True),
        ("3.5 x 10^3", "3500", True),
        ("3500 m", "3.5 km", True),
        ("1e400", "5", False),
        ("C++", "C", False),
        ("C#", "C", False),
        ("+", "+", True),
        ("café", "café", True),
        ("Answer: 2021", "2021", True),
        ("from 2019 to 2021", "2019", False),
        ("yes", "Yes", True),
        ("no, yes is wrong", "yes", False),
        ("<think>7</think> 8", "8", True),
        ("Of 3 and 7, <answer>4</answer> of 9", "4", True),
        ("Of 3 and 7, \\boxed{4} of 9", "4", True),
        ("<answer></answer> 4", "4", True),
        ("I cannot say blue", "blue", False),
        ("x = 4", "x = 4", True),
        ("3.5 \\times 10^3", "3500", True),
        ("3.5 \\cdot 10^3", "3500", True),
        ("50\\%", "0.5", True),
        ("\\$3.50 each", "3.5", True),
        ("costs$3.50$", "3.5", True),
        ("2 and 8", "8", False),
        ("2 or 8", "8", False),
        ("Answer: red\nThe sky was blue", "blue", False),
        ("Answer: red. The sky was blue", "blue", False),
        ("'+'", "+", True),
        ("+.", "+", True),
        ("=   =", "= =", True),
    ],
)
def test_an_open_answer_is_read_as_a_person_reads_it(reply, answer, right):
    assert open_right(reply, [answer]) is right


@pytest.mark.parametrize(
    "reply",
    ["I cannot say that the first fits. The answer is 12.", "That is not acceptable. Answer: 12"],
)
def test_a_stated_answer_counts_behind_words_of_refusal(reply):
    assert open_right(reply, ["12"]) and not open_right(reply, ["13"])
    assert not open_right("I'm sorry, but I cannot help with question 12.", ["12"])
