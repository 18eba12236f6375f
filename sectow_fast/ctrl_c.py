"""Ctrl-C is one line, while a command imports its libraries and while it works.

Inside an import Python would raise KeyboardInterrupt. Some libraries take that for a missing part
and go on without it, and the others end in a stack trace.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from types import FrameType

SAME_COMMAND = "stopped; the same command goes on from here"


def end_quietly(words: str) -> None:
    """From now on Ctrl-C prints `words` and ends the process with exit code 130."""

    def end(signum: int, frame: FrameType | None) -> None:
        print(words, file=sys.stderr, flush=True)
        os._exit(130)  # nothing was written yet, and nothing was started

    signal.signal(signal.SIGINT, end)


def raise_again() -> None:
    """Ctrl-C raises KeyboardInterrupt again, where `end_quietly` was called before."""
    if getattr(signal.getsignal(signal.SIGINT), "__qualname__", "").startswith("end_quietly."):
        signal.signal(signal.SIGINT, signal.default_int_handler)


def end_soon(words: str, seconds: float = 2.0) -> None:
    """From now on Ctrl-C is a KeyboardInterrupt, and whatever still waits `seconds` later does not
    hold the process; another Ctrl-C ends it at once. Both print `words` and end with exit code 130.

    For a command that has each result on the disk as soon as it is there: nothing is lost so.
    """

    def end() -> None:
        os.write(2, f"{words}\n".encode())
        os._exit(130)

    def stop(signum: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, lambda *_: end())
        timer = threading.Timer(seconds, end)
        timer.daemon = True
        timer.start()
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, stop)
