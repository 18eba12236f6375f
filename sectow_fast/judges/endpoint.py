"""A guard model behind an OpenAI-compatible endpoint: vLLM, SGLang, a cloud, any of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

from sectow_fast.judges.base import Controversial, Judgement, JudgeRequest
from sectow_fast.judges.formats import GuardFormat
from sectow_fast.judges.rule import refusal_of
from sectow_fast.serving.client import ChatClient

NO_ANSWER = "the judge gave no answer"


class EndpointJudge:
    """Timeouts and unreadable words become `unknown`; they are never folded into safe."""

    def __init__(
        self, client: ChatClient, format: GuardFormat, *, controversial: Controversial = "unsafe"
    ) -> None:
        self.client, self.format, self.controversial = client, format, controversial
        self.id = f"endpoint:{client.check()}:{format.name}:controversial={controversial}"

    def judge(self, requests: Sequence[JudgeRequest]) -> Iterator[tuple[int, Judgement]]:
        conversations = [self.format.messages(one) for one in requests]
        for number, answer in self.client.ask_all(conversations, max_tokens=self.format.max_tokens):
            reply = requests[number].reply
            if answer.text is None:
                yield (
                    number,
                    Judgement(
                        label="unknown",
                        refusal=refusal_of(reply),
                        reason=f"{NO_ANSWER}: {answer.error}",
                    ),
                )
                continue
            verdict = self.format.parse(answer.text, reply, self.controversial)
            yield (
                number,
                dataclasses.replace(
                    verdict,
                    prompt_tokens=answer.prompt_tokens,
                    completion_tokens=answer.completion_tokens,
                ),
            )
