"""Work in forks of this process, a few at once, with limits of time and memory."""

from __future__ import annotations

import os
import pickle
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

SURVIVED, KILLED, BROKEN = 0, 1, 70  # exit codes of a fork
EXTRA_BYTES = 4 << 30  # memory that a mutant may take beyond its parent's
TELL_EVERY = 15.0  # seconds between two lines of progress
WAITS = 4  # of the clock a mutant may take so many times its limit of CPU: the machine may be busy


@dataclass(frozen=True, kw_only=True)
class Result:
    """status: killed, timeout, crash, survived or uncovered. by: the test that failed."""

    status: str
    by: str = ""


def in_forks(
    jobs: Sequence[tuple[float, Callable[[], str]]], *, at_once: int, folder: str
) -> Iterator[tuple[int, Result]]:
    """Run each job in a fork of its own; (number, result) as they end.

    A job is (seconds of CPU it may take, what to do); it returns the test that failed, or "". Each
    works in `folder`, since a mutant may write a file to where it should not. RuntimeError where a
    fork fails for another reason than a failed test.
    """
    running: dict[int, tuple[int, float, int]] = {}
    waiting = list(enumerate(jobs))[::-1]
    began = told = time.monotonic()
    while waiting or running:
        while waiting and len(running) < at_once:
            number, (limit, work) = waiting.pop()
            read, write = os.pipe()
            pid = os.fork()
            if pid == 0:
                os.close(read)
                _fork_body(work, write, int(limit), folder)
            os.close(write)
            running[pid] = (number, time.monotonic() + WAITS * limit, read)
        time.sleep(0.003)
        if time.monotonic() - told > TELL_EVERY:
            told, done = time.monotonic(), len(jobs) - len(waiting) - len(running)
            print(f"  {done}/{len(jobs)} in {told - began:.0f} s", file=sys.stderr, flush=True)
        for pid, (number, end, read) in list(running.items()):
            done, code = os.waitpid(pid, os.WNOHANG)
            late = not done and time.monotonic() > end
            if not done and not late:
                continue
            _kill_group(pid)
            if late:
                os.waitpid(pid, 0)
            with os.fdopen(read, "rb", closefd=True) as pipe:
                os.set_blocking(read, False)
                words = (pipe.read() or b"").decode()
            del running[pid]
            yield number, _result(late, code, words)


def _fork_body(work: Callable[[], str], write: int, seconds: int, folder: str) -> None:
    code = BROKEN
    try:
        os.setsid()
        os.chdir(folder)
        quiet = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(quiet, stream)
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + EXTRA_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 5))
        by = work()
        code = KILLED if by else SURVIVED
        os.write(write, by[:2000].encode())
    except BaseException:
        os.write(write, traceback.format_exc()[-4000:].encode())
    finally:
        os._exit(code)


def _kill_group(pid: int) -> None:
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def _result(late: bool, code: int, words: str) -> Result:
    if late or (os.WIFSIGNALED(code) and os.WTERMSIG(code) == signal.SIGXCPU):
        return Result(status="timeout")
    if os.WIFSIGNALED(code):
        return Result(status="crash", by=signal.Signals(os.WTERMSIG(code)).name)
    if os.WEXITSTATUS(code) == BROKEN:
        raise RuntimeError(f"a fork failed, and not by a test:\n{words}")
    return Result(status="killed" if os.WEXITSTATUS(code) == KILLED else "survived", by=words)


def in_one_fork(work: Callable[[], object]) -> object:
    """What `work` returns, worked out in a fork, so that nothing it imports stays here."""
    with tempfile.NamedTemporaryFile() as file:
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                Path(file.name).write_bytes(pickle.dumps(work()))
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]):
            raise SystemExit(1)
        return pickle.loads(Path(file.name).read_bytes())
