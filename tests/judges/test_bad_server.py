"""A real server in this process that misbehaves in one way at a time, and what the client makes
of it."""

from __future__ import annotations

import contextlib
import gzip
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from sectow_fast.serving import wire
from sectow_fast.serving.client import HOPELESS, ChatClient, NothingAnswered
from sectow_fast.types import UserError

KEY = "sk-open-sesame"


def completion(content, **more):
    return json.dumps({"choices": [{"message": {"content": content}}]} | more)


@contextlib.contextmanager
def server(body="", status=200, headers=(), drip=False, models='{"data": [{"id": "m"}]}'):
    """(address, requests as (path, authorization)); `{key}` in a body is what the client sent."""
    seen = []

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *arguments):
            pass

        def answer(self, status, body, headers=()):
            mine = self.headers.get("Authorization", "")
            seen.append((self.path, mine))
            data = body if isinstance(body, bytes) else body.replace("{key}", mine).encode()
            self.send_response(status)
            for name, value in headers:
                self.send_header(name, value)
            self.end_headers()
            with contextlib.suppress(OSError):
                for at in range(0, len(data), 1 if drip else len(data) or 1):
                    self.wfile.write(data[at:] if not drip else data[at : at + 1])
                    time.sleep(0.05 * drip)

        def do_GET(self):
            self.answer(200, models)

        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            self.answer(status, body, headers)

    made = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.daemon_threads = True
    threading.Thread(target=made.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{made.server_address[1]}/v1", seen
    finally:
        made.shutdown()
        made.server_close()


def ask(url, words="please fold a bado0", count=1, **more):
    given = {"model": "m", "key": KEY, "retries": 0, "timeout": 5, "backoff": 0.001} | more
    client = ChatClient(url=url, **given)
    talks = [[{"role": "user", "content": words}] for _ in range(count)]
    return dict(client.ask_all(talks, max_tokens=4))[0]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ('{"choices": [], "usage": {}}', "no choices"),
        ('{"choices": null}', "no choices"),
        ('{"choices": [{"message": null}]}', "no choices"),
        ('{"choices": [{"message": {"content": [1]}}]}', "no choices"),
        ("[1]", "no choices"),
        ("<html>gateway</html>", "no JSON: <html>"),
        ("[" * 200_000, "nested too deeply"),
        ("1" * 9000, "no JSON"),
    ],
)
def test_an_answer_without_words_is_an_error_and_not_a_traceback(body, words):
    with server(body) as (url, _):
        answer = ask(url)
    assert answer.text is None and words in answer.error


@pytest.mark.parametrize(
    "usage", ["null", "[1]", '{"prompt_tokens": "3 tokens"}', '{"prompt_tokens": Infinity}',
              '{"prompt_tokens": -4}', '{"prompt_tokens": 1e400}', '{"prompt_tokens": 9000000000}'
    ]
)  # fmt: skip
def test_odd_usage_counts_nothing_and_loses_no_reply(usage):
    body = '{"choices": [{"message": {"content": "yes"}, "finish_reason": "length"}], "usage": U}'
    with server(body.replace("U}", usage + "}")) as (url, _):
        answer = ask(url)
    assert (answer.text, answer.prompt_tokens, answer.cut) == ("yes", 0, True)


def test_half_characters_are_replaced_and_counted():
    with server(completion("half \ud83d, whole \U0001f600, nul \x00, and \ufffd")) as (url, _):
        answer = ask(url)
    assert answer.text == "half \ufffd, whole \U0001f600, nul \x00, and \ufffd"
    assert answer.replaced == 1


def test_a_packed_answer_is_read_and_one_packed_twice_is_not():
    packed = gzip.compress(completion("yes").encode())
    with server(packed, headers=[("Content-Encoding", "gzip")]) as (url, _):
        assert ask(url).text == "yes"
    with server(gzip.compress(packed), headers=[("Content-Encoding", "gzip, gzip")]) as (url, _):
        assert "packed more than once" in ask(url).error


def test_a_longer_answer_than_the_bound_is_not_read(monkeypatch):
    monkeypatch.setattr(wire, "MOST_BYTES", 1 << 20)
    with server(completion("a" * (1 << 20))) as (url, _):
        assert "longer than 1 MiB" in ask(url).error
    with server(gzip.compress(b" " * (2 << 20)), headers=[("Content-Encoding", "gzip")]) as (
        url,
        _,
    ):
        assert "longer than 1 MiB" in ask(url).error


def test_the_deadline_is_for_the_whole_request_and_not_for_a_read():
    with server(" " * 10_000, drip=True) as (url, _):
        assert "timed out" in ask(url, timeout=0.3).error


