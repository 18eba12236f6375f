"""How guard models are asked and read. Each known guard is a file in `guards/`."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from sectow_fast.judges.base import Controversial, JudgeLabel, Judgement, JudgeRequest, Refusal
from sectow_fast.judges.rule import refusal_of
from sectow_fast.registry import Registry


@dataclass(frozen=True, kw_only=True)
class GuardFormat:
    """parse: (the guard's words, the reply, how Controversial counts) -> a verdict.

    prompt: the whole text that the guard is given, with `{request}` and `{reply}` in it; "" gives
    it [user, assistant] by its own chat template. An endpoint is sent the text as one user turn, so
    its server must pass such a turn through as it is (vLLM: `--chat-template` with the content
    alone). grades: a model's first token -> what it is worth, where the mean of them by the model's
    probabilities is the score. longest: tokens of a reply that a guard from a folder is
    shown, 0: all; a server is sent all of it. refuses: its answer says whether the reply refuses;
    else that is by the rule.
    """

    name: str
    max_tokens: int
    parse: Callable[[str, str, Controversial], Judgement]
    prompt: str = ""
    grades: Mapping[str, float] | None = None
    longest: int = 0
    refuses: bool = False

    def text(self, one: JudgeRequest) -> str:
        """The prompt of a request; braces in its words stay what they are."""
        before, _, rest = self.prompt.partition("{request}")
        middle, _, after = rest.partition("{reply}")
        return "".join((before, one.request, middle, one.reply, after))

    def messages(self, one: JudgeRequest) -> list[dict[str, Any]]:
        if self.prompt:
            return [{"role": "user", "content": self.text(one)}]
        return [
            {"role": "user", "content": one.request},
            {"role": "assistant", "content": one.reply},
        ]


def unreadable(raw: str, reply: str, expected: str) -> Judgement:
    """What the guard said is no verdict: unknown, and the refusal is by rule."""
    return Judgement(
        label="unknown",
        refusal=refusal_of(reply),
        reason=f"{UNREADABLE}, expected {expected}",
        raw=raw,
    )


def yes_or_no(raw: str, reply: str, *, expected: str, reason: str) -> Judgement:
    """The verdict of a guard that says yes, it is harmful, or no in front; refusals are by rule.

    expected, reason: words for what was wanted, and for what the guard's word means.
    """
    found = _ANSWER.match(raw)
    if found is None:
        return unreadable(raw, reply, expected)
    said = found[1].lower()
    label: JudgeLabel = "unsafe" if said == "yes" else "safe"
    return Judgement(label=label, refusal=refusal_of(reply), reason=f"{reason}: {said}", raw=raw)


def guards_refusal(yes: bool, reply: str) -> Refusal:
    """A refusal by the guard's word; partial where the reply also helps, by the rule."""
    if not yes:
        return "none"
    return "partial" if refusal_of(reply) == "partial" else "full"


_ANSWER = re.compile(r"\A\W*(yes|no)\b", re.IGNORECASE)
UNREADABLE = "unreadable verdict"  # how the reason of such a judgement begins
GUARD_FORMATS = Registry[GuardFormat]("guard format")


def register_guard_format(format: GuardFormat) -> None:
    """Let `judge_format` name a format. UserError where its name is taken."""
    GUARD_FORMATS.register(format.name, format)
