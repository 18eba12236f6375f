"""Ctrl-C while a command still imports its libraries: one line, and nothing else happens.

Python would raise KeyboardInterrupt inside the import. Some libraries take that for a missing part
and go on without it, and the others end in a stack trace.
"""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType


def end_quietly(words: str) -> None:
    """From now on Ctrl-C prints `words` and ends the process with exit code 130."""

    def end(signum: int, frame: FrameType | None) -> None:
        print(words, file=sys.stderr, flush=True)
        os._exit(130)  # nothing was written yet, and nothing was started

    signal.signal(signal.SIGINT, end)


def raise_again() -> None:
    """Ctrl-C raises KeyboardInterrupt again, where `end_quietly` was called before."""
    if getattr(signal.getsignal(signal.SIGINT), "__module__", "") == __name__:
        signal.signal(signal.SIGINT, signal.default_int_handler)