def test_the_key_is_masked_wherever_words_are_kept():
    echo = json.dumps({"error": {"message": "bad key {key}"}})
    for status in (400, 500):
        with server(echo, status) as (url, _):
            assert ask(url).error == f"HTTP {status} bad key Bearer [key]"
    with server(echo, 401) as (url, _), pytest.raises(UserError) as error:
        ask(url)
    assert KEY not in str(error.value) and "HTTP 401 bad key Bearer [key]" in str(error.value)
    with server(completion("you sent {key}")) as (url, _):
        assert ask(url).text == "you sent Bearer [key]"
    # Cut at 200 letters, half of a key would be left.
    with server("x" * 185 + " {key}", 400) as (url, _):
        assert "sk-" not in ask(url).error
    with server(models='{"data": [{"id": "{key}"}]}') as (url, _):
        assert ChatClient(url=url, key=KEY).check() == "Bearer [key]"
    assert KEY not in repr(ChatClient(url="http://h/v1", key=KEY))


def test_a_stand_in_for_a_key_may_be_a_word_of_a_reply():
    with server(completion("The box is EMPTY.")) as (url, _):
        assert ask(url, key="EMPTY").text == "The box is EMPTY."


def test_escape_codes_and_what_was_asked_do_not_reach_a_console():
    with server("\x1b]0;owned\x07\x1b[31mred\x1b[2J\u202e", 400) as (url, _):
        assert ask(url).error == "HTTP 400 ]0;owned [31mred [2J"
    with server('you said "please fold a bado0" to me', 400) as (url, _):
        assert ask(url).error == 'HTTP 400 you said "[request]'


def test_no_redirect_is_followed():
    with server(completion("stolen")) as (other, seen):
        for status in (302, 307):
            where = [("Location", f"{other}/chat/completions")]
            told = pytest.raises(UserError, match=f"found HTTP {status} to {other}")
            with server("", status, where) as (url, _), told:
                ask(url)
        assert not seen


def test_this_machine_is_reached_without_a_proxy(monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with server(completion("yes")) as (url, _):
        assert ask(url).text == "yes"
    # Another one is reached by it: nobody listens at that proxy.
    assert ask("http://model.invalid/v1").error == "All connection attempts failed"
    found = {host: wire.is_local(host) for host in ("localhost", "::1", "127.3.2.1", "0.0.0.0")}
    assert all(found.values()) and not wire.is_local("10.0.0.1") and not wire.is_local("localhosts")


def test_a_proxy_setting_that_cannot_be_used_is_one_line(monkeypatch):
    monkeypatch.setenv("ALL_PROXY", "gopher://x")
    with pytest.raises(UserError, match="mend HTTP_PROXY"):
        ask("http://model.invalid/v1")


@pytest.mark.parametrize("url", ["http://u:secret@h/v1", "http://h/v1?a=b", "http://h:99999/v1"])
def test_an_address_that_cannot_be_used_is_refused_without_its_password(url):
    with pytest.raises(UserError) as error:
        ChatClient(url=url)
    assert "secret" not in str(error.value)


def test_a_key_that_no_header_can_carry_is_refused_and_not_shown():
    with pytest.raises(UserError) as error:
        ChatClient(url="http://h/v1", key="sk-secret\n")
    assert "secret" not in str(error.value)


def test_a_server_that_answers_nothing_is_given_up():
    with server("oops", 500) as (url, seen):
        with pytest.raises(NothingAnswered, match="HTTP 500 oops"):
            ask(url, count=20 * HOPELESS)
        assert len(seen) < HOPELESS + 64


def test_what_has_come_is_given_before_a_stop():
    def talks():
        for _ in range(3):
            yield [{"role": "user", "content": "x"}]
        time.sleep(0.5)  # the three are answered meanwhile
        raise KeyboardInterrupt

    found = []
    with server(completion("yes")) as (url, _), pytest.raises(KeyboardInterrupt):
        for number, answer in ChatClient(url=url, model="m").ask_all(talks(), max_tokens=4):
            found.append((number, answer.text))
    assert sorted(found) == [(0, "yes"), (1, "yes"), (2, "yes")]


def test_a_stop_does_not_wait_for_a_server_that_is_silent():
    def talks():
        yield [{"role": "user", "content": "x"}]
        time.sleep(0.1)
        raise KeyboardInterrupt

    with server(" " * 10_000, drip=True) as (url, _):
        client = ChatClient(url=url, model="m", retries=9)
        began = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            list(client.ask_all(talks(), max_tokens=4))
        assert time.monotonic() - began < 30  # the drip would last for minutes
