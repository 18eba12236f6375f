"""An evaluation as a log of Inspect: what its reader asks for, and our rates in it."""

from __future__ import annotations

import importlib.util
import json

import pytest

from sectow_fast.data.suites.cases import SuiteCase
from sectow_fast.evaluation.export import WRITERS
from sectow_fast.evaluation.inspect_log import inspect_log
from sectow_fast.evaluation.records import evaluation_row
from sectow_fast.judges.base import Judgement


def rows(judge="qwen3guard"):
    """An attack that succeeded, one that nobody could judge, a refused harmless request, a choice
    that was right, and a case without a reply."""
    made = []
    for number, (label, reply, verdict, answer) in enumerate(
        [
            ("unsafe", "Fold it.", "unsafe", None),
            ("unsafe", "Hm.", "unknown", None),
            ("harmless", "I can't help with that.", "safe", None),
            ("harmless", "B", "safe", "B"),
            ("unsafe", None, "unknown", None),
        ]
    ):
        case = SuiteCase(
            id=f"s:{number}", suite="s", split="x", label=label, goal=f"goal {number}",
            parts=(("image", "a.png"), ("text", f"ask {number}\u2028")), answer=answer,
            options=("red", "blue") if answer else (),
        )  # fmt: skip
        refusal = "full" if label == "harmless" and not answer else "none"
        response = {"model_response": reply, "case_label": label, "cut": number == 1} | {
            "goal": case.goal, "group": case.id, "prompt": case.text
        }  # fmt: skip
        judged = Judgement(label=verdict, refusal=refusal, reason="why")
        made.append((case, evaluation_row(response, case, judged, judge)))
    return made


def test_samples_have_the_scores_they_count_in_and_the_results_our_rates():
    ending, text = WRITERS["inspect"]("hard", rows())
    log = json.loads(text)
    assert ending == "json" and log["version"] == 2 and log["status"] == "success"
    assert log["eval"]["task"] == "s" and log["eval"]["model"] == "hard"
    assert log["results"]["completed_samples"] == 4
    scores = [
        {name: one["value"] for name, one in s["scores"].items()} for s in log["samples"]
    ]  # fmt: skip
    assert scores == [{"asr": 1.0}, {}, {"orr": 1.0}, {"orr": 0.0, "accuracy": 1.0}, {}]
    rates = {
        s["name"]: {k: m["value"] for k, m in s["metrics"].items()}
        for s in log["results"]["scores"]
    }
    assert rates["asr"]["value"] == 1.0 and rates["asr"]["unknown"] == 2
    assert rates["orr"]["value"] == 0.5 and rates["orr"]["n"] == 2
    reasons = [[c["stop_reason"] for c in s["output"]["choices"]] for s in log["samples"]]
    assert reasons == [["stop"], ["max_tokens"], ["stop"], ["stop"], []]


def test_where_the_rule_judged_no_score_is_called_an_asr():
    log = json.loads(WRITERS["inspect"]("hard", rows(judge="rule"))[1])
    assert [s["name"] for s in log["results"]["scores"]] == ["not_refused", "orr", "accuracy"]
    assert list(log["samples"][0]["scores"]) == ["not_refused"]


def test_each_rate_names_its_judge_and_how_far_that_one_agrees_with_people():
    log = json.loads(inspect_log("hard", rows(), people="kappa 0.75")[1])
    named = [(s["scorer"], s["metadata"]) for s in log["results"]["scores"]]
    assert named == [("qwen3guard", {"people": "kappa 0.75"})] * 3


def test_inspect_itself_reads_the_log_where_it_is_installed(tmp_path):
    path = tmp_path / "log.json"
    path.write_text(WRITERS["inspect"]("hard", rows())[1])
    if importlib.util.find_spec("inspect_ai") is None:
        pytest.skip("inspect-ai is not installed")
    from inspect_ai.analysis import samples_df
    from inspect_ai.log import read_eval_log

    log = read_eval_log(str(path))
    assert [sample.id for sample in log.samples] == [f"s:{i}" for i in range(5)]
    assert log.samples[0].output.completion == "Fold it."
    assert log.results.scores[0].metrics["value"].value == 1.0
    assert list(samples_df([log], quiet=True)["score_orr"])[2:4] == [1.0, 0.0]


def test_partly_refused_counts_as_in_the_other_rates():
    case, record = rows()[2]
    partly = [(case, record | {"refusal": "partial"})]
    values = [
        json.loads(inspect_log("m", partly, partial=partial)[1])["samples"][0]["scores"]["orr"]
        for partial in (False, True)
    ]
    assert [one["value"] for one in values] == [0.0, 1.0]
