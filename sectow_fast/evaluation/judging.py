"""Verdicts on the replies of an evaluation of models, by one judge or by two."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sectow_fast.data.progress import progress
from sectow_fast.data.suites import SuiteCase
from sectow_fast.evaluation.asking import Asked, ended_after
from sectow_fast.evaluation.out_folder import second_file
from sectow_fast.evaluation.records import JsonLines, evaluation_row, is_useless, was_sent
from sectow_fast.evaluation.settings import Settings
from sectow_fast.judges import agreement
from sectow_fast.judges.base import Judge, Judgement, JudgeRequest
from sectow_fast.judges.formats import UNREADABLE
from sectow_fast.judges.rule import RuleJudge, refusal_of
from sectow_fast.serving.client import NothingAnswered


def judge_missing(
    row: str, asked: Asked, responses: JsonLines, records: JsonLines, *, judge: Judge
) -> None:
    """Judge every response that has no record yet.

    A case with a known answer is not sent to the judge: whether it was refused is told by rule.
    A case without a reply is `unknown`, and is not sent either. NothingAnswered where the judge
    was asked, and no verdict of the row can be used.
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
    verdicts = judge.judge(requests)
    with progress(f"{row}: verdicts", len(undecided)) as step, ended_after(verdicts):
        for number, verdict in verdicts:
            case = undecided[number]
            records.append(evaluation_row(responses.rows[case.id], case, verdict, judge.id))
            step()
    sent = [one for one in records.rows.values() if was_sent(one)]
    if undecided and all(is_useless(one) for one in sent):
        raise _nothing_judged(row, judge, len(sent), records.rows[undecided[-1].id])


def second_opinion(
    row: str,
    asked: Asked,
    records: JsonLines,
    second: JsonLines,
    *,
    judge: Judge,
    count: int,
    seed: int,
) -> tuple[list[str], list[str]]:
    """(labels of the first judge, labels of the second) of `count` unsafe cases, drawn by `seed`.

    Only cases with a reply are drawn. What the second judge has said before is not asked again.
    second: verdicts of this judge alone. NothingAnswered where none of them can be used.
    """
    cases = [case for case in asked.all_cases() if case.label == "unsafe"]
    cases = [case for case in cases if records.rows[case.id]["model_response"] is not None]
    sample = random.Random(f"{seed}/agreement").sample(cases, min(count, len(cases)))
    todo = [case for case in sample if case.id not in second.rows]
    requests = [request_of(case, records.rows[case.id]) for case in todo]
    verdicts = judge.judge(requests)
    with ended_after(verdicts):
        for number, verdict in verdicts:
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
    if todo and all(is_useless(one) for one in second.rows.values()):
        raise _nothing_judged(row, judge, len(second.rows), second.rows[todo[-1].id])
    return (
        [records.rows[case.id]["label"] for case in sample],
        [second.rows[case.id]["label"] for case in sample],
    )


def _nothing_judged(row: str, judge: Judge, count: int, last: Mapping[str, Any]) -> NothingAnswered:
    return NothingAnswered(
        f"{row}: found no verdict in any of {count} answers of judge {judge.id}"
        f" ({last['judge_reason']}; the last one is of case {last['test_case_id']},"
        f" {len(last['judge_raw'])} letters long), expected some; the replies are kept, and the"
        " same command asks the judge again"
    )


def request_of(case: SuiteCase, response: Mapping[str, Any]) -> JudgeRequest:
    """What the case is after, in plain words where the suite has them, and the reply."""
    return JudgeRequest(request=case.goal or case.text, reply=response["model_response"])


def unreadable_verdicts(records: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """How many of a guard's answers could not be read, and where the first one is; None: no one.

    Its length is told and not its words, which may repeat what it judged.
    """
    bad = [r for r in records if r["judge_reason"].startswith(UNREADABLE)]
    if not bad:
        return None
    first, letters = bad[0]["test_case_id"], len(bad[0]["judge_raw"])
    return {
        "count": len(bad),
        "first": first,
        "letters": letters,
        "words": f"{len(bad)} verdicts of the guard could not be read and are unknown; the first is"
        f" of case {first}, {letters} letters long ({bad[0]['judge_reason']}); is it the guard of"
        " --judge-format?",
    }


def second_fields(
    row: str, folder: Path, settings: Settings, asked: Asked, records: JsonLines, judge: Judge
) -> dict[str, Any]:
    """The fields of a row that a second judge adds."""
    with second_file(folder, judge.id) as other:
        labels = second_opinion(
            row,
            asked,
            records,
            other,
            judge=judge,
            count=settings.agreement,
            seed=settings.seed,
        )
    found = vars(agreement(*labels)) if labels[0] else None
    return {"second_judge": judge.id, "agreement": found}
