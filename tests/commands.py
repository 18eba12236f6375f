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
import sys
import tempfile
from multiprocessing import forkserver
from multiprocessing.process import BaseProcess
from pathlib import Path

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


def start(module: str, *arguments: object, cwd: Path = ROOT) -> Command:
    """Start `python -m module arguments` in `cwd`."""
    context = start_server()
    folder = tempfile.TemporaryDirectory(prefix="command-")
    process = context.Process(
        target=_play, args=(module, [str(one) for one in arguments], str(cwd), folder.name)
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


def _play(module: str, arguments: list[str], cwd: str, folder: str) -> None:
    os.chdir(cwd)
    for stream, name in ((1, "out"), (2, "err")):
        file = os.open(Path(folder, name), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, stream)
    sys.stdout = open(1, "w", buffering=1, closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
    sys.stdin = open(os.devnull)  # noqa: SIM115
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
