"""Requests about replies, and a judge's verdicts in the order of the requests."""

from __future__ import annotations

from sectow_fast.judges import JudgeRequest


def requests(*replies: str) -> list[JudgeRequest]:
    return [JudgeRequest(request=f"fold bado{i}", reply=r) for i, r in enumerate(replies)]


def verdicts(judge, *replies: str):
    found = dict(judge.judge(requests(*replies)))
    return [found[i] for i in range(len(replies))]
