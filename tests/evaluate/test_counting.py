"""How records are counted: by what is asked for, at k attacks, at one rate of success."""

from __future__ import annotations

import itertools
import statistics

import pytest

from sectow_fast.data.asked import TrainedOn
from sectow_fast.data.suites.cases import SuiteCase
from sectow_fast.data.suites.registry import suites
from sectow_fast.data.suites.wording import Wording
from sectow_fast.evaluation.tables import asr_at, matched, rate_of, row_summary
from sectow_fast.report.model_words import matched_words, seen_words
from sectow_fast.types import UserError


def record(goal, success, *, suite="s", label="unsafe", refusal="none", group="g"):
    return {
        "goal": goal, "prompt": "words", "group": group, "success": success, "case_label": label,
        "refusal": refusal,
        "answer": None, "correct": None, "benchmark": suite, "category": "c", "format": "f",
        "split": "x", "cut": False, "unknown_words": False, "replaced": 0, "judge_score": None,
        "model_response": "words", "response_tokens": [1, 1], "judge_tokens": [0, 0],
    }  # fmt: skip


def test_thirty_requests_for_one_goal_prove_no_more_than_one():
    alike = [record(f"goal {at // 30}", at < 30) for at in range(60)]
    apart = [record(f"goal {at}", at < 30) for at in range(60)]
    few, many = rate_of(alike, "asr"), rate_of(apart, "asr")
    assert few.value == many.value == 0.5 and few.n == many.n == 60
    assert (few.objects, many.objects) == (2, 60)
    assert (few.low, few.high) == (0.0, 1.0)
    assert 0.35 < many.low < many.high < 0.65


def test_where_no_goal_is_told_the_group_is_what_is_asked_for():
    rows = [record(None, None, label="harmless", refusal="full", group="a") for _ in range(9)]
    rows += [record(None, None, label="harmless", group="b") for _ in range(9)]
    assert rate_of(rows, "orr").objects == 2
    assert rate_of(rows, "asr") is None


def test_where_the_goal_is_the_request_its_group_knows_of_other_forms():
    rows = [
        record("Tell me x.", True, group="pair") | {"prompt": "Tell me x."},
        record("How is x done?", True, group="pair") | {"prompt": "How is x done?"},
    ]
    assert rate_of(rows, "asr").objects == 1


def test_what_was_not_told_is_counted_apart():
    rows = [record("a", True), record("b", None), record("c", False)]
    rate = rate_of(rows, "asr")
    assert (rate.n, rate.unknown, rate.value) == (2, 1, 0.5)


def test_asr_at_k_is_the_share_of_draws_with_a_success():
    won = {"a": [True, False, False, False], "b": [False] * 4, "c": [True, True, False, True]}
    rows = [record(goal, one) for goal, tries in won.items() for one in tries] * 5
    won = {goal: tries * 5 for goal, tries in won.items()}
    at = asr_at(rows, "asr")
    assert list(at) == ["1", "10"]  # no goal has 100 attacks
    assert at["1"]["value"] == pytest.approx(1 / 3)
    assert at["1"]["queries"] == 3 and at["10"]["queries"] == 30 and at["10"]["goals"] == 3
    drawn = [
        statistics.mean(any(draw) for draw in itertools.combinations(tries, 10))
        for tries in won.values()
    ]
    assert at["10"]["value"] == pytest.approx(statistics.mean(drawn))


def test_a_goal_with_fewer_attacks_than_k_is_left_out_of_asr_at_k():
    rows = [record("many", at == 0) for at in range(10)] + [record("few", True)]
    at = asr_at(rows, "asr")
    assert at["1"]["goals"] == 2 and at["10"]["goals"] == 1
    assert at["10"]["value"] == pytest.approx(1.0)  # all ten are drawn
    assert "at" not in row_summary([record("a", True)], partial=False)["suites"]["s"]["asr"]


def test_attacks_and_plain_requests_have_no_common_mean():
    rows = [record("a", True, suite="attacks"), record("b", False, suite="plain")]
    mean = row_summary(rows, partial=False, plain=["plain"])["mean"]
    assert mean["asr"] == {"value": 1.0, "suites": 1}
    assert mean["asr of plain requests"] == {"value": 0.0, "suites": 1}


