"""An OpenAI-compatible chat endpoint, many requests at once.

Temporary faults are tried again with growing waits. If that does not help, the `Answer` has `error`
set, so that one lost reply does not end a run. What no retry can mend (a wrong key or path) is a
UserError.
"""

from __future__ import annotations

import http.client
import json
import random
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Any

from sectow_fast.serving.cache import AnswerCache
from sectow_fast.types import UserError

Messages = list[dict[str, Any]]
PASSING = (408, 409, 425, 429, 500, 502, 503, 504)
FATAL = (401, 403, 404, 405)
LONGEST_WAIT = 60.0  # seconds


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What came back. text is None where it was not usable, and `error` says why."""

    text: str | None
    error: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached: bool = False


@dataclass(kw_only=True)
class Spent:
    """What a client has used so far; tokens are those of requests that were really sent."""

    requests: int = 0
    retries: int = 0
    cached: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0


@dataclass(kw_only=True)
class ChatClient:
    """url: up to and with `/v1`. model: none takes the first that the server names.

    timeout: seconds per request; backoff: seconds before the first retry, doubled for each further
    one and varied by half at random; Retry-After is respected. concurrency: requests at once.
    """

    url: str
    model: str | None = None
    key: str | None = None
    timeout: float = 120.0
    retries: int = 5
    backoff: float = 0.5
    concurrency: int = 16
    cache: AnswerCache | None = None
    spent: Spent = field(default_factory=Spent)

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self.url = self.url.rstrip("/")
        if not self.url.startswith(("http://", "https://")):
            raise UserError(
                f"endpoint {self.url!r}: found no http(s) address, expected http://.../v1"
            )

    def check(self) -> str:
        """The served model's name. UserError where nothing answers, or it serves another model."""
        try:
            found = self._send("GET", "/models", None)
            names = [str(one["id"]) for one in found["data"]]
        except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"endpoint {self.url}: found no answer to /models ({_reason(error)}), expected an"
                " OpenAI-compatible server; is it up, and does the address end in /v1?"
            ) from None
        if self.model is None:
            if not names:
                raise UserError(f"endpoint {self.url}: serves no model, expected one")
            self.model = names[0]
        elif self.model not in names:
            raise UserError(
                f"endpoint {self.url}: serves {', '.join(names)}, expected {self.model!r}"
            )
        return self.model

    def ask_all(
        self, conversations: Iterable[Messages], *, max_tokens: int, **more: Any
    ) -> Iterator[tuple[int, Answer]]:
        """(number, answer) as they come in; greedy. At most 2 x concurrency requests are open, and
        no more than those are taken from `conversations` at a time."""
        if self.model is None:
            self.check()
        bodies = (
            {"model": self.model, "messages": one, "max_tokens": max_tokens, "temperature": 0.0}
            | more
            for one in conversations
        )
        with ThreadPoolExecutor(self.concurrency) as pool:
            open_: dict[Any, int] = {}
            try:
                for number, body in enumerate(bodies):
                    open_[pool.submit(self.ask, body)] = number
                    while len(open_) >= 2 * self.concurrency:
                        for done in wait(open_, return_when=FIRST_COMPLETED).done:
                            yield open_.pop(done), done.result()
                while open_:
                    for done in wait(open_, return_when=FIRST_COMPLETED).done:
                        yield open_.pop(done), done.result()
            finally:
                for future in open_:
                    future.cancel()

    def ask(self, body: Mapping[str, Any]) -> Answer:
        """One answer: from the cache, or sent and tried again as needed."""
        key = AnswerCache.key(body)
        known = self.cache.get(key) if self.cache else None
        if known is not None:
            self._count(cached=1)
            text, prompt, completion = known
            return Answer(
                text=text, prompt_tokens=prompt, completion_tokens=completion, cached=True
            )
        error = ""
        for attempt in range(self.retries + 1):
            pause = self.backoff * 2**attempt * random.uniform(0.5, 1.5)
            try:
                found = self._send("POST", "/chat/completions", body)
                text = found["choices"][0]["message"]["content"]
                if not isinstance(text, str):
                    raise ValueError(f"content is {text!r}")
            except urllib.error.HTTPError as problem:
                error = f"HTTP {problem.code} {_reason(problem)}"
                if problem.code in FATAL:
                    raise UserError(
                        f"endpoint {self.url}: found {error}, expected an answer;"
                        " check address, key and model name"
                    ) from None
                if problem.code not in PASSING:
                    break  # this request can never succeed (it is too long, say)
                pause = max(pause, _retry_after(problem))
            except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError) as problem:
                error = _reason(problem)
            else:
                usage = found.get("usage") or {}
                prompt = int(usage.get("prompt_tokens") or 0)
                completion = int(usage.get("completion_tokens") or 0)
                if self.cache:
                    self.cache.put(key, text, prompt, completion)
                self._count(prompt_tokens=prompt, completion_tokens=completion)
                return Answer(text=text, prompt_tokens=prompt, completion_tokens=completion)
            if attempt < self.retries:
                self._count(retries=1)
                time.sleep(min(pause, LONGEST_WAIT))
        self._count(failed=1)
        return Answer(text=None, error=error)

    def _send(self, method: str, path: str, body: Mapping[str, Any] | None) -> Any:
        headers = {"Content-Type": "application/json"}
        if self.key:
            headers["Authorization"] = f"Bearer {self.key}"
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, headers, method=method)
        if body is not None:
            self._count(requests=1)
        with urllib.request.urlopen(request, timeout=self.timeout) as reply:
            return json.load(reply)

    def _count(self, **more: int) -> None:
        with self._lock:
            for name, value in more.items():
                setattr(self.spent, name, getattr(self.spent, name) + value)


def _retry_after(problem: urllib.error.HTTPError) -> float:
    value = problem.headers.get("Retry-After", "") if problem.headers else ""
    return min(float(value), LONGEST_WAIT) if value.strip().isdecimal() else 0.0


def _reason(error: BaseException) -> str:
    """One short line, with the server's own words where it sent any."""
    if isinstance(error, urllib.error.HTTPError):
        try:
            words = error.read(400).decode("utf-8", "replace")
        except (OSError, ValueError):
            words = str(error.reason)
        return " ".join(words.split())[:200]
    text = str(getattr(error, "reason", None) or error) or type(error).__name__
    return " ".join(text.split())[:200]
