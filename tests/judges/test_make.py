"""From a judge's name and settings to the judge."""

from __future__ import annotations

import json

import pytest
from asked import verdicts

from sectow_fast.judges import (
    JUDGES,
    EndpointJudge,
    JudgeSettings,
    RuleJudge,
    make,
    make_judge,
    register_judge,
)
from sectow_fast.registry import Registry
from sectow_fast.types import UserError

GOOD = {
    "choices": [{"message": {"content": "unsafe\nS1"}}],
    "usage": {"prompt_tokens": 1, "completion_tokens": 1},
}


def test_the_rule_judge_is_made_where_nothing_else_is_said():
    assert isinstance(make_judge(JudgeSettings()), RuleJudge)
    assert JUDGES.names()[:3] == ["rule", "endpoint", "model"]


def test_an_endpoint_is_asked_as_the_settings_say(serve, tmp_path, monkeypatch):
    url, log = serve([[200, json.dumps(GOOD), {}]])
    monkeypatch.setenv("GUARD_KEY", "open-sesame")
    cache = tmp_path / "answers.sqlite"
    settings = JudgeSettings(
        name="endpoint",
        url=url,
        model="toy-guard",
        format="llama-guard",
        controversial="safe",
        key_env="GUARD_KEY",
        timeout=7.0,
        retries=2,
        concurrency=3,
        cache=str(cache),
    )
    judge = make_judge(settings)
    assert isinstance(judge, EndpointJudge)
    assert judge.id == "endpoint:toy-guard:llama-guard:controversial=safe"
    client = judge.client
    assert (client.timeout, client.retries, client.concurrency) == (7.0, 2, 3)
    assert verdicts(judge, "Fold it.")[0].reason == "unsafe S1" and cache.is_file()
    assert log()[0][1] == "Bearer open-sesame"


def test_an_endpoint_needs_no_more_than_its_address(serve, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "usual")
    url, _ = serve([[200, json.dumps(GOOD), {}]])
    judge = make_judge(JudgeSettings(name="endpoint", url=url))
    assert judge.id == "endpoint:toy-guard:qwen3guard:controversial=unsafe"
    client = judge.client
    assert (client.key, client.cache, client.timeout) == ("usual", None, 120.0)
    assert (client.retries, client.concurrency) == (5, 16)


def test_a_guard_is_made_from_its_folder(guard):
    judge = make_judge(
        JudgeSettings(name="model", model=str(guard), format="llama-guard", controversial="unknown")
    )
    assert judge.id == f"model:{guard.name}:llama-guard:controversial=unknown"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"name": "endpoint"}, "^data.judge_url: found none, expected http://HOST:PORT/v1$"),
        ({"name": "model"}, "^data.judge_model: found none, expected a guard model's folder$"),
        ({"name": "modell"}, "^data.judge: found 'modell', .*did you mean model"),
        ({"format": "llama"}, "^data.judge_format: found 'llama', .*did you mean llama-guard"),
    ],
)
def test_what_is_missing_or_unknown_is_named_as_the_user_spells_it(given, words):
    with pytest.raises(UserError, match=words):
        make_judge(JudgeSettings(setting="data.judge", **given))


def test_a_setting_without_a_place_is_called_judge():
    with pytest.raises(UserError, match=r"^judge: found 'jury'"):
        make_judge(JudgeSettings(name="jury"))
    with pytest.raises(UserError, match=r"^judge_format: found 'song'"):
        make_judge(JudgeSettings(format="song"))


def test_an_endpoint_that_serves_another_model_is_refused(serve):
    url, _ = serve([[200, json.dumps(GOOD), {}]])
    with pytest.raises(UserError, match="serves toy-guard, expected 'another'"):
        make_judge(JudgeSettings(name="endpoint", url=url, model="another"))


def test_a_registered_judge_is_made_from_the_settings(monkeypatch):
    monkeypatch.setattr(make, "JUDGES", Registry("judge"))
    register_judge("mine", lambda settings: (RuleJudge(), settings))
    settings = JudgeSettings(name="mine", model="words.txt")
    judge, given = make_judge(settings)
    assert isinstance(judge, RuleJudge) and given is settings


def test_a_taken_name_is_refused():
    with pytest.raises(UserError, match="judge 'rule': found the name taken"):
        register_judge("rule", lambda settings: RuleJudge())
