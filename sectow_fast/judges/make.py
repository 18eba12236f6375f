"""From a judge's name and settings to the judge. `register_judge` adds one from outside."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sectow_fast.judges.base import Controversial, Judge
from sectow_fast.judges.endpoint import EndpointJudge
from sectow_fast.judges.formats import GUARD_FORMATS
from sectow_fast.judges.rule import RuleJudge
from sectow_fast.registry import Registry
from sectow_fast.serving.cache import AnswerCache
from sectow_fast.serving.client import ChatClient
from sectow_fast.types import UserError


@dataclass(frozen=True, kw_only=True)
class JudgeSettings:
    """What a judge is made from; a judge reads the fields that it needs.

    name: a registered judge. setting: how the caller's user spells that name's setting, for error
    messages. url: an endpoint's address up to /v1. model: the model there, or a model's folder.
    format: a registered guard format. key_env: the environment variable that holds the endpoint's
    key. timeout: seconds per request. cache: a file for the endpoint's answers.
    """

    name: str = "rule"
    setting: str = "judge"
    url: str = ""
    model: str = ""
    format: str = "qwen3guard"
    controversial: Controversial = "unsafe"
    key_env: str = "OPENAI_API_KEY"
    timeout: float = 120.0
    retries: int = 5
    concurrency: int = 16
    cache: str = ""


MakeJudge = Callable[[JudgeSettings], Judge]
JUDGES = Registry[MakeJudge]("judge")


def register_judge(name: str, make: MakeJudge) -> None:
    """Let settings name a judge. make: called once per run. UserError where the name is taken."""
    JUDGES.register(name, make)


def make_judge(settings: JudgeSettings) -> Judge:
    """The judge that the settings name.

    UserError where judge or format is unknown, or the judge cannot be reached or loaded.
    """
    GUARD_FORMATS.get(settings.format, setting=f"{settings.setting}_format")
    return JUDGES.get(settings.name, setting=settings.setting)(settings)


def _rule(settings: JudgeSettings) -> Judge:
    return RuleJudge()


def _model(settings: JudgeSettings) -> Judge:
    # Only this judge needs transformers.
    from sectow_fast.judges.model import ModelJudge

    if not settings.model:
        raise UserError(f"{settings.setting}_model: found none, expected a guard model's folder")
    guard = GUARD_FORMATS.get(settings.format)
    return ModelJudge(Path(settings.model), guard, controversial=settings.controversial)


def _endpoint(settings: JudgeSettings) -> Judge:
    if not settings.url:
        raise UserError(f"{settings.setting}_url: found none, expected http://HOST:PORT/v1")
    client = ChatClient(
        url=settings.url,
        model=settings.model or None,
        key=os.environ.get(settings.key_env),
        timeout=settings.timeout,
        retries=settings.retries,
        concurrency=settings.concurrency,
        cache=AnswerCache(Path(settings.cache)) if settings.cache else None,
    )
    return EndpointJudge(
        client, GUARD_FORMATS.get(settings.format), controversial=settings.controversial
    )


def _guard(settings: JudgeSettings) -> Judge:
    """By folder, or where there is an address, by endpoint."""
    if not settings.url and not settings.model:
        raise UserError(
            f"{settings.setting} guard: found neither {settings.setting}_url nor"
            f" {settings.setting}_model, expected a guard's address up to /v1 or its folder"
        )
    return _endpoint(settings) if settings.url else _model(settings)


register_judge("rule", _rule)
register_judge("endpoint", _endpoint)
register_judge("model", _model)
register_judge("guard", _guard)
register_judge("rule-knowingly", _rule)
