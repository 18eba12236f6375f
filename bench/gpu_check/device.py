"""A card's clock, memory and cache, for the stages that measure one. A CPU has a twin of it.

`Device` calls only what `CpuApi` has too, by the names of torch.cuda, so a rehearsal runs every
line of it.
"""

from __future__ import annotations

import gc
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import record
import torch

SCRATCH = {"cuda": 256 << 20, "cpu": 1 << 20}  # bytes written before a call: more than any L2 holds
LONGEST = 4.0  # seconds after which no more calls are timed


class CpuEvent:
    """`torch.cuda.Event` by the process's clock."""

    def __init__(self, *, enable_timing: bool) -> None:
        self.at = 0.0

    def record(self) -> None:
        self.at = time.perf_counter()

    def synchronize(self) -> None:
        """A CPU has no queue to wait for."""

    def elapsed_time(self, end: CpuEvent) -> float:
        """Milliseconds, as on CUDA."""
        return (end.at - self.at) * 1e3


class CpuApi:
    """What of torch.cuda is used here, for this process: resident memory in place of a card's."""

    Event = CpuEvent
    OutOfMemoryError = MemoryError

    @staticmethod
    def synchronize() -> None:
        """A CPU has no queue to wait for."""

    @staticmethod
    def empty_cache() -> None:
        """Nothing is cached."""

    @staticmethod
    def reset_peak_memory_stats() -> None:
        Path("/proc/self/clear_refs").write_text("5")

    @staticmethod
    def memory_allocated() -> int:
        return int(record.resident_mib("VmRSS") * 2**20)

    @staticmethod
    def max_memory_allocated() -> int:
        return int(record.resident_mib("VmHWM") * 2**20)

    @staticmethod
    def mem_get_info() -> tuple[int, int]:
        """(free, total) as if this process were alone on the machine."""
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return total - CpuApi.memory_allocated(), total


@dataclass(frozen=True, kw_only=True)
class Device:
    """name: "cuda" or "cpu". api: torch.cuda or its twin."""

    name: str
    api: Any

    @classmethod
    def of(cls, *, rehearse: bool) -> Device:
        return cls(name="cpu", api=CpuApi) if rehearse else cls(name="cuda", api=torch.cuda)

    @property
    def dtype(self) -> torch.dtype:
        """What models are made in: bfloat16, which a CPU computes slowly."""
        return torch.bfloat16 if self.name == "cuda" else torch.float32

    @property
    def precision(self) -> str:
        """`dtype` as settings name it."""
        return str(self.dtype).removeprefix("torch.")

    def normal(self, *shape: int, dtype: torch.dtype | None = None) -> torch.Tensor:
        return torch.randn(*shape, device=self.name, dtype=dtype or torch.float32)

    def used(self) -> int:
        """Bytes of the card that are taken, by every process."""
        free, total = self.api.mem_get_info()
        return total - free

    def empty(self) -> None:
        """Give back what nothing holds any more; models and trainers lie in cycles of references,
        which Python frees when it likes."""
        gc.collect()
        self.api.synchronize()
        self.api.empty_cache()

    def seconds(self, work: Callable[[], Any]) -> float:
        """Wall seconds of one call, with the device's queue empty before and after."""
        self.api.synchronize()
        begin = time.perf_counter()
        work()
        self.api.synchronize()
        return time.perf_counter() - begin

    def timed(
        self,
        work: Callable[[], Any],
        *,
        fresh: Callable[[], Any] = lambda: None,
        warm: int = 2,
        repeats: int = 15,
    ) -> dict[str, float]:
        """Median seconds by events, and the most memory beyond what was held before.

        fresh: makes new inputs before each call, untimed. Between the two a buffer larger than the
        L2 cache is written, so that no input is found there.
        """
        scratch = torch.empty(SCRATCH[self.name], dtype=torch.int8, device=self.name)
        for _ in range(warm):
            fresh()
            work()
        fresh()
        self.api.synchronize()
        before = self.api.memory_allocated()
        self.api.reset_peak_memory_stats()
        found: list[float] = []
        while len(found) < repeats and sum(found) < LONGEST:
            fresh()
            scratch.zero_()
            start, end = (self.api.Event(enable_timing=True) for _ in range(2))
            start.record()
            work()
            end.record()
            end.synchronize()
            found.append(start.elapsed_time(end) / 1e3)
        extra = self.api.max_memory_allocated() - before
        return {
            "seconds": statistics.median(found),
            "fastest": min(found),
            "calls": len(found),
            "extra_mib": round(extra / 2**20, 1),
        }
