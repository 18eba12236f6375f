"""A real guard that is small and quickly trained, and servers that behave badly on order."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

EVALUATE = Path(__file__).parents[1] / "evaluate"
sys.path.append(str(EVALUATE))


@pytest.fixture(scope="session")
def guard(tmp_path_factory):
    from tiny_guard import make_guard

    return make_guard(tmp_path_factory.mktemp("guard") / "tiny-guard", longest=12)


@pytest.fixture
def serve(tmp_path):
    """serve(orders) -> (address, log lines); each server is a process of its own."""
    running = []

    def start(orders):
        folder = tmp_path / f"server-{len(running)}"
        folder.mkdir()
        (folder / "orders.json").write_text(json.dumps(orders))
        names = [str(folder / name) for name in ("orders.json", "port", "log")]
        (folder / "log").touch()
        process = subprocess.Popen([sys.executable, str(EVALUATE / "fault_server.py"), *names])
        running.append(process)
        end = time.monotonic() + 20
        while not (folder / "port").exists() or not (folder / "port").read_text():
            assert process.poll() is None and time.monotonic() < end
            time.sleep(0.02)

        def log():
            return [json.loads(line) for line in (folder / "log").read_text().splitlines()]

        return f"http://127.0.0.1:{(folder / 'port').read_text()}/v1", log

    yield start
    for process in running:
        process.kill()
        process.wait()
