"""Tests against the real verl and OpenRLHF: `make test-hosts`, in a virtual environment of its own.

Where they are not installed (the main environment) nothing here is collected; `make test-hosts`
fails where nothing was collected.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import sys
import types
from typing import Any

import pytest
import torch

HOSTS = ("verl", "openrlhf")
# OpenRLHF imports names of these at its top; they need CUDA to be installed at all.
GPU_ONLY = (
    *("flash_attn", "flash_attn.bert_padding", "flash_attn.utils", "flash_attn.utils.distributed"),
    *("vllm", "vllm.inputs", "vllm.utils"),
)

if any(importlib.util.find_spec(name) is None for name in HOSTS):
    collect_ignore_glob = ["test_*.py"]


class Absent(types.ModuleType):
    """A package that is not here: names of it can be imported, and raise when they are used."""

    __path__: list[str] = []  # noqa: RUF012  (a package's)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)

        def used(*_: Any, **__: Any) -> Any:
            raise NotImplementedError(f"{self.__name__}.{name} needs a GPU")

        return used


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def openrlhf():
    """OpenRLHF's package, importable on a CPU."""
    for name in [n for n in GPU_ONLY if importlib.util.find_spec(n.split(".")[0]) is None]:
        module = sys.modules[name] = Absent(name)
        module.__spec__ = importlib.machinery.ModuleSpec(name, None, is_package=True)
    import openrlhf

    return openrlhf
