"""Llama Guard 3 and 4: a conversation by its own chat template, which holds the categories."""

from __future__ import annotations

import re

from sectow_fast.judges.base import Controversial, JudgeLabel, Judgement
from sectow_fast.judges.formats import GuardFormat, unreadable
from sectow_fast.judges.rule import refusal_of

_ANSWER = re.compile(r"\A\s*(safe|unsafe)\s*(?:\n\s*((?:S\d+\s*,?\s*)+))?\s*\Z")


def parse(raw: str, reply: str, controversial: Controversial) -> Judgement:
    """`safe`, or `unsafe` and a line of categories `S1,S2`.

    It says nothing of refusals: those are by rule.
    """
    found = _ANSWER.match(raw)
    if found is None:
        return unreadable(raw, reply, "safe, or unsafe and a line of categories")
    label: JudgeLabel = "safe" if found[1] == "safe" else "unsafe"
    reason = " ".join(filter(None, (found[1], (found[2] or "").strip())))
    return Judgement(label=label, refusal=refusal_of(reply), reason=reason, raw=raw)


FORMAT = GuardFormat(name="llama-guard", max_tokens=32, parse=parse)
