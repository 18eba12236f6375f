"""`python -m MODULE` in a fork of this process, which has the libraries already."""

from __future__ import annotations

import multiprocessing
import os
import runpy
import sys
from collections.abc import Sequence

from bench.gpu_check import ROOT


def forked(module: str, arguments: Sequence[str]) -> int | None:
    """Its exit code, negative where a signal ended it. To be called before this process touches a
    card or computes on several threads, neither of which a fork can go on with."""
    child = multiprocessing.get_context("fork").Process(target=_play, args=(module, arguments))
    child.start()
    child.join()
    return child.exitcode


def _play(module: str, arguments: Sequence[str]) -> None:
    os.chdir(ROOT)
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
