"""`python -m MODULE ...` as a process of its own that has its libraries already.

Importing torch and transformers takes seconds, and the tests start a hundred commands. Python's
forkserver imports them once; each command is a fork of it, with its own arguments, folder, output
and end. Whether a command also works from nothing is seen where a test starts `sys.executable`.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import signal
import socket
import sys
import tempfile
from collections.abc import Mapping
from multiprocessing import forkserver
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import MappingProxyType

ROOT = Path(__file__).parents[1]
IMPORTED = [
    *("torch", "transformers", "matplotlib.pyplot", "pyarrow.parquet"),
    *("sectow_fast.keeper", "sectow_fast.plan", "sectow_fast.report.html", "sectow_fast.tug"),
    *(
        "sectow_fast.data.sandbox.stage",
        "sectow_fast.real.stage",
        "sectow_fast.evaluation.repliers",
    ),
    *(f"transformers.models.{name}" for name in ("auto.modeling_auto", "auto.processing_auto")),
    *(f"transformers.models.llava.{name}_llava" for name in ("modeling", "processing")),
    "transformers.models.qwen2_5_vl.modeling_qwen2_5_vl",
]
# As train.py sets them before it imports torch; and one thread, since tests share two cores.
VARIABLES = {
    "OMP_WAIT_POLICY": "PASSIVE",
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
    "OMP_NUM_THREADS": "1",
}


class Command:
    """A started command, with the part of `subprocess.Popen` that tests use."""

    def __init__(self, process: BaseProcess, folder: tempfile.TemporaryDirectory[str]) -> None:
        self._process, self._folder = process, folder
        self.pid = process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        """The exit code; None while it runs."""
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        code = self._process.exitcode
        if code is None:
            self._process.kill()
            raise TimeoutError(f"the command did not end within {timeout} s")
        return code

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """(stdout, stderr) once it has ended. TimeoutError, after killing it, where it has not."""
        self.wait(timeout)
        out, err = (Path(self._folder.name, name).read_text() for name in ("out", "err"))
        return out, err


def start(
    module: str | Path,
    *arguments: object,
    cwd: Path = ROOT,
    environment: Mapping[str, str] = MappingProxyType({}),
) -> Command:
    """Start `python -m module arguments`, or `python script arguments`, in `cwd`.

    environment: added to that of the tests."""
    context = start_server()
    folder = tempfile.TemporaryDirectory(prefix="command-")
    words = [str(one) for one in arguments]
    process = context.Process(
        target=_play, args=(module, words, str(cwd), folder.name, dict(environment))
    )
    process.start()
    return Command(process, folder)


def start_server() -> multiprocessing.context.ForkServerContext:
    """Start the forkserver if it does not run. A process has one, for all who ask Python for it,
    and it keeps the libraries that it was started with."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(IMPORTED)
    before = dict(os.environ)
    os.environ.update(VARIABLES)
    try:
        forkserver.ensure_running()
    finally:
        os.environ.clear()
        os.environ.update(before)
    return context


def run(module: str, *arguments: object, cwd: Path = ROOT) -> tuple[int, str, str]:
    """(exit code, stdout, stderr) of `python -m module arguments`."""
    command = start(module, *arguments, cwd=cwd)
    out, err = command.communicate(timeout=280)
    return command.wait(), out, err


def start_ranks(
    module: str | Path,
    *arguments: object,
    world: int = 2,
    cwd: Path = ROOT,
    environment: Mapping[str, str] = MappingProxyType({}),
) -> list[Command]:
    """Start one command per rank, with the variables that torchrun sets."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    sizes = {"WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world)}
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return [
        start(
            module,
            *arguments,
            cwd=cwd,
            environment={"RANK": str(rank), "LOCAL_RANK": str(rank)}
            | sizes
            | meeting
            | dict(environment),
        )
        for rank in range(world)
    ]


def run_ranks(
    module: str | Path,
    *arguments: object,
    world: int = 2,
    cwd: Path = ROOT,
    environment: Mapping[str, str] = MappingProxyType({}),
    timeout: float = 200,
) -> list[tuple[str, str]]:
    """(stdout, stderr) of each rank. AssertionError, with what they wrote, where one fails;
    TimeoutError where they wait for one another."""
    ranks = start_ranks(module, *arguments, world=world, cwd=cwd, environment=environment)
    try:
        said = [rank.communicate(timeout=timeout) for rank in ranks]
    finally:
        for rank in ranks:
            if rank.poll() is None:
                rank.kill()
    codes = [rank.poll() for rank in ranks]
    assert not any(codes), f"exit codes {codes}: " + "\n".join(err[-3000:] for _, err in said)
    return said


def _play(
    module: str | Path, arguments: list[str], cwd: str, folder: str, environment: dict[str, str]
) -> None:
    os.environ |= environment
    os.chdir(cwd)
    for stream, name in ((1, "out"), (2, "err")):
        file = os.open(Path(folder, name), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, stream)
    sys.stdout = open(1, "w", buffering=1, closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
    sys.stdin = open(os.devnull)  # noqa: SIM115
    sys.argv = [str(module), *arguments]
    if isinstance(module, Path):
        sys.path.insert(0, str(module.parent))
        runpy.run_path(str(module), run_name="__main__")
    else:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
