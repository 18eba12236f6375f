"""An SGLang server of our own: a process group that lives as long as the `with` block."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import httpx

from sectow_fast.types import UserError

# What SGLang needs on a machine without a GPU.
ON_CPU = (
    *("--device", "cpu", "--attention-backend", "torch_native", "--sampling-backend", "pytorch"),
    *("--grammar-backend", "none", "--mm-attention-backend", "sdpa", "--disable-cuda-graph"),
    *("--disable-overlap-schedule", "--max-total-tokens", "65536"),
)


@contextlib.contextmanager
def sglang_server(
    folder: Path, log: Path, *, more: Sequence[str] = (), start_timeout: float = 600.0
) -> Iterator[str]:
    """Serve the model in `folder`; yields the address up to `/v1`.

    log: the file of its output. UserError where SGLang is not installed, ends, or does not start in
    `start_timeout` seconds.
    """
    if importlib.util.find_spec("sglang") is None:
        raise UserError(
            "--engine sglang: found no sglang in this Python, expected one; install it, or start a"
            " server elsewhere and give --engine endpoint --endpoint http://HOST:PORT/v1"
        )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "sglang.launch_server", "--model-path", str(folder)]
    command += ["--host", "127.0.0.1", "--port", str(port), "--log-level", "error"]
    command += ["--skip-server-warmup", *(() if _has_gpu() else ON_CPU), *more]
    environment = os.environ | ({} if _has_gpu() else {"SGLANG_USE_CPU_ENGINE": "1"})
    with open(log, "ab", opener=lambda name, flags: os.open(name, flags, 0o600)) as words:
        # Its schedulers signal their parent and survive a plain kill of it, so they get a group.
        process = subprocess.Popen(
            command,
            stdout=words,
            stderr=words,
            env=environment,
            start_new_session=True,
            preexec_fn=_die_with_parent if sys.platform == "linux" else None,
        )
    try:
        _wait(process, port, log, start_timeout)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _die_with_parent() -> None:
    """In the child: SIGKILL when this process is killed and its `finally` does not run. SGLang's
    children do the same. An orphaned scheduler would keep a core and a GPU's memory for ever."""
    import ctypes

    PR_SET_PDEATHSIG = 1
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL))


def _wait(process: subprocess.Popen, port: int, log: Path, start_timeout: float) -> None:
    end = time.monotonic() + start_timeout
    while time.monotonic() < end:
        if process.poll() is not None:
            break
        with contextlib.suppress(httpx.HTTPError):
            # On this machine no proxy of the environment is meant.
            url = f"http://127.0.0.1:{port}/v1/models"
            if httpx.get(url, timeout=5, trust_env=False).is_success:
                return
        time.sleep(0.2)
    state = "ended" if process.poll() is not None else f"did not start in {start_timeout:g} s"
    raise UserError(f"--engine sglang: the server {state}; its last words: {_last(log)}")


def _last(log: Path) -> str:
    """The most useful line: the last one that names an error."""
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    named = [line for line in lines if "Error" in line]
    return f"{(named or lines or ['none'])[-1].strip()[:200]} (all in {log})"


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()
