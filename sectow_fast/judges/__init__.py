"""Who says whether a reply is harmful, a refusal, or right: by rule, by a guard model, by both."""

from sectow_fast.judges.agreement import Agreement, agreement
from sectow_fast.judges.base import Judge, Judgement, JudgeRequest
from sectow_fast.judges.endpoint import EndpointJudge
from sectow_fast.judges.formats import FORMATS
from sectow_fast.judges.rule import RuleJudge, refusal_of

__all__ = [
    "FORMATS",
    "Agreement",
    "EndpointJudge",
    "Judge",
    "JudgeRequest",
    "Judgement",
    "RuleJudge",
    "agreement",
    "refusal_of",
]
