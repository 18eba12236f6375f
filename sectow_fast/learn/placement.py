"""The device that trains, and host memory that it reads fast."""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterable
from pathlib import Path

import torch

from sectow_fast.types import UserError

LEAST = 2**20  # bytes: what is smaller may share a page with another tensor, and costs nothing


def training_device(name: str) -> torch.device:
    """The device of `learn.device`: "auto" is this rank's GPU where there is one.

    UserError where "cuda" is asked for and none is there.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError(
            "learn.device cuda: found no GPU that torch can use, expected one; leave it at auto, or"
            " look at the driver and at torch.version.cuda"
        )
    if name == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", torch.cuda.current_device())


def give_back(device: torch.device) -> None:
    """Return what torch keeps of freed memory to a GPU, before another process wants it."""
    if device.type == "cuda":
        torch.cuda.empty_cache()


def pin(tensors: Iterable[torch.Tensor]) -> int:
    """Page-lock the memory of host tensors where it is, until they are freed; bytes locked.

    torch's own pinned allocations round each tensor up to a power of two (a 3B model's masters take
    21.2 GiB for 14.0). Registered in place, memory keeps its exact size. UserError where the driver
    refuses, which it does when the machine may lock no more.
    """
    cudart = torch.cuda.cudart()
    locked = 0
    for tensor in tensors:
        storage = tensor.untyped_storage()
        if storage.nbytes() < LEAST or storage.device.type != "cpu":
            continue
        place, size = storage.data_ptr(), storage.nbytes()
        error = int(cudart.cudaHostRegister(place, size, 0))
        if error:
            raise UserError(
                f"learn.offload: found that the driver locks no more host memory after"
                f" {locked / 2**30:.1f} GiB (CUDA error {error}), expected room for all weights;"
                " raise the limit (ulimit -l), or use more GPUs with learn.offload off"
            )
        weakref.finalize(storage, cudart.cudaHostUnregister, place)
        locked += size
    return locked


def free_host_memory() -> int:
    """Bytes of host memory that a process may have; what only caches files is given back."""
    table = Path("/proc/meminfo")
    if table.exists():
        rows = dict(line.split(":", 1) for line in table.read_text().splitlines())
        if "MemAvailable" in rows:
            return 1024 * int(rows["MemAvailable"].split()[0])
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
