"""The trainer's end of one SGLang process: requests out, rows in; noticed when it dies or hangs.

Everything but reading runs on the caller's thread, so restarts happen where someone waits.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sectow_fast.config import EngineConfig
from sectow_fast.engine import sglang_host
from sectow_fast.engine.sglang_rows import EngineDied, Request, Row
from sectow_fast.engine.weight_sync import buckets
from sectow_fast.types import UserError

POLL = 0.2  # seconds a waiting caller goes without a look at the process
CALL_SECONDS = 600.0
CLOSE_SECONDS = 10.0


class SGLangServer:
    """One engine process.

    arguments: of `sglang.Engine`; environment: added to the child's; log: where its output goes.
    on_start: called after every (re)start, before anything is sent again: it pushes the weights.
    """

    def __init__(
        self,
        *,
        config: EngineConfig,
        arguments: Mapping[str, Any],
        environment: Mapping[str, str],
        log: Path,
    ) -> None:
        self.config, self.log = config, log
        self._arguments, self._environment = dict(arguments), dict(environment)
        self.counts = {"restarts": 0, "resent": 0, "bad_rows": 0, "aborted": 0}
        self.starts = 0
        self.proven = 0  # the start after which log-probs were last compared with the trainer's
        self.holds: str | None = None  # engine name and version of the weights in there
        self.asleep = False
        self.info: dict[str, Any] = {}
        self.on_start: Callable[[], None] = lambda: None
        self._process: Any = None
        self._connection: Any = None
        self._lock = threading.Lock()
        self._waiting: dict[str, Request] = {}
        self._replies: dict[int, queue.SimpleQueue] = {}
        self._number = 0
        self._progress = time.monotonic()
        self._fruitless = 0  # deaths since the last row
        self._gone = threading.Event()

    # ---- the process

    @property
    def alive(self) -> bool:
        return self._process is not None and not self._gone.is_set()

    @property
    def forgets(self) -> bool:
        """Whether sleep gives the weights' memory back too: then every wake pushes all of them."""
        return bool(self.asleep and self._arguments.get("enable_memory_saver"))

    def start(self) -> None:
        """Start the process and wait for it. UserError with the log's place where it fails."""
        import torch.multiprocessing as multiprocessing  # registers how tensors are pickled

        self.log.parent.mkdir(parents=True, exist_ok=True)
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        self._process = context.Process(
            target=sglang_host.main,
            args=(theirs, self._arguments, self._environment, str(self.log)),
            name="sglang-host",
        )
        self._process.start()
        theirs.close()
        self._connection, self._gone = ours, threading.Event()
        self.starts += 1
        self.holds, self.asleep = None, False
        end = time.monotonic() + self.config.start_timeout
        try:
            while not ours.poll(POLL):
                if time.monotonic() > end:
                    raise EOFError(f"not ready after {self.config.start_timeout:g} s")
            kind, value = ours.recv()
        except (EOFError, OSError) as error:
            kind, value = "failed", f"the process ended ({error})"
        if kind == "failed":
            self.kill()
            raise UserError(
                f"engine: SGLang did not start ({value}); {self.log} has what it wrote;"
                " is SGLang installed for this device (pip install -e .[sglang])?"
            )
        self.info = value
        self._progress = time.monotonic()
        threading.Thread(
            target=self._read, args=(ours, self._gone), name="sglang-reader", daemon=True
        ).start()

    def kill(self) -> None:
        """End the process and all that it started, at once."""
        if self._process is None:
            return
        # Its schedulers are in its process group, and nothing of ours is.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.kill()
        self._process.join()
        self._process.close()
        self._gone.set()
        self._connection.close()
        self._process = None

    def close(self) -> None:
        """Ask it to end, and make sure of it."""
        if self._process is None:
            return
        with contextlib.suppress(EngineDied):
            self._send(("close",))
            self._process.join(CLOSE_SECONDS)
        self.kill()

    def _read(self, connection: Any, gone: threading.Event) -> None:
        while True:
            try:
                kind, *rest = connection.recv()
            except (EOFError, OSError):
                gone.set()
                return
            self._progress = time.monotonic()
            if kind == "done":
                self._fruitless = 0
                for rid, ids, logprobs, reason, version in rest[0]:
                    with self._lock:
                        request = self._waiting.pop(rid, None)
                    if request is not None:
                        row = Row(
                            request=request,
                            ids=tuple(ids),
                            logprobs=tuple(logprobs),
                            reason=reason,
                            version=version,
                        )
                        request.rows.put(row)
            elif kind == "reply":
                number, ok, value = rest
                waiting = self._replies.pop(number, None)
                if waiting is not None:
                    waiting.put((ok, value))

    # ---- health

    def check(self) -> None:
        """Called while somebody waits: a dead or silent process is replaced, its work sent again.

        UserError once it died `engine.restarts` times without giving a single row.
        """
        silent = time.monotonic() - self._progress
        if self.alive and (not self._waiting or silent < self.config.timeout):
            return
        found = "died" if not self.alive else f"was silent for {silent:.0f} s"
        self.revive(f"it {found} with {len(self._waiting)} requests open")

    def revive(self, why: str) -> None:
        """A new process with the present weights; open requests are sent again, same seeds."""
        while True:
            self.counts["restarts"] += 1
            self._fruitless += 1
            self.kill()
            if self._fruitless > self.config.restarts:
                raise UserError(
                    f"engine: SGLang had to be restarted {self._fruitless} times without giving one"
                    f" reply ({why}); {self.log} has what it wrote"
                )
            self.start()
            try:
                self.on_start()
                with self._lock:
                    again = list(self._waiting.values())
                self.counts["resent"] += len(again)
                self._send_requests(again)
                return
            except EngineDied as error:
                why = str(error)

    # ---- requests

    @property
    def open_requests(self) -> int:
        return len(self._waiting)

    def submit(self, requests: Sequence[Request]) -> None:
        with self._lock:
            if not self._waiting:
                self._progress = time.monotonic()
            self._waiting |= {request.rid: request for request in requests}
        try:
            self._send_requests(requests)
        except EngineDied as error:
            self.revive(str(error))

    def next_rid(self) -> str:
        self._number += 1
        return f"r{self._number}"

    def _send_requests(self, requests: Sequence[Request]) -> None:
        """Samples of one prompt travel together, its pixels once."""
        rows: list[tuple[list[int], Any, list[tuple[str, dict]]]] = []
        last: Request | None = None
        for request in requests:
            sample = (request.rid, request.sampling)
            if last and last.ids is request.ids and last.pixels is request.pixels:
                rows[-1][2].append(sample)
            else:
                rows.append((list(request.ids), request.pixels, [sample]))
            last = request
        if rows:
            self._send(("generate", rows))

    def abort(self, rids: Sequence[str]) -> int:
        """Forget these requests and tell the engine to stop them; how many were still open."""
        with self._lock:
            open_ = [rid for rid in rids if self._waiting.pop(rid, None)]
        self.counts["aborted"] += len(open_)
        if open_ and self.alive:
            try:
                self._send(("abort", open_))
            except EngineDied:
                return len(open_)  # a dead process runs none of them; the next use restarts it
        return len(open_)

    def next_row(self, rows: queue.SimpleQueue, *, wait: bool) -> Row | None:
        """The next row; watches the process while it waits. None: nothing has come yet."""
        while True:
            try:
                return rows.get(timeout=POLL) if wait else rows.get_nowait()
            except queue.Empty:
                self.check()
                if not wait:
                    return None

    # ---- calls

    def call(self, name: str, *arguments: Any) -> Any:
        """One of the host's `call_*`. EngineDied: no answer; RuntimeError: it refused."""
        self._number += 1
        number, waiting = self._number, queue.SimpleQueue()
        self._replies[number] = waiting
        self._send(("call", number, name, *arguments))
        end = time.monotonic() + max(CALL_SECONDS, self.config.timeout)
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

    def push(self, named: Any, version: str) -> int:
        """All weights in buckets; bytes sent. The engine holds no request while this runs."""
        sent = 0
        self.call("flush")  # idle from here on: SGLang kills itself where a push finds it busy
        self.call("begin")
        for bucket in buckets(named, self.config.bucket_mb * 2**20, self._device()):
            data: Any = bucket.data
            if data.is_cuda:
                import torch
                from torch.multiprocessing.reductions import reduce_tensor

                torch.cuda.synchronize()
                data = [reduce_tensor(bucket.data) for _ in range(self.config.tp)]
            self.call("weights", bucket.pieces, data, version, self.config.tp)
            sent += bucket.data.numel()
            if bucket.data.is_cuda:
                del bucket, data
                torch.cuda.ipc_collect()
        self.call("end")
        return sent

    def _device(self) -> Any:
        """Where the engine wants its weights."""
        import torch

        on_cpu = self._arguments.get("device") == "cpu"
        return torch.device("cpu") if on_cpu else torch.device("cuda", torch.cuda.current_device())

    def _send(self, message: tuple[Any, ...]) -> None:
        if not self.alive:
            raise EngineDied("the process is gone")
        try:
            self._connection.send(message)
        except (OSError, ValueError) as error:
            raise EngineDied(f"the pipe is closed ({error})") from None
