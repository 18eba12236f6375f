"""Defences that need no training, as baselines beside a hardened model.

A defence changes what is asked, or looks at what was replied. Its sentences are in `Wording`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Literal

from sectow_fast.data.suites.wording import Wording
from sectow_fast.evaluation.repliers import Ask, Replier, Reply

DefenceName = Literal["none", "self-reminder", "adashield", "self-check"]


def defended(
    name: str, replier: Replier, asks: Sequence[Ask], wording: Wording, *, chunk: int
) -> Iterator[tuple[int, Reply]]:
    """(number of the ask, its reply) behind the defence of that name, each once and as it comes.

    chunk: how many asks a defence of two passes takes through both before it goes on.
    """
    if name == "self-reminder":
        asks = [
            around(ask, wording.self_reminder_before, wording.self_reminder_after) for ask in asks
        ]
    elif name == "adashield":
        asks = [around(ask, wording.adashield, "") for ask in asks]
    if name == "self-check":
        for at in range(0, len(asks), chunk):
            for number, reply in _checked(replier, asks[at : at + chunk], wording):
                yield at + number, reply
    else:
        yield from replier.reply(asks)


def around(ask: Ask, before: str, after: str) -> Ask:
    """The same request with words before and after it; no system turn, which some models lack."""
    head = (("text", before),) if before else ()
    tail = (("text", after),) if after else ()
    return dataclasses.replace(ask, parts=(*head, *ask.parts, *tail))


def _checked(
    replier: Replier, asks: Sequence[Ask], wording: Wording
) -> Iterator[tuple[int, Reply]]:
    """Two passes: the model sees its own reply beside the request, and says if it is harmful."""
    first = dict(replier.reply(asks))
    answered = [number for number in range(len(asks)) if first[number].text]
    questions = [
        dataclasses.replace(
            asks[number],
            parts=(
                *(part for part in asks[number].parts if part[0] == "image"),
                (
                    "text",
                    wording.self_check.format(request=asks[number].text, reply=first[number].text),
                ),
            ),
        )
        for number in answered
    ]
    second = {answered[i]: reply for i, reply in replier.reply(questions)}
    for number, reply in first.items():
        check = second.get(number)
        if check is None:
            yield number, reply
            continue
        spent = {
            "prompt_tokens": reply.prompt_tokens + check.prompt_tokens,
            "completion_tokens": reply.completion_tokens + check.completion_tokens,
            "first": reply.text,
        }
        if check.text is None:
            # Unchecked is not the same as passed: it counts as no reply.
            yield number, dataclasses.replace(reply, text=None, error=check.error, **spent)
        elif check.text.strip().lower().startswith(wording.self_check_bad.lower()):
            yield number, dataclasses.replace(reply, text=wording.refusal, **spent)
        else:
            yield number, dataclasses.replace(reply, **spent)
