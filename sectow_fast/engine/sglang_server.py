"""One SGLang engine across its restarts: what it holds, what it owes, whether it is well.

Only this file changes a server's state. Everything but reading runs on the caller's thread, so
restarts happen where someone waits, and the next requests are sent where someone takes a row.
"""

from __future__ import annotations

import dataclasses
import functools
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sectow_fast.config import EngineConfig
from sectow_fast.engine.sglang_process import POLL, Finished, SGLangProcess, push
from sectow_fast.engine.sglang_rows import Backlog, EngineDied, Request, Row, Wanted, messages
from sectow_fast.engine.sglang_settings import check_cache, weights_device
from sectow_fast.types import UserError

CALL_SECONDS = 600.0


class SGLangServer:
    """One engine process and its successors. It is started by `start`, or by the first `ready`.

    arguments: of `sglang.Engine`; environment: added to the child's; log: where its output goes;
    process: makes one life of the engine, `SGLangProcess` or what can do the same.
    """

    def __init__(
        self,
        *,
        config: EngineConfig,
        arguments: Mapping[str, Any],
        environment: Mapping[str, str],
        log: Path,
        process: Callable[..., SGLangProcess] = SGLangProcess,
    ) -> None:
        self.config, self.log, self._make = config, log, process
        self.window = config.window or config.max_running + config.max_running // 4
        self.arguments, self._environment = dict(arguments), dict(environment)
        self._counts = {"restarts": 0, "resent": 0, "bad_rows": 0, "aborted": 0}
        self.process: SGLangProcess | None = None
        self.starts = 0
        self._proven = 0  # the start after which log-probs were last compared with the trainer's
        self._wanted: Wanted | None = None  # what a restart has to bring back
        self._holds: str | None = None  # label of the weights in there
        self.asleep = False
        self._lock = threading.Lock()
        self._waiting: dict[str, Request] = {}  # sent, and not come back
        self._backlog = Backlog()  # not sent yet
        self._number = 0
        self._busy_since = time.monotonic()
        self._fruitless = 0  # deaths since the last row
        self.seconds = {"sync": 0.0, "sleep": 0.0, "wake": 0.0}  # of the last one of each
        self.synced_bytes = 0  # of the last push

    @property
    def counts(self) -> dict[str, int]:
        """Restarts, requests sent again, rows that were refused, requests that were stopped."""
        return dict(self._counts)

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.alive

    @property
    def open_requests(self) -> int:
        """Samples that the engine was sent and that have not come back; `window` or a few more."""
        return len(self._waiting)

    # ---- weights and memory

    def start(self) -> None:
        """Start the process, with dummy weights, and let it give its memory back at once.

        For a device on which nothing else is yet. UserError where the cache is smaller than was
        asked for: nothing would say so later.
        """
        if self.starts:
            return
        self._start()
        try:
            check_cache(self.arguments, self._living().info)
        except UserError:
            self.close()
            raise
        self.release()

    def ready(self, wanted: Wanted) -> None:
        """Up, awake, and holding the wanted weights, which travel only where they must."""
        if (self._waiting or self._backlog) and self._holds not in (None, wanted.label):
            raise RuntimeError(
                f"engine {wanted.name}: {len(self._waiting)} requests of {self._holds!r} are open,"
                " and others may wait to be sent; take the rest of their stream or close it first"
            )
        self._wanted = wanted
        try:
            if not self.alive:
                # A first start, or one that died while nobody waited.
                if self.starts:
                    self._revive("it died while idle")
                else:
                    self._start()
                    self._bring(wanted)
            elif self.asleep or self._holds != wanted.label:
                self._bring(wanted)
        except EngineDied as error:
            self._revive(str(error))

    def release(self) -> None:
        """Give cache, graphs and weights back. Nothing happens where it sleeps or is dead."""
        if not self.alive or self.asleep:
            return
        began = time.perf_counter()
        try:
            self._call("flush")
            self._call("release", None)
        except EngineDied:
            return  # a dead engine holds no memory; the next rollout starts a new one
        self.asleep = True
        self.seconds["sleep"] = time.perf_counter() - began

    def _bring(self, wanted: Wanted) -> None:
        """Weights in the order that keeps the memory's peak low: weights, push, then the cache."""
        began = time.perf_counter()
        # With the memory saver, sleep gives the weights back too: then every wake pushes them.
        forgot = self.asleep and bool(self.arguments.get("enable_memory_saver"))
        if self.asleep:
            self._call("resume", ["weights"])
        woken = time.perf_counter()
        if self._holds != wanted.label or forgot:
            made = wanted.buckets(weights_device(self.arguments))
            self.synced_bytes = push(self._call, made, label=wanted.label, tp=self.config.tp)
            self._holds = wanted.label
        pushed = time.perf_counter()
        if self.asleep:
            self._call("resume", ["kv_cache", "cuda_graph"])
            self.asleep = False
        wake = (woken - began) + (time.perf_counter() - pushed)
        self.seconds |= {"sync": pushed - woken, "wake": wake}

    @property
    def unproven(self) -> bool:
        """Whether no log-probs were compared with the trainer's since the last start."""
        return self._proven != self.starts

    def passed(self) -> None:
        """The log-probs since the last start were compared, and are the trainer's."""
        self._proven = self.starts

    # ---- requests

    def next_rid(self) -> str:
        self._number += 1
        return f"r{self._number}"

    def submit(self, prompts: Iterator[Sequence[Request]]) -> None:
        """Take a stream of prompts, each as the requests of its samples; see `Backlog`."""
        self._backlog.add(prompts)
        self._feed()

    def withdraw(self, prompts: Iterator[Sequence[Request]]) -> None:
        """Take no more from this stream."""
        self._backlog.drop(prompts)

    def _feed(self) -> None:
        if entering := self._backlog.take(self.window - len(self._waiting)):
            self._ask(entering)

    def _ask(self, requests: Sequence[Request]) -> None:
        with self._lock:
            if not self._waiting:
                self._busy_since = time.monotonic()
            self._waiting |= {request.rid: request for request in requests}
        try:
            self._send(requests)
        except EngineDied as error:
            self._revive(str(error))

    def ask_again(self, request: Request) -> Request:
        """A request whose row was bad, sent once more under a new id; the new one."""
        again = dataclasses.replace(request, rid=self.next_rid(), bad=request.bad + 1)
        self._counts["bad_rows"] += 1
        self._counts["resent"] += 1
        self._ask([again])
        return again

    def abort(self, rids: Sequence[str]) -> None:
        """Forget these requests and tell the engine to stop them."""
        with self._lock:
            open_ = [rid for rid in rids if self._waiting.pop(rid, None)]
        self._counts["aborted"] += len(open_)
        if open_ and self.alive:
            try:
                self.process.send("abort", open_)
            except EngineDied:
                return  # a dead process runs none of them; the next use restarts it

    def next_row(self, rows: queue.SimpleQueue, *, wait: bool) -> Row | None:
        """The next row; watches the process while it waits. None: nothing has come yet."""
        while True:
            self._feed()
            try:
                return rows.get(timeout=POLL) if wait else rows.get_nowait()
            except queue.Empty:
                self._check()
                if not wait:
                    return None

    def _send(self, requests: Sequence[Request]) -> None:
        for message in messages(requests):
            self._living().send("generate", message)

    def _arrived(self, start: int, finished: Sequence[Finished]) -> None:
        """Rows for whoever waits for them. Runs on the process's reading thread."""
        self._fruitless = 0
        for rid, ids, logprobs, reason, version in finished:
            with self._lock:
                request = self._waiting.pop(rid, None)
            if request is not None:
                row = Row(
                    request=request,
                    start=start,
                    ids=tuple(ids),
                    logprobs=tuple(logprobs),
                    reason=reason,
                    version=version,
                )
                request.rows.put(row)

    # ---- the process and its health

    def close(self) -> None:
        """Ask the process to end, and make sure of it."""
        if self.process is not None:
            self.process.close()
        self.process = None

    def _start(self) -> None:
        self.process = self._make(
            arguments=self.arguments,
            environment=self._environment,
            log=self.log,
            start_timeout=self.config.start_timeout,
            on_rows=functools.partial(self._arrived, self.starts + 1),
        )
        self.starts += 1
        self._holds, self.asleep = None, False

    def _check(self) -> None:
        """Called while somebody waits: a dead or silent process is replaced, its work sent again.

        UserError once it died `engine.restarts` times without giving a single row.
        """
        found = "died"
        if self.alive:
            silent = time.monotonic() - max(self.process.heard, self._busy_since)
            if not self._waiting or silent < self.config.timeout:
                return
            found = f"was silent for {silent:.0f} s"
        self._revive(f"it {found} with {len(self._waiting)} requests open")

    def _revive(self, why: str) -> None:
        """A new process with the wanted weights; open requests are sent again, same seeds."""
        while True:
            self._counts["restarts"] += 1
            self._fruitless += 1
            if self.process is not None:
                self.process.kill()
            if self._fruitless > self.config.restarts:
                raise UserError(
                    f"engine: SGLang had to be restarted {self._fruitless} times without giving one"
                    f" reply ({why}); {self.log} has what it wrote"
                )
            self._start()
            try:
                if self._wanted is not None:
                    self._bring(self._wanted)
                with self._lock:
                    again = list(self._waiting.values())
                self._counts["resent"] += len(again)
                self._send(again)
                return
            except EngineDied as error:
                why = str(error)

    def _living(self) -> SGLangProcess:
        if self.process is None:
            raise EngineDied("the process is gone")
        return self.process

    def _call(self, name: str, *arguments: Any) -> Any:
        seconds = max(CALL_SECONDS, self.config.timeout)
        return self._living().call(name, *arguments, timeout=seconds)
