"""A guard behind an endpoint, on a good day and on bad ones."""

from __future__ import annotations

import json

import pytest
from asked import requests, verdicts

from sectow_fast.judges import GUARD_FORMATS, EndpointJudge, Judgement
from sectow_fast.serving.cache import AnswerCache
from sectow_fast.serving.client import ChatClient
from sectow_fast.types import UserError

GOOD = "Safety: Unsafe\nCategories: None\nRefusal: No"


def answer(text: str) -> str:
    usage = {"prompt_tokens": 7, "completion_tokens": 3}
    return json.dumps({"choices": [{"message": {"content": text}}], "usage": usage})


def judge_at(url, **more) -> EndpointJudge:
    client = ChatClient(url=url, timeout=5, backoff=0.05, **more)
    return EndpointJudge(client, GUARD_FORMATS.get("qwen3guard"))


def test_what_is_sent_and_counted(serve):
    url, log = serve([[200, answer(GOOD), {}]])
    judge = judge_at(url, key="open-sesame")
    assert judge.id == "endpoint:toy-guard:qwen3guard:controversial=unsafe"
    found = verdicts(judge, "Fold it.", "Twice.")
    wanted = Judgement(
        label="unsafe",
        refusal="none",
        reason="Unsafe: None",
        raw=GOOD,
        prompt_tokens=7,
        completion_tokens=3,
    )
    assert found == [wanted, wanted]
    assert (judge.client.spent.prompt_tokens, judge.client.spent.completion_tokens) == (14, 6)
    sent = sorted(log(), key=lambda row: str(row[2]["messages"]))[0]
    assert sent[1] == "Bearer open-sesame"
    assert sent[2]["messages"] == [
        {"role": "user", "content": "fold bado0"},
        {"role": "assistant", "content": "Fold it."},
    ]
    assert (sent[2]["temperature"], sent[2]["max_tokens"]) == (0.0, 64)


def test_the_reply_and_how_controversial_counts_reach_the_format(serve):
    words = "Safety: Controversial\nCategories: PII\nRefusal: Yes"
    url, _ = serve([[200, answer(words), {}]])
    format = GUARD_FORMATS.get("qwen3guard")
    judge = EndpointJudge(ChatClient(url=url), format, controversial="safe")
    assert judge.id == "endpoint:toy-guard:qwen3guard:controversial=safe"
    helps = "I can't help with that. However, here is how."
    found = verdicts(judge, "I can't.", helps)
    assert [(one.label, one.refusal) for one in found] == [("safe", "full"), ("safe", "partial")]


def test_one_lost_answer_does_not_stop_the_others(serve):
    url, _ = serve([[400, "too long", {}], [200, answer(GOOD), {}]])
    found = verdicts(judge_at(url, concurrency=1), "Fold it.", "Twice.")
    assert [one.label for one in found] == ["unknown", "unsafe"]


def test_passing_faults_are_tried_again_with_growing_waits(serve):
    url, log = serve(
        [
            [429, "slow", {"Retry-After": "1"}],
            [500, "oh", {}],
            [200, "{", {}],
            [200, answer(GOOD), {}],
        ]
    )
    judge = judge_at(url, concurrency=1)
    assert verdicts(judge, "Fold it.")[0].label == "unsafe"
    times = [row[0] for row in log()]
    assert len(times) == 4 and judge.client.spent.retries == 3
    assert times[1] - times[0] >= 1.0  # as the server asked


@pytest.mark.parametrize(("reply", "refusal"), [("Fold it.", "none"), ("I can't help.", "full")])
def test_what_stays_broken_is_unknown_and_never_safe(serve, reply, refusal):
    url, log = serve([[500, "out of order", {}]])
    judge = judge_at(url, retries=2)
    verdict = verdicts(judge, reply)[0]
    assert (verdict.label, verdict.refusal) == ("unknown", refusal)
    assert verdict.reason.startswith("the judge gave no answer: HTTP 500 out of order")
    assert len(log()) == 3 and judge.client.spent.failed == 1


def test_a_server_that_never_answers_is_unknown(serve):
    url, _ = serve([[200, None, {}]])
    client = ChatClient(url=url, timeout=0.3, retries=1, backoff=0.01)
    verdict = verdicts(EndpointJudge(client, GUARD_FORMATS.get("llama-guard")), "Fold it.")[0]
    assert verdict.label == "unknown" and "timed out" in verdict.reason


def test_a_request_that_can_never_do_is_not_sent_again(serve):
    url, log = serve([[400, "too long", {}]])
    assert verdicts(judge_at(url), "Fold it.")[0].label == "unknown"
    assert len(log()) == 1


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_wrong_key_or_path_stops_at_once(serve, status):
    url, log = serve([[status, "no", {}]])
    with pytest.raises(UserError, match=f"found HTTP {status}"):
        verdicts(judge_at(url, concurrency=1), *["Fold it."] * 20)
    assert len(log()) <= 2


def test_nothing_is_asked_twice(serve, tmp_path):
    url, log = serve([[200, answer(GOOD), {}]])
    for _ in range(2):
        judge = judge_at(url, cache=AnswerCache(tmp_path / "cache" / "judge.sqlite"))
        assert verdicts(judge, "Fold it.", "Twice.")[1].prompt_tokens == 7
        judge.client.cache.close()
    assert len(log()) == 2 and judge.client.spent.cached == 2
    assert (tmp_path / "cache" / "judge.sqlite").stat().st_mode & 0o077 == 0


def test_many_at_once_each_gets_its_own(serve):
    url, log = serve([[200, answer(GOOD), {}]])
    found = dict(judge_at(url, concurrency=8).judge(requests(*map(str, range(100)))))
    assert sorted(found) == list(range(100)) and len(log()) == 100


def test_an_address_where_nobody_is():
    with pytest.raises(UserError, match="found no answer to /models"):
        judge_at("http://127.0.0.1:9/v1")
    with pytest.raises(UserError, match="expected http"):
        judge_at("127.0.0.1/v1")


def test_a_file_that_is_no_cache(tmp_path):
    (tmp_path / "x").write_text("not a database, but long enough to be read as one" * 9)
    with pytest.raises(UserError, match="delete the file"):
        AnswerCache(tmp_path / "x")
