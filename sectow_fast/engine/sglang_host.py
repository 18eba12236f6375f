"""The process that holds SGLang: what it does to its parent and children stays in here.

SGLang's scheduler sends SIGQUIT to the process that started it, its shutdown kills every child of
that process, and importing it changes the start method, the event loop and variables of NCCL. So
the trainer starts this process, and talks to it over one pipe. Messages in: (kind, ...); out:
("ready", info), ("failed", text), ("done", rows), ("reply", number, ok, value).

This module imports neither torch nor sglang before the environment is clean.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from typing import Any

from sectow_fast.engine.sglang_pixels import shared_images

# Of the trainer's, not the engine's: a rendezvous the child would join as a client; memory settings
# that break CUDA IPC and the memory saver; log-probs of another distribution than the sampled one.
DROPPED = (
    *("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "ROLE_RANK"),
    *("ROLE_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "TRITON_INTERPRET"),
    *("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "SGLANG_RETURN_ORIGINAL_LOGPROB"),
)
LIVENESS = 0.2  # seconds between two looks at the schedulers
FLUSH_SECONDS, FLUSH_PAUSE = 30.0, 0.01


def clean_environment(environment: dict[str, str], added: dict[str, str]) -> dict[str, str]:
    """The engine's environment from the trainer's."""
    kept = {
        name: value
        for name, value in environment.items()
        if name not in DROPPED and not name.startswith("TORCHELASTIC_")
    }
    # Image features are cached across weight updates otherwise (flush_cache leaves them).
    return kept | {"SGLANG_VLM_CACHE_SIZE_MB": "0"} | added


def main(connection: Any, arguments: dict[str, Any], added: dict[str, str], log: str) -> None:
    """Start SGLang, serve until the trainer closes the pipe or dies."""
    os.setsid()  # Ctrl-C in the trainer's terminal and a kill of our group stay apart
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(out, 1)
    os.dup2(out, 2)
    environment = clean_environment(dict(os.environ), added)
    os.environ.clear()
    os.environ.update(environment)
    # The pipe is not read before SGLang is up, which takes a minute on a GPU.
    threading.Thread(target=watch_trainer, daemon=True).start()
    try:
        import sglang

        engine = sglang.Engine(**arguments)
    except BaseException as error:
        traceback.print_exc()
        connection.send(("failed", f"{type(error).__name__}: {error}"))
        raise SystemExit(1) from None
    info = {"pid": os.getpid(), "children": engine.get_all_child_pids()}
    started = getattr(engine, "_scheduler_init_result", None)
    if started is not None:
        info["cache_tokens"] = started.scheduler_infos[0].get("max_total_num_tokens")
    connection.send(("ready", info | {"sglang": sglang.__version__}))
    threading.Thread(target=watch, args=(info["children"],), daemon=True).start()
    engine.loop.run_until_complete(Host(engine, connection).serve())
    # SGLang's own shutdown ends its children one by one; all of them are in our group.
    end("the trainer has closed the pipe")


def watch(children: list[int]) -> None:
    """End this process when a scheduler or the detokenizer has died: the trainer sees it at once.

    SGLang's own watchdog is slower, and it has no use for an engine without one of them.
    """
    import psutil

    found = [psutil.Process(pid) for pid in children if psutil.pid_exists(pid)]
    while True:
        time.sleep(LIVENESS)
        for process in found:
            try:
                dead = process.status() in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
            except psutil.NoSuchProcess:
                dead = True
            if dead:
                end(f"process {process.pid} of the engine died")


def watch_trainer() -> None:
    """End this process when the trainer has died, as by kill -9."""
    trainer = multiprocessing.parent_process()
    while trainer is None or os.getppid() == trainer.pid:
        time.sleep(LIVENESS)
    end("the trainer is gone")


def end(why: str) -> None:
    """End this process and all that it started, at once."""
    print(why, file=sys.stderr, flush=True)
    os.killpg(os.getpgrp(), signal.SIGKILL)


class Host:
    """Serves one trainer. Everything runs on the engine's own event loop."""

    def __init__(self, engine: Any, connection: Any) -> None:
        self.engine, self.manager, self.connection = engine, engine.tokenizer_manager, connection
        self._finished: list[tuple[Any, ...]] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def serve(self) -> None:
        loop = asyncio.get_running_loop()
        # SGLang installs its own handler here, which takes a minute to end this process.
        self.manager.auto_create_handle_loop()
        loop.add_signal_handler(signal.SIGQUIT, end, "SIGQUIT from a scheduler")
        if hasattr(self.manager, "freeze_gc"):
            # A flush collects garbage on a CPU: 0.4 s over what importing left, 2 ms when frozen.
            await self.manager.freeze_gc()
        inbox: asyncio.Queue[tuple[Any, ...] | None] = asyncio.Queue()

        def read() -> None:
            while True:
                try:
                    message = self.connection.recv()
                except (EOFError, OSError):
                    message = None
                loop.call_soon_threadsafe(inbox.put_nowait, message)
                if message is None:
                    return

        threading.Thread(target=read, daemon=True).start()
        while (message := await inbox.get()) is not None:
            kind, *rest = message
            if kind == "close":
                return
            if kind == "generate":
                for row in rest[0]:
                    self._generate(*row)
            elif kind == "abort":
                for rid in rest[0]:
                    self.manager.abort_request(rid)
            elif kind == "call":
                self._spawn(self._call(*rest))

    def _spawn(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # ---- tokens

    def _generate(self, ids: list[int], pixels: dict, samples: list[tuple]) -> None:
        """One prompt, a request a sample: (request id, sampling parameters)."""
        images: list[Any] = [None] * len(samples)
        if pixels:
            images = shared_images(pixels, len(samples))
        for (rid, sampling), image in zip(samples, images, strict=True):
            self._spawn(self._one(rid, ids, image, sampling))

    async def _one(self, rid: str, ids: list[int], image: Any, sampling: dict) -> None:
        try:
            done = await self.engine.async_generate(
                input_ids=ids,
                image_data=image and [image],
                sampling_params=sampling,
                return_logprob=True,
                rid=rid,
            )
            meta = done["meta_info"]
            logprobs = [float(row[0]) for row in meta.get("output_token_logprobs") or ()]
            reason = (meta.get("finish_reason") or {}).get("type")
            row = (rid, list(done["output_ids"]), logprobs, reason, meta.get("weight_version"))
        except Exception as error:
            row = (rid, [], [], f"{type(error).__name__}: {error}", None)
        for value in (image or {}).values():
            if hasattr(value, "close_and_unlink"):
                value.close_and_unlink()  # where the scheduler never opened it
        if not self._finished:
            # Whatever ends in one turn of the loop goes in one message.
            asyncio.get_running_loop().call_soon(self._flush)
        self._finished.append(row)

    def _flush(self) -> None:
        rows, self._finished = self._finished, []
        self.connection.send(("done", rows))

    # ---- everything else

    async def _call(self, number: int, name: str, *arguments: Any) -> None:
        try:
            value = await getattr(self, f"call_{name}")(*arguments)
            self.connection.send(("reply", number, True, value))
        except Exception as error:
            traceback.print_exc()
            self.connection.send(("reply", number, False, f"{type(error).__name__}: {error}"))

    async def call_begin(self) -> None:
        """Open a weight update, where this SGLang has sessions (0.5.21 and later)."""
        if hasattr(self.manager, "begin_weight_update"):
            from sglang.srt.managers.io_struct import BeginWeightUpdateReqInput

            _checked(await self.manager.begin_weight_update(BeginWeightUpdateReqInput(), None))

    async def call_end(self) -> None:
        if hasattr(self.manager, "end_weight_update"):
            from sglang.srt.managers.io_struct import EndWeightUpdateReqInput

            _checked(await self.manager.end_weight_update(EndWeightUpdateReqInput(), None))

    async def call_weights(self, pieces: Any, data: Any, version: str, ranks: int) -> None:
        """One bucket into every tensor-parallel rank. `data`: a CPU tensor, or a CUDA IPC handle
        for each rank."""
        import torch
        from sglang.srt.managers.io_struct import UpdateWeightsFromTensorReqInput
        from sglang.srt.utils import MultiprocessingSerializer
        from sglang.srt.weight_sync.tensor_bucket import FlattenedTensorMetadata

        metadata = [
            FlattenedTensorMetadata(
                name=piece.name,
                shape=torch.Size(piece.shape),
                dtype=getattr(torch, piece.dtype),
                start_idx=piece.start,
                end_idx=piece.end,
                numel=piece.end - piece.start,
            )
            for piece in pieces
        ]
        handles = [Forwarded(*one) for one in data] if isinstance(data, list) else [data] * ranks
        request = UpdateWeightsFromTensorReqInput(
            serialized_named_tensors=[
                MultiprocessingSerializer.serialize({"flattened_tensor": one, "metadata": metadata})
                for one in handles
            ],
            load_format="flattened_bucket",
            flush_cache=True,
            weight_version=version,
        )
        _checked(await self.manager.update_weights_from_tensor(request, None))

    async def call_flush(self) -> None:
        """Empty the radix cache; waits until the scheduler is idle.

        A last row can be here a moment before the scheduler has let go of its request.
        """
        for _ in range(round(FLUSH_SECONDS / FLUSH_PAUSE)):
            if (await self.manager.flush_cache()).success:
                return
            await asyncio.sleep(FLUSH_PAUSE)
        raise RuntimeError(
            f"flush_cache was refused for {FLUSH_SECONDS:g} s; are requests still running?"
        )

    async def call_release(self, tags: list[str] | None) -> None:
        from sglang.srt.managers.io_struct import ReleaseMemoryOccupationReqInput

        await self.manager.release_memory_occupation(
            ReleaseMemoryOccupationReqInput(tags=tags), None
        )

    async def call_resume(self, tags: list[str] | None) -> None:
        from sglang.srt.managers.io_struct import ResumeMemoryOccupationReqInput

        await self.manager.resume_memory_occupation(ResumeMemoryOccupationReqInput(tags=tags), None)


class Forwarded:
    """A tensor that this process never opens: it pickles as the trainer's own reduction of it.

    Opening a CUDA IPC handle here would cost a CUDA context for nothing.
    """

    def __init__(self, rebuild: Any, arguments: tuple[Any, ...]) -> None:
        self._reduced = (rebuild, arguments)

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self._reduced


def _checked(result: Any) -> None:
    """SGLang says success first, a message second; silence would be a lost update."""
    success, message = result[0], result[1]
    if not success:
        raise RuntimeError(f"SGLang refused a weight update: {message}")
