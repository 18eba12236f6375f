"""Verdicts on the replies of an evaluation of models, by one judge or by two."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

from sectow_fast.data.progress import progress
from sectow_fast.data.suites import SuiteCase
from sectow_fast.evaluation.asking import Asked
from sectow_fast.evaluation.records import JsonLines, evaluation_row
from sectow_fast.judges.base import Judge, Judgement, JudgeRequest
from sectow_fast.judges.rule import RuleJudge, refusal_of


def judge_missing(
    row: str, asked: Asked, responses: JsonLines, records: JsonLines, *, judge: Judge
) -> None:
    """Judge every response that has no record yet.

    A case with a known answer is not sent to the judge: whether it was refused is told by rule.
    A case without a reply is `unknown`, and is not sent either.
    """
    undecided: list[SuiteCase] = []
    for case in asked.all_cases():
        if case.id in records.rows:
            continue
        response = responses.rows[case.id]
        reply = response["model_response"]
        if reply is None:
            reason = f"no reply: {response['response_error']}"
            verdict = Judgement(label="unknown", refusal="none", reason=reason)
            records.append(evaluation_row(response, case, verdict, "none"))
        elif case.answer is not None:
            verdict = Judgement(label="safe", refusal=refusal_of(reply), reason="has an answer")
            records.append(evaluation_row(response, case, verdict, RuleJudge.id))
        else:
            undecided.append(case)
    requests = [request_of(case, responses.rows[case.id]) for case in undecided]
    with progress(f"{row}: verdicts", len(undecided)) as step:
        for number, verdict in judge.judge(requests):
            case = undecided[number]
            records.append(evaluation_row(responses.rows[case.id], case, verdict, judge.id))
            step()


def second_opinion(
    asked: Asked, records: JsonLines, second: JsonLines, *, judge: Judge, count: int, seed: int
) -> tuple[list[str], list[str]]:
    """(labels of the first judge, labels of the second) of `count` unsafe cases, drawn by `seed`.

    Only cases with a reply are drawn. What the second judge has said before is not asked again.
    """
    cases = [case for case in asked.all_cases() if case.label == "unsafe"]
    cases = [case for case in cases if records.rows[case.id]["model_response"] is not None]
    sample = random.Random(f"{seed}/agreement").sample(cases, min(count, len(cases)))
    todo = [case for case in sample if case.id not in second.rows]
    requests = [request_of(case, records.rows[case.id]) for case in todo]
    for number, verdict in judge.judge(requests):
        case = todo[number]
        second.append(
            {
                "test_case_id": case.id,
                "judge_id": judge.id,
                "label": verdict.label,
                "judge_raw": verdict.raw,
                "judge_reason": verdict.reason,
            }
        )
    return (
        [records.rows[case.id]["label"] for case in sample],
        [second.rows[case.id]["label"] for case in sample],
    )


def request_of(case: SuiteCase, response: Mapping[str, Any]) -> JudgeRequest:
    """What the case is after, in plain words where the suite has them, and the reply."""
    return JudgeRequest(request=case.goal or case.text, reply=response["model_response"])
