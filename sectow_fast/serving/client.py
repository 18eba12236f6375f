"""An OpenAI-compatible chat endpoint, many requests at once.

Temporary faults are tried again with growing waits. If that does not help, the `Answer` has `error`
set, so that one lost reply does not end a run. What no retry can mend (a wrong key or path, a
redirect) is a UserError.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import httpx
from anyio.from_thread import BlockingPortal, start_blocking_portal

from sectow_fast.serving.cache import AnswerCache
from sectow_fast.serving.wire import (
    NoUse,
    Said,
    Veil,
    checked_address,
    exchange,
    make_http,
    texts_of,
)
from sectow_fast.types import UserError

Messages = list[dict[str, Any]]
PASSING = (408, 409, 425, 429, 500, 502, 503, 504)
FATAL = (401, 403, 404, 405)
LONGEST_WAIT = 60.0  # seconds
HOPELESS = 64  # requests given up one after the other, before any was answered
MOST_TOKENS = 1 << 31


class NothingAnswered(UserError):
    """A server that is there and answered not a single request: nothing can be told from it."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What came back. text is None where it was not usable, and `error` says why.

    cut: the server says that the reply ended by the length limit. replaced: characters of the text
    that were half of a pair (an emoji cut in two), and are U+FFFD now.
    """

    text: str | None
    error: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached: bool = False
    cut: bool = False
    replaced: int = 0


@dataclass(kw_only=True)
class Spent:
    """What a client has used so far; tokens are those of requests that were really sent."""

    requests: int = 0
    retries: int = 0
    cached: int = 0
    answered: int = 0
    failed: int = 0
    given_up: int = 0  # of the failed ones, those that were tried again in vain
    prompt_tokens: int = 0
    completion_tokens: int = 0


@dataclass(kw_only=True)
class ChatClient:
    """url: up to and with `/v1`. model: none takes the first that the server names.

    timeout: seconds from sending a request to the end of its answer; backoff: seconds before the
    first retry, doubled for each further one and varied by half at random; Retry-After is
    respected. concurrency: requests at once.
    """

    url: str
    model: str | None = None
    key: str | None = field(default=None, repr=False)
    timeout: float = 120.0
    retries: int = 5
    backoff: float = 0.5
    concurrency: int = 16
    cache: AnswerCache | None = None
    spent: Spent = field(default_factory=Spent)

    def __post_init__(self) -> None:
        self.url = checked_address(self.url)
        if self.key and not (self.key.isascii() and self.key.isprintable()):
            raise UserError(
                f"endpoint {self.url}: found a key with characters that no request can carry"
                " (a line end, say), expected printable ASCII"
            )
        self._veil = Veil(key=self.key)

    def check(self) -> str:
        """The served model's name. UserError where nothing answers, or it serves another model."""
        with start_blocking_portal() as portal, self._http(portal) as http:
            try:
                said = portal.call(exchange, http, "GET", self._to("/models"), None, self.timeout)
                if said.status != 200:
                    raise NoUse(_status(said))
                names = [str(one["id"]) for one in said.json()["data"]]
            except (NoUse, LookupError, TypeError) as error:
                raise UserError(
                    f"endpoint {self.url}: found no answer to /models"
                    f" ({self._veil.line(_reason(error))}), expected an OpenAI-compatible server;"
                    " is it up, and does the address end in /v1?"
                ) from None
        if self.model is None:
            if not names:
                raise UserError(f"endpoint {self.url}: serves no model, expected one")
            self.model = names[0]
        elif self.model not in names:
            served = self._veil.line(", ".join(names))
            raise UserError(f"endpoint {self.url}: serves {served}, expected {self.model!r}")
        return self._veil.line(self.model)

    def ask_all(
        self, conversations: Iterable[Messages], *, max_tokens: int, **more: Any
    ) -> Iterator[tuple[int, Answer]]:
        """(number, answer) as they come in; greedy. At most 2 x concurrency requests are open, and
        no more than those are taken from `conversations` at a time.

        After Ctrl-C what has come is given, and then KeyboardInterrupt. NothingAnswered after
        `HOPELESS` requests that were given up while none was answered.
        """
        if self.model is None:
            self.check()
        bodies = (
            {"model": self.model, "messages": one, "max_tokens": max_tokens, "temperature": 0.0}
            | more
            for one in conversations
        )
        open_: dict[Future[Answer], int] = {}
        with start_blocking_portal() as portal, self._http(portal) as http:
            gate = asyncio.Semaphore(self.concurrency)
            try:
                for number, body in enumerate(bodies):
                    open_[portal.start_task_soon(self._ask, http, gate, body)] = number
                    while len(open_) >= 2 * self.concurrency:
                        yield from _finished(open_)
                while open_:
                    yield from _finished(open_)
            except KeyboardInterrupt:
                came = [one for one in open_ if one.done() and not one.exception()]
                yield from ((open_.pop(one), one.result()) for one in came)
                raise
            finally:
                for one in open_:
                    one.cancel()

    async def _ask(
        self, http: httpx.AsyncClient, gate: asyncio.Semaphore, body: Mapping[str, Any]
    ) -> Answer:
        """One answer: from the cache, or sent and tried again as needed."""
        key = AnswerCache.key(body)
        known = self.cache.get(key) if self.cache else None
        if known is not None:
            self.spent.cached += 1
            text, prompt, completion = known
            return Answer(
                text=text, prompt_tokens=prompt, completion_tokens=completion, cached=True
            )
        async with gate:
            answer = await self._sent(http, body)
        if answer.text is None:
            self.spent.failed += 1
            return answer
        if self.cache:
            self.cache.put(key, answer.text, answer.prompt_tokens, answer.completion_tokens)
        self.spent.answered += 1
        self.spent.prompt_tokens += answer.prompt_tokens
        self.spent.completion_tokens += answer.completion_tokens
        return answer

    async def _sent(self, http: httpx.AsyncClient, body: Mapping[str, Any]) -> Answer:
        error = ""
        for attempt in range(self.retries + 1):
            pause = self.backoff * 2**attempt * random.uniform(0.5, 1.5)
            self.spent.requests += 1
            try:
                said = await exchange(
                    http, "POST", self._to("/chat/completions"), body, self.timeout
                )
                if said.status == 200:
                    return self._read(said)
                error = self._veil.line(_status(said), sent=texts_of(body))
                if said.status in FATAL or 300 <= said.status < 400:
                    raise UserError(
                        f"endpoint {self.url}: found {error}, expected an answer;"
                        " check address, key and model name"
                    )
                if said.status not in PASSING:
                    # This request can never succeed (it is too long, say).
                    return Answer(text=None, error=error)
                pause = max(pause, _retry_after(said))
            except NoUse as problem:
                error = self._veil.line(str(problem), sent=texts_of(body))
            if attempt < self.retries:
                self.spent.retries += 1
                await asyncio.sleep(min(pause, LONGEST_WAIT))
        self.spent.given_up += 1
        if self.spent.given_up >= HOPELESS and not self.spent.answered:
            raise NothingAnswered(
                f"endpoint {self.url}: found no answer to any of {self.spent.failed + 1} requests"
                f" ({error}), expected some; mend the server, and give the same command again"
            )
        return Answer(text=None, error=error)

    def _read(self, said: Said) -> Answer:
        """The answer in a completion. NoUse where there is none: no choice, say, or no words."""
        found = said.json()
        try:
            choice = found["choices"][0]
            text = choice["message"]["content"]
        except (LookupError, TypeError):
            text = None
        if not isinstance(text, str):
            raise NoUse(f"no choices[0].message.content that is text: {said.words()}")
        whole = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        usage = found.get("usage")
        return Answer(
            text=self._veil.masked(whole),
            prompt_tokens=_tokens(usage, "prompt_tokens"),
            completion_tokens=_tokens(usage, "completion_tokens"),
            cut=choice.get("finish_reason") == "length",
            replaced=whole.count("\ufffd") - text.count("\ufffd"),
        )

    def _to(self, path: str) -> str:
        return self.url + path

    def _http(self, portal: BlockingPortal) -> AbstractContextManager[httpx.AsyncClient]:
        made = make_http(self.url, key=self.key, connections=self.concurrency)
        return portal.wrap_async_context_manager(made)


def _finished(open_: dict[Future[Answer], int]) -> Iterator[tuple[int, Answer]]:
    for done in wait(open_, return_when=FIRST_COMPLETED).done:
        yield open_.pop(done), done.result()


def _tokens(usage: Any, name: str) -> int:
    """A count of tokens; 0 where the server gives none that can be one."""
    value = usage.get(name) if isinstance(usage, dict) else None
    return value if type(value) is int and 0 <= value < MOST_TOKENS else 0


def _status(said: Said) -> str:
    to = f" to {said.headers.get('Location')}" if 300 <= said.status < 400 else ""
    return f"HTTP {said.status}{to} {said.words()}"


def _retry_after(said: Said) -> float:
    value = said.headers.get("Retry-After", "").strip()
    return min(float(value), LONGEST_WAIT) if value.isdecimal() else 0.0


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, NoUse) else f"no data[].id in it: {error}"
