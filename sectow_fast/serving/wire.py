"""One exchange with a server that is not ours to trust: bounded in time and in bytes.

What it says of itself is made safe to print and to keep by `Veil`, before anything else sees it.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx

from sectow_fast.types import UserError

MOST_BYTES = 8 << 20  # of one answer; the longest real ones are a hundredth of it
LONGEST_WORDS = 200  # letters of a server's words that are kept
SHORTEST_KEY = 8  # a shorter key is a stand-in such as EMPTY, and may be a word of a reply
ECHO = 12  # letters of a request by which its echo is known


class NoUse(Exception):
    """The exchange gave nothing that can be used. Its words are the server's own, not yet safe."""


@dataclass(frozen=True, kw_only=True)
class Said:
    """What a server answered. body: unpacked, at most `MOST_BYTES`."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """The body's JSON. NoUse where it has none, or is nested deeper than Python can follow."""
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError) as error:
            kind = "nested too deeply" if isinstance(error, RecursionError) else "no JSON"
            raise NoUse(f"{kind}: {self.words()}") from None

    def words(self) -> str:
        """The body as text; of an error in OpenAI's form, its message."""
        try:
            return str(json.loads(self.body)["error"]["message"])
        except (ValueError, RecursionError, LookupError, TypeError):
            return self.body.decode("utf-8", "replace")


@dataclass(frozen=True, kw_only=True)
class Veil:
    """Makes a server's words safe. key: never shown, whatever a server echoes."""

    key: str | None = field(repr=False)

    def masked(self, text: str) -> str:
        """The text without the key."""
        if self.key and len(self.key) >= SHORTEST_KEY:
            for form in (self.key, json.dumps(self.key)[1:-1]):
                text = text.replace(form, "[key]")
        return text

    def line(self, text: str, *, sent: Iterable[str] = ()) -> str:
        """One short line without key, escape codes and what was sent.

        sent: texts of the request. From the place on where one of them begins, nothing is kept:
        consoles show no requests.
        """
        text = self.masked(text)
        for one in sent:
            for form in (one[:ECHO], json.dumps(one)[1:-1][:ECHO]):
                at = text.find(form) if len(form) == ECHO else -1
                text = text if at < 0 else f"{text[:at]}[request]"
        text = "".join(c if c.isprintable() else " " for c in text[: 10 * LONGEST_WORDS])
        return " ".join(text.split())[:LONGEST_WORDS]


def checked_address(url: str) -> str:
    """The address without a slash at its end. UserError where it is none, or holds a secret."""
    try:
        parts = httpx.URL(url)
        usable = parts.scheme in ("http", "https") and bool(parts.host)
        usable = usable and 0 < (parts.port or 80) < 1 << 16
    except (httpx.InvalidURL, ValueError, TypeError):
        usable = False
    if not usable:
        raise UserError(f"endpoint {url!r}: found no http(s) address, expected http://.../v1")
    if parts.userinfo or parts.query or parts.fragment:
        raise UserError(
            f"endpoint {parts.host}: found a password, ? or # in the address, expected"
            " http://HOST:PORT/v1 alone; give a key by its environment variable"
        )
    return url.rstrip("/")


def make_http(url: str, *, key: str | None, connections: int) -> httpx.AsyncClient:
    """httpx as we need it: no redirects are followed, and nothing on this machine goes by a proxy.

    `exchange` has the deadline, so there is no other. UserError where the environment's proxy
    settings cannot be used.
    """
    headers = {"Content-Type": "application/json", "Accept-Encoding": "gzip"}
    if key:
        headers["Authorization"] = f"Bearer {key}"
    try:
        return httpx.AsyncClient(
            headers=headers,
            timeout=None,
            limits=httpx.Limits(max_connections=connections),
            follow_redirects=False,
            trust_env=not is_local(httpx.URL(url).host),
        )
    except (httpx.InvalidURL, ValueError, ImportError) as error:
        raise UserError(
            f"endpoint {url}: the environment's proxy or certificate settings cannot be used"
            f" ({type(error).__name__}); mend HTTP_PROXY, ALL_PROXY or SSL_CERT_FILE"
        ) from None


def is_local(host: str) -> bool:
    """Whether the host is this machine."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified


async def exchange(
    http: httpx.AsyncClient, method: str, url: str, body: Mapping[str, Any] | None, seconds: float
) -> Said:
    """Send and read to the end within `seconds`, names and connecting included.

    NoUse where that does not succeed, or the answer is longer than `MOST_BYTES`.
    """
    content = None if body is None else json.dumps(body).encode()
    try:
        async with asyncio.timeout(seconds), http.stream(method, url, content=content) as reply:
            if "," in reply.headers.get("Content-Encoding", ""):
                raise NoUse("the answer is packed more than once")
            found = bytearray()
            async for piece in reply.aiter_bytes():
                found += piece
                if len(found) > MOST_BYTES:
                    raise NoUse(f"the answer is longer than {MOST_BYTES >> 20} MiB")
            return Said(status=reply.status_code, headers=reply.headers, body=bytes(found))
    except TimeoutError:
        raise NoUse(f"timed out: no whole answer in {seconds:g} s") from None
    except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:
        raise NoUse(str(error) or type(error).__name__) from None


def texts_of(body: Mapping[str, Any]) -> Iterator[str]:
    """The words of a chat request, for `Veil.line`."""
    for message in body["messages"]:
        content = message["content"]
        if isinstance(content, str):
            yield content
        else:
            yield from (part["text"] for part in content if part["type"] == "text")