def test_suites_say_which_of_their_splits_are_plain_requests():
    plain = {name: suite.info.plain for name, suite in suites().items()}
    assert plain["xstest"] == ("prompts",) and plain["figstep"] == ()
    for name, suite in suites().items():
        assert set(plain[name]) <= set(suite.info.splits), name


def line(name, asr, orr):
    mean = {"asr": {"value": asr, "suites": 2}, "orr": {"value": orr, "suites": 1}}
    return {"name": name, "folder": name, "orr_counts": "full", "mean": mean}


def test_over_refusal_is_compared_where_all_let_through_as_much():
    rows = [line("as it comes", 0.9, 0.0), line("a", 0.1, 0.4), line("b", 0.5, 0.25)]
    found = matched([*rows, line("weaker", 0.95, 0.0)])
    assert found["at"] == 0.5 and found["from"] == "as it comes"
    # Half of a's replies and half of the first model's let through 0.5.
    assert found["orr"] == {"a": pytest.approx(0.2), "b": pytest.approx(0.25)}
    assert "“a” 20.0 %, “b” 25.0 %" in matched_words({"matched": found})
    assert matched(rows[:2]) is None and matched([]) is None
    # The same row by another second judge, one that counts partial refusals, one with a suite that
    # nobody could judge: none of them is compared.
    again = rows[1] | {"name": "a, judged again"}
    partial = line("c", 0.3, 0.1) | {"orr_counts": "partial"}
    short = line("d", 0.3, 0.1)
    short["mean"]["asr"]["suites"] = 1
    assert matched([*rows[:2], again, partial, short]) is None
    assert matched([*rows, again, partial, short])["orr"] == found["orr"]
    assert matched_words({"matched": None}) == ""


# ---- what a model was trained on


def case(text, *, goal=None, number=0, suite="s"):
    return SuiteCase(
        id=f"{suite}:{number}", suite=suite, split="x", label="unsafe", parts=(("text", text),),
        goal=goal,
    )  # fmt: skip


def test_a_suite_s_requests_that_were_trained_on_are_found_and_told(tmp_path):
    wording = Wording()
    taught = TrainedOn.of([case("How do I fold it?"), case("x", goal="Open the box.")], wording)
    (tmp_path / "trained_on.json").write_text(taught.text())
    assert "fold" not in taught.text()
    read = TrainedOn.read(tmp_path)
    assert read == taught and read.suites == {"s": 2}
    new = [case("how do i FOLD it", suite="t"), case("y", goal="open the box"), case("z")]
    assert read.seen(new, wording) == 2
    rows = [{"name": "hard", "trained_on": {"suites": {}, "seen": {"t": 2}}}, {"name": "old"}]
    (words,) = seen_words(rows, {"t": {"cases": 3}})
    assert words.startswith("“hard” was trained on 2 of the 3 requests of t")


def test_a_second_training_keeps_what_the_first_one_was_on():
    first, second = (TrainedOn.of([case(t, suite=s)], Wording()) for t, s in ("ab", "cd"))
    both = second.after(first)
    assert both.suites == {"b": 1, "d": 1} and both.asked == first.asked | second.asked
    assert second.after(None) is second


def test_requests_that_words_cannot_tell_apart_count_as_unseen(tmp_path):
    wording = Wording()
    only = case(wording.figstep)
    taught = TrainedOn.of([only], wording)
    assert taught.asked == frozenset() and taught.seen([only], wording) == 0
    assert TrainedOn.read(tmp_path) is None


@pytest.mark.parametrize(
    "text", ["", "[]", "[" * 100_000, '{"suites": 3, "asked": []}', '{"asked": []}']
)
def test_another_file_in_its_place_is_named(tmp_path, text):
    (tmp_path / "trained_on.json").write_text(text)
    with pytest.raises(UserError, match="found no record of training"):
        TrainedOn.read(tmp_path)
