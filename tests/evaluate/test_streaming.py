"""Evaluations of any size: pictures are opened for the requests that are open, and no others."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from PIL import Image

from sectow_fast.data.suites.wording import Wording
from sectow_fast.evaluation.defences import defended
from sectow_fast.evaluation.repliers import Ask, EndpointReplier, Reply
from sectow_fast.serving.client import ChatClient


class Handler(BaseHTTPRequestHandler):
    """An endpoint that replies with the words it was asked."""

    def log_message(self, *arguments: object) -> None:
        pass

    def do_GET(self) -> None:
        self.reply({"data": [{"id": "echo"}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        words = body["messages"][0]["content"][-1]["text"]
        self.reply({"choices": [{"message": {"content": words}}]})

    def reply(self, value: object) -> None:
        data = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@pytest.fixture
def address():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    server.shutdown()
    thread.join()
    server.server_close()


class Counted:
    """Pictures, with the number of those that were opened."""

    opened = 0

    def open(self, key: str) -> Image.Image:
        self.opened += 1
        return Image.new("RGB", (8, 8))


def asks(images: Counted, count: int) -> list[Ask]:
    return [
        Ask(id=str(i), parts=(("image", "p"), ("text", f"words {i}")), images=images)
        for i in range(count)
    ]


def test_no_more_pictures_are_opened_than_requests_are_open(address):
    images, replied = Counted(), {}
    replier = EndpointReplier(ChatClient(url=address, concurrency=2), max_new_tokens=4)
    for number, reply in defended("none", replier, asks(images, 60), Wording(), chunk=64):
        assert images.opened <= len(replied) + 2 * 2 + 1
        replied[number] = reply.text
    assert replied == {i: f"words {i}" for i in range(60)} and images.opened == 60


class Agrees:
    """Replies with the request's words, and says no to the question about them."""

    def __init__(self) -> None:
        self.calls: list[int] = []

    def reply(self, asks):
        self.calls.append(len(asks))
        for number, ask in reversed(list(enumerate(asks))):
            yield number, Reply(text="no" if len(ask.text) > 20 else ask.text)


def test_a_defence_of_two_passes_takes_a_chunk_through_both_before_the_next():
    replier = Agrees()
    found = defended("self-check", replier, asks(Counted(), 5), Wording(), chunk=2)
    assert sorted(next(found) for _ in range(2))[1][0] == 1 and replier.calls == [2, 2]
    rest = dict(found)
    assert sorted(rest) == [2, 3, 4] and replier.calls == [2, 2, 2, 2, 1, 1]
    assert [rest[i].first for i in (2, 3, 4)] == [f"words {i}" for i in (2, 3, 4)]
