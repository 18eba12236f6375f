"""Somebody else's endpoint on a bad day: a process of its own that answers as its orders say.

    python fault_server.py ORDERS.json PORT_FILE LOG_FILE

ORDERS: a list of [status, body or null (never answers), headers]; the last one is repeated. Each
request to /v1/chat/completions takes the next order and is written to LOG_FILE.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

ORDERS = json.loads(Path(sys.argv[1]).read_text())
LOCK = threading.Lock()
COUNT = 0


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments: object) -> None:
        pass

    def send(self, status: int, body: str, headers: dict) -> None:
        data = body.encode()
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(data))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self) -> None:
        self.send(200, json.dumps({"data": [{"id": "toy-guard"}]}), {})

    def do_POST(self) -> None:
        global COUNT
        body = self.rfile.read(int(self.headers["Content-Length"]))
        with LOCK:
            status, text, headers = ORDERS[min(COUNT, len(ORDERS) - 1)]
            COUNT += 1
            with open(sys.argv[3], "a") as log:
                authorised = self.headers.get("Authorization", "")
                log.write(json.dumps([time.monotonic(), authorised, json.loads(body)]) + "\n")
        if text is None:
            time.sleep(60)
        self.send(status, text, headers)


server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
Path(sys.argv[2]).write_text(str(server.server_address[1]))
server.serve_forever()
