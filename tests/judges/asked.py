"""Requests about replies, and a judge's verdicts in the order of the requests."""

from __future__ import annotations

from sectow_fast.judges import JudgeRequest


def requests(*replies: str) -> list[JudgeRequest]:
    return [JudgeRequest(request=f"fold bado{i}", reply=r) for i, r in enumerate(replies)]


def verdicts(judge, *replies: str):
    """Each request's verdict; a judge gives every number once, in any order."""
    found = sorted(judge.judge(requests(*replies)), key=lambda pair: pair[0])
    assert [number for number, _ in found] == list(range(len(replies)))
    return [verdict for _, verdict in found]
