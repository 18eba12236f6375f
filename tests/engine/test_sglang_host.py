"""The process that holds SGLang, with a stand-in for SGLang that never comes up."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SLOW = """
import os, pathlib, time
class Engine:
    def __init__(self, **arguments):
        pathlib.Path("part").write_text(str(os.getpid()))
        os.rename("part", "pid")
        time.sleep(600)
"""
TRAINER = """
import multiprocessing, time
from sectow_fast.engine import sglang_host
if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    context.Process(target=sglang_host.main, args=(theirs, {}, {}, "log")).start()
    time.sleep(600)
"""


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


def wait_for(found) -> bool:
    end = time.monotonic() + 60
    while not found() and time.monotonic() < end:
        time.sleep(0.05)
    return found()


@pytest.mark.skipif(sys.platform != "linux", reason="SGLang is for Linux")
def test_a_trainer_that_is_killed_while_sglang_starts_takes_it_along(tmp_path):
    (tmp_path / "sglang").mkdir()
    (tmp_path / "sglang" / "__init__.py").write_text(SLOW)
    (tmp_path / "trainer.py").write_text(TRAINER)
    root = Path(__file__).parents[2]
    trainer = subprocess.Popen(
        [sys.executable, "trainer.py"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{root}"},
    )
    host = None
    try:
        assert wait_for((tmp_path / "pid").exists)
        host = int((tmp_path / "pid").read_text())
        trainer.kill()
        assert trainer.wait() == -signal.SIGKILL
        assert wait_for(lambda: gone(host))
    finally:
        trainer.kill()
        if host and not gone(host):
            os.killpg(host, signal.SIGKILL)
    assert "the trainer is gone" in (tmp_path / "log").read_text()
