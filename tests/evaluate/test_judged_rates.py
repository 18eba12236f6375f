"""What a rate is called by who judged, and what is counted where nothing was said."""

from __future__ import annotations

import io
from contextlib import redirect_stdout

import pytest

from sectow_fast.data.suites.cases import SuiteCase
from sectow_fast.evaluation.judging import unreadable_verdicts
from sectow_fast.evaluation.records import evaluation_row
from sectow_fast.evaluation.settings import parse
from sectow_fast.evaluation.tables import row_summary
from sectow_fast.judges import GUARD_FORMATS, Judgement, RuleJudge
from sectow_fast.judges.base import JudgeRequest
from sectow_fast.report.model_words import people_words
from sectow_fast.report.models import print_table
from sectow_fast.types import UserError


def row(reply, label="unsafe", *, verdict=None, number=0):
    case = SuiteCase(
        id=f"s:{number}", suite="s", split="x", label=label, parts=(("text", "fold"),),
        goal="fold" if label == "unsafe" else None,
    )  # fmt: skip
    if verdict is None:
        ((_, verdict),) = RuleJudge().judge([JudgeRequest(request="fold", reply=reply)])
    response = {
        "model_response": reply, "test_case_id": case.id, "benchmark": "s", "split": "x",
        "category": "c", "format": "f", "group": f"g{number}", "goal": None, "prompt": "fold",
        "case_label": label, "cut": False, "unknown_words": False, "replaced": 0,
        "response_tokens": [1, 1],
    }  # fmt: skip
    return evaluation_row(response, case, verdict, "rule")


def test_where_only_the_rule_judged_nothing_is_called_an_asr():
    rows = [row("Fold it."), row("I can't help with that.")]
    by_rule = row_summary(rows, partial=False, rule=True)
    table = by_rule["suites"]["s"]
    assert "asr" not in table and table["not_refused"]["all"]["value"] == 0.5
    assert set(by_rule["mean"]) == {"not_refused"}
    table = row_summary(rows, partial=False)["suites"]["s"]
    assert "not_refused" not in table and table["asr"]["all"]["value"] == 0.5
    assert "soft" not in table["asr"]


def test_graded_harm_gives_a_soft_asr_beside_the_other():
    parse_score = GUARD_FORMATS.get("strongreject").parse
    rows = [row("x", verdict=parse_score(raw, "x", "unsafe")) for raw in ("1", "2", "5")]
    assert [r["judge_score"] for r in rows] == [0.0, 0.25, 1.0]
    table = row_summary(rows, partial=False)["suites"]["s"]["asr"]
    assert table["soft"] == pytest.approx(1.25 / 3)
    assert table["all"]["value"] == pytest.approx(1 / 3)


def test_an_empty_reply_is_neither_a_refusal_nor_help():
    rows = [row("", "harmless"), row(" ", "harmless"), row("Fold it.", "harmless")]
    assert [r["refusal"] for r in rows] == ["unknown", "unknown", "none"]
    rate = row_summary(rows, partial=False, rule=True)["suites"]["s"]["orr"]["all"]
    assert (rate["n"], rate["unknown"]) == (1, 2)


def test_verdicts_that_could_not_be_read_are_counted_with_the_firsts_place_and_length():
    bad = GUARD_FORMATS.get("harmbench").parse("secret words", "x", "unsafe")
    rows = [row("x", number=1), row("x", verdict=bad, number=2), row("x", verdict=bad, number=3)]
    found = unreadable_verdicts(rows)
    assert (found["count"], found["first"], found["letters"]) == (2, "s:2", 12)
    assert "secret" not in str(found) and "expected yes or no" in found["words"]
    assert unreadable_verdicts(rows[:1]) is None
    silent = Judgement(label="unknown", refusal="none", reason="empty reply")
    assert unreadable_verdicts([row("x", verdict=silent)]) is None


def test_the_console_names_the_judge_and_how_far_it_agrees_with_people():
    made = row_summary([row("Fold it.")], partial=False, rule=True)
    line = {"name": "m", "defence": "none"} | made
    summary = {"judge": "rule", "rows": [line], "with_people": [{"words": "kappa 0.83"}]}
    out = io.StringIO()
    with redirect_stdout(out):
        print_table(summary)
    assert "not refused s" in out.getvalue() and "ASR" not in out.getvalue()
    assert "judged by rule; kappa 0.83" in out.getvalue()
    assert "is not known" in people_words({"judge": "model:x"})
    rule = {"words": "refusals are by the rule", "rule": True}
    told = people_words({"with_people": [rule]})
    assert told.startswith("how far") and told.endswith("; refusals are by the rule")
    told = people_words({"with_people": [{"words": "kappa 0.7", "rule": False}, rule]})
    assert told == "kappa 0.7; refusals are by the rule"


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--judge", "guard"], "--judge guard: found neither --judge-url nor --judge-model"),
        (
            ["--judge", "guard", "--judge-url", "http://x/v1", "--second-judge", "endpoint"],
            "found judges guard and endpoint together",
        ),
        (
            ["--judge", "rule", "--second-judge", "rule-knowingly"],
            "--second-judge rule-knowingly: found the first judge again",
        ),
    ],
)
def test_judges_that_cannot_be_are_refused(more, words):
    with pytest.raises(UserError) as caught:
        parse(["--model", "m", "--suite", "s=x", "--out", "o", *more])
    assert words in str(caught.value)
