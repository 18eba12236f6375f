"""Tensors that say `cuda:0` and compute on the CPU: what a card would refuse or wait for is seen
without a card.

`load(guard)` must be called before torch is imported, in a process of its own. Inside `card()` a
tensor made on "cuda" is a `Twin`: its device is cuda:0, and its numbers lie in a CPU tensor. Every
operation that a Twin takes part in is written into a `Ledger`.

What it cannot see:
- kernels: Triton is replaced by the plain path, and no number is a GPU's (neither rounding nor
  the order of sums);
- time, streams, events, overlap, and races between them;
- which SDPA kernel a card would pick, or what flex and flash-attn do;
- the caching allocator's rounding, fragmentation and reserve: bytes are those of live tensors;
- memory inside an operation, as a matrix product's workspace;
- launches inside one operation: each aten operation counts as one, however many kernels it takes;
- pinned memory and the lifetime of what is copied from it: a copy with non_blocking=True counts as
  one that nobody waits for;
- more than one card, NCCL, IPC handles, CUDA graphs.
"""

from __future__ import annotations

import ctypes
import sys
import weakref
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# Private names of torch that the twin stands on. A test is skipped where one is missing.
PRIVATE = (
    "torch._C._set_only_lift_cpu_tensors",
    "torch._C._only_lift_cpu_tensors",
    "torch._C._disabled_torch_function_impl",
    "torch.Tensor._make_subclass",
    "torch.cuda._lazy_init",
    "torch.cuda.amp.common.amp_definitely_not_available",
    "torch.utils._python_dispatch.TorchDispatchMode",
    "torch._C._dispatch_has_kernel_for_dispatch_key",
)


def missing() -> list[str]:
    """The names of `PRIVATE` that this torch has not."""
    import operator

    import torch
    import torch.cuda.amp.common
    import torch.utils._python_dispatch

    def has(name: str) -> bool:
        try:
            return operator.attrgetter(name.removeprefix("torch."))(torch) is not None
        except AttributeError:
            return False

    return [name for name in PRIVATE if not has(name)]


def load(guard: Path) -> None:
    """Load the compiled guard.cpp, whose symbols come from torch's own library."""
    import importlib.util

    if "torch" in sys.modules:
        raise RuntimeError("twin: found torch imported, expected load() before it")
    spec = importlib.util.find_spec("torch")
    library = Path(spec.origin).parent / "lib" / "libtorch_cpu.so"
    for path in (library, guard):
        ctypes.CDLL(str(path), ctypes.RTLD_GLOBAL)


@dataclass
class Ledger:
    """What a card would have met, by line. bytes: of live storages on it, `peak` the most at once.

    Lines read `file:number`. Where the line is another package's, our caller's follows: `a <- b`.
    """

    mismatches: Counter[str] = field(default_factory=Counter)
    syncs: Counter[str] = field(default_factory=Counter)
    launches: Counter[Any] = field(default_factory=Counter)
    held: Counter[int] = field(default_factory=Counter)  # tensors by storage
    sizes: dict[int, int] = field(default_factory=dict)  # bytes by storage
    live: int = 0
    peak: int = 0

    def restart(self) -> None:
        """Forget what was met; what is alive stays."""
        for counter in (self.mismatches, self.syncs, self.launches):
            counter.clear()
        self.peak = self.live

    def hold(self, tensor: Any) -> None:
        storage = tensor.untyped_storage()
        self.held[storage._cdata] += 1
        self.measure(storage)
        weakref.finalize(tensor, self._let_go, storage._cdata).atexit = False

    def measure(self, storage: Any) -> None:
        """Count a storage with the size that it has now; FSDP empties and fills its own."""
        self.live += storage.nbytes() - self.sizes.get(storage._cdata, 0)
        self.sizes[storage._cdata] = storage.nbytes()
        self.peak = max(self.peak, self.live)

    def _let_go(self, place: int) -> None:
        self.held[place] -= 1
        if not self.held[place]:
            del self.held[place]
            self.live -= self.sizes.pop(place)


LEDGER = Ledger()
ROOT = Path(__file__).parents[2]
OWN = {__file__, str(Path(__file__).with_name("tensors.py"))}


def line() -> str:
    """The line that asked: the nearest outside torch, and ours where that is another one."""
    frame, first = sys._getframe(1), ""
    while frame is not None:
        name = frame.f_code.co_filename
        inside = "site-packages/" in name
        if name not in OWN and "/torch/" not in name and not name.startswith("<"):
            short = name.split("site-packages/")[-1] if inside else _short(name)
            here = f"{short}:{frame.f_lineno}"
            if not inside and name.startswith(str(ROOT)):
                return f"{first} <- {here}" if first else here
            first = first or here
        frame = frame.f_back
    return first or "autograd"


def _short(name: str) -> str:
    return name.removeprefix(f"{ROOT}/")
