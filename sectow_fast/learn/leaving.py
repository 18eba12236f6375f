"""All ranks of a run leave together: each holds a line to the first, and one failure ends all.

A line is a socket. The kernel closes it when a process dies, so a killed rank is seen at once, and
a rank that only computes for long is not taken for dead. The first rank decides what the failure
was, says it once, and tells the others.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import sys
import threading
import time
import traceback
from dataclasses import asdict, dataclass
from multiprocessing.connection import Client, Connection, Listener, Pipe, wait
from typing import TYPE_CHECKING

from sectow_fast.types import UserError

if TYPE_CHECKING:
    from sectow_fast.learn.ranks import Ranks

GRACE = 10.0  # seconds a rank has to end by itself once a failure is known; then it is ended
SETTLE = 1.0  # seconds that the first rank waits for the cause of what may be a consequence
KEEPALIVE = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}  # a lost machine: 25 s


@dataclass(frozen=True, kw_only=True)
class Cause:
    """Why a rank leaves before its end. code: the exit code of all.

    sure: it cannot be a consequence of another rank's failure, as a broken connection is.
    """

    rank: int
    code: int
    words: str
    sure: bool

    @classmethod
    def of(cls, error: BaseException, rank: int) -> Cause:
        where = f" (rank {rank})" if rank else ""  # what all ranks find is the first one's to say
        if isinstance(error, UserError):
            return cls(rank=rank, code=2, words=f"{error}{where}", sure=True)
        if isinstance(error, KeyboardInterrupt):
            words = "stopped at once; --resume goes on from the last checkpoint"
            return cls(rank=rank, code=130, words=f"{words}{where}", sure=True)
        words = f"rank {rank} failed: {type(error).__name__}: {error}"
        if isinstance(error, RuntimeError) and "Timed out" in str(error):  # gloo's words
            words = (
                f"rank {rank} waited for longer than learn.rank_timeout for one that is alive;"
                " raise it, or look at what the others do; --resume goes on from the last"
                " checkpoint"
            )
        return cls(rank=rank, code=1, words=words, sure=False)

    @classmethod
    def silent(cls, rank: int) -> Cause:
        words = (
            f"rank {rank} ended without a word; was it killed, or out of memory? --resume goes"
            " on from the last checkpoint"
        )
        return cls(rank=rank, code=1, words=words, sure=True)


class RankLeft(Exception):
    """This rank ends with `code`; what there is to say was said."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class Lines:
    """One rank's line to the first, and the first one's to all. All ranks must make it together."""

    def __init__(self, ranks: Ranks, *, grace: float = GRACE) -> None:
        self._rank, self._grace = ranks.rank, grace
        self._cause: Cause | None = None
        self._over = threading.Event()  # all took leave, or one has failed
        key = ranks.told(lambda: secrets.token_bytes(16))
        listener = Listener(("", 0), backlog=ranks.world, authkey=key) if ranks.first else None
        port = ranks.told(lambda: listener.address[1])
        if listener is None:
            # torchrun's address is that of the machine where the first rank is.
            self._up = _kept_alive(Client((os.environ["MASTER_ADDR"], port), authkey=key))
            self._up.send_bytes(str(ranks.rank).encode())
            listen = threading.Thread(target=self._follow, daemon=True)
        else:
            with listener:
                down = [_kept_alive(listener.accept()) for _ in range(1, ranks.world)]
            self._up, own = Pipe()
            lines = {own: 0} | {line: int(line.recv_bytes()) for line in down}
            listen = threading.Thread(target=self._lead, args=(lines,), daemon=True)
        listen.start()

    def close(self) -> None:
        """Take leave, and wait until all have. RankLeft where one of them fails instead."""
        with contextlib.suppress(OSError):
            self._up.send_bytes(b"")
        self._over.wait()
        if self._cause is not None:
            raise RankLeft(self._cause.code)

    def fail(self, error: BaseException) -> RankLeft:
        """Tell the others that this rank fails, and return how it must end."""
        mine = Cause.of(error, self._rank)
        with contextlib.suppress(OSError):
            self._up.send_bytes(json.dumps(asdict(mine)).encode())
        self._over.wait(self._grace)
        cause = self._cause or mine
        if cause == mine and not mine.sure:
            traceback.print_exception(error)
        return RankLeft(cause.code)

    # ---- the thread that listens

    def _lead(self, lines: dict[Connection, int]) -> None:
        everyone = list(lines)
        found: list[Cause] = []
        while lines and not found:
            found = _heard(lines, None)
        end = time.monotonic() + SETTLE
        while found and lines and not any(one.sure for one in found):
            left = end - time.monotonic()
            if left <= 0:
                break
            found += _heard(lines, left)
        cause = min(found, key=lambda one: not one.sure, default=None)
        self._end(cause, everyone, speaks=True)

    def _follow(self) -> None:
        found = _heard({self._up: 0}, None)
        # Where the first rank is gone, the second one speaks.
        speaks = self._rank == 1 and found == [Cause.silent(0)]
        self._end(found[0] if found else None, [], speaks=speaks)

    def _end(self, cause: Cause | None, others: list[Connection], *, speaks: bool) -> None:
        if cause is not None and speaks:
            before = "" if cause.code == 130 else "error: "
            print(before + cause.words, file=sys.stderr, flush=True)
        message = b"" if cause is None else json.dumps(asdict(cause)).encode()
        for line in others:
            with contextlib.suppress(OSError):
                line.send_bytes(message)
        self._cause = cause
        self._over.set()
        if cause is not None:
            # A rank that waits for another inside a GPU's kernel cannot be told to raise.
            time.sleep(self._grace)
            os._exit(cause.code)


def _heard(lines: dict[Connection, int], timeout: float | None) -> list[Cause]:
    """Wait until lines have something to say; each speaks once and is dropped. A leave is none."""
    found = []
    for line in wait(list(lines), timeout):
        rank = lines.pop(line)
        try:
            message = line.recv_bytes()
        except (EOFError, OSError):
            found.append(Cause.silent(rank))
        else:
            found += [Cause(**json.loads(message))] if message else []
    return found


def _kept_alive(line: Connection) -> Connection:
    """The kernel asks after the other machine, so that a lost one ends the line as well."""
    with socket.socket(fileno=os.dup(line.fileno())) as same:
        same.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, seconds in KEEPALIVE.items():
            if hasattr(socket, name):  # Linux
                same.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), seconds)
    return line
