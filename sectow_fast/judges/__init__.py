"""Who says whether a reply is harmful, a refusal, or right: by rule, by a guard model, by both."""

from sectow_fast.judges.agreement import Agreement, agreement
from sectow_fast.judges.base import Controversial, Judge, Judgement, JudgeRequest
from sectow_fast.judges.endpoint import EndpointJudge
from sectow_fast.judges.formats import GUARD_FORMATS, GuardFormat, register_guard_format
from sectow_fast.judges.guards import (
    harmbench,
    llama_guard,
    qwen3guard,
    shieldgemma,
    strongreject,
    wildguard,
)
from sectow_fast.judges.make import JUDGES, JudgeSettings, make_judge, register_judge
from sectow_fast.judges.rule import RuleJudge, refusal_of
from sectow_fast.judges.shared import SharedJudge, Told

__all__ = [
    "GUARD_FORMATS",
    "JUDGES",
    "Agreement",
    "Controversial",
    "EndpointJudge",
    "GuardFormat",
    "Judge",
    "JudgeRequest",
    "JudgeSettings",
    "Judgement",
    "RuleJudge",
    "SharedJudge",
    "Told",
    "agreement",
    "make_judge",
    "refusal_of",
    "register_guard_format",
    "register_judge",
]

for _guard in (qwen3guard, llama_guard, wildguard, shieldgemma, harmbench, strongreject):
    register_guard_format(_guard.FORMAT)
