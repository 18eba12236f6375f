"""One life of an SGLang process, from its start to its end: messages out, rows and replies in."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sectow_fast.engine import sglang_host
from sectow_fast.engine.sglang_rows import EngineDied
from sectow_fast.engine.weight_sync import Bucket
from sectow_fast.types import UserError

POLL = 0.2  # seconds for which a waiting caller does not look at the process
CLOSE_SECONDS = 10.0

# (request id, ids, log-probs, finish reason, weight version)
Finished = tuple[str, list[int], list[float], str | None, str | None]


class SGLangProcess:
    """Starts the process and waits until it is ready. A restart makes a new object.

    arguments: of `sglang.Engine`. environment: added to the child's. log: where its output goes.
    start_timeout: seconds. on_rows: called with finished samples, on the reading thread.
    UserError names the log where the process does not start.
    """

    def __init__(
        self,
        *,
        arguments: Mapping[str, Any],
        environment: Mapping[str, str],
        log: Path,
        start_timeout: float,
        on_rows: Callable[[Sequence[Finished]], None],
    ) -> None:
        import torch.multiprocessing as multiprocessing  # registers how tensors are pickled

        self.log, self._on_rows = log, on_rows
        self._replies: dict[int, queue.SimpleQueue] = {}
        self._number = 0
        self._gone, self._ended = threading.Event(), False
        log.parent.mkdir(parents=True, exist_ok=True)
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(
            target=sglang_host.main,
            args=(theirs, dict(arguments), dict(environment), str(log)),
            name="sglang-host",
        )
        self._process.start()
        theirs.close()
        try:
            self.info = self._ready(start_timeout)
        except BaseException:  # Ctrl-C too: nothing may be left behind
            self.kill()
            raise
        self.heard = time.monotonic()  # when it last said anything
        threading.Thread(target=self._read, name="sglang-reader", daemon=True).start()

    def _ready(self, timeout: float) -> dict[str, Any]:
        """What the process says of itself (pid, children, version), once it is up."""
        end = time.monotonic() + timeout
        try:
            while not self._connection.poll(POLL):
                if time.monotonic() > end:
                    raise EOFError(f"not ready after {timeout:g} s")
            kind, value = self._connection.recv()
        except (EOFError, OSError) as error:
            kind, value = "failed", f"the process ended ({error})"
        if kind == "failed":
            raise UserError(
                f"engine: SGLang did not start ({value}); {self.log} has what it wrote;"
                " is SGLang installed for this device (make gpu, or docs/ENGINE.md for a CPU)?"
            )
        return value

    @property
    def alive(self) -> bool:
        return not self._gone.is_set()

    def kill(self) -> None:
        """End the process and all that it started, at once."""
        if self._ended:
            return
        # Its schedulers are in its process group, and nothing of ours is.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.kill()
        self._process.join()
        self._process.close()
        self._gone.set()
        self._connection.close()
        self._ended = True

    def close(self) -> None:
        """Ask it to end, and make sure of it."""
        if self._ended:
            return
        with contextlib.suppress(EngineDied):
            self.send("close")
            self._process.join(CLOSE_SECONDS)
        self.kill()

    def send(self, *message: Any) -> None:
        """One message to the host. EngineDied where nobody is there to read it."""
        if not self.alive:
            raise EngineDied("the process is gone")
        try:
            self._connection.send(message)
        except (OSError, ValueError) as error:
            raise EngineDied(f"the pipe is closed ({error})") from None

    def call(self, name: str, *arguments: Any, timeout: float) -> Any:
        """One of the host's `call_*`. EngineDied: no answer in time; RuntimeError: it refused."""
        self._number += 1
        number, waiting = self._number, queue.SimpleQueue()
        self._replies[number] = waiting
        self.send("call", number, name, *arguments)
        end = time.monotonic() + timeout
        while True:
            try:
                ok, value = waiting.get(timeout=POLL)
            except queue.Empty:
                if not self.alive or time.monotonic() > end:
                    raise EngineDied(f"no answer to {name}") from None
                continue
            if not ok:
                raise RuntimeError(f"engine: {name}: {value}")
            return value

    def _read(self) -> None:
        while True:
            try:
                kind, *rest = self._connection.recv()
            except (EOFError, OSError):
                self._gone.set()
                return
            self.heard = time.monotonic()
            if kind == "done":
                self._on_rows(rest[0])
            elif kind == "reply":
                number, ok, value = rest
                waiting = self._replies.pop(number, None)
                if waiting is not None:
                    waiting.put((ok, value))


def push(call: Callable[..., Any], made: Iterable[Bucket], *, label: str, tp: int) -> int:
    """All weights, one bucket at a time; bytes sent. The engine holds no request while this runs.

    call: `SGLangProcess.call` of an engine of `tp` GPUs. label: of the weights.
    """
    sent = 0
    call("flush")  # idle from here on: SGLang kills itself where a push finds it busy
    call("begin")
    for bucket in made:
        data: Any = bucket.data
        if data.is_cuda:
            import torch
            from torch.multiprocessing.reductions import reduce_tensor

            torch.cuda.synchronize()
            data = [reduce_tensor(bucket.data) for _ in range(tp)]
        call("weights", bucket.pieces, data, label, tp)
        sent += bucket.data.numel()
        if bucket.data.is_cuda:
            del bucket, data
            torch.cuda.ipc_collect()
    call("end")
    return sent
