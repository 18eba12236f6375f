"""The operators' own code over fake CUDA tensors: what it would launch, move and hold on a card.

Nothing is computed and no card is needed. A launch is one operation of torch that is no view and no
bare allocation (torch may launch several kernels for one, in `sort` and `nonzero`), or one Triton
kernel. Bytes are those of every tensor that an operation takes or gives, so a pass over dW shows.
"""

from __future__ import annotations

import contextlib
import weakref
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from sectow_fast.kernels import (
    advantage_triton,
    linear_loss_triton,
    logprob_triton,
    loss_rows_triton,
    loss_triton,
    states_triton,
)

ATEN = torch.ops.aten
PRODUCTS = ("mm", "addmm")
FREE = (
    *("alias", "as_strided", "detach", "device", "empty", "empty_like", "empty_strided", "expand"),
    *("lift_fresh", "new_empty", "numpy_T", "permute", "promote_types", "reshape", "select"),
    *("slice", "split", "squeeze", "t", "transpose", "unbind", "unsqueeze", "view", "_unsafe_view"),
    "new_empty_strided",
)
TRITON = (
    (linear_loss_triton, "linear_loss_kernel"),
    (logprob_triton, "selective_forward_kernel"),
    (logprob_triton, "selective_backward_kernel"),
    (loss_rows_triton, "open_loss_kernel"),
    (loss_rows_triton, "close_loss_kernel"),
    (states_triton, "clean_states_kernel"),
    (loss_triton, "policy_loss_kernel"),
    (advantage_triton, "group_advantage_kernel"),
)
WAITS = ("nonzero", "_local_scalar_dense", "item", "equal", "is_nonzero")


# Ceilings of docs/KERNELS.md: operations per second of a bfloat16 product, bytes and launches per
# second.
RATE, BANDWIDTH, LAUNCH = 790e12, 4.3e12, 3e-6


@dataclass(kw_only=True)
class Counted:
    """launches by name; products: (result's dtype, factors' dtype, shape of the result), in order;
    passes: (name, bytes) of every other operation on at least `large` bytes; waits: operations for
    which the host waits; triton: arguments of each Triton launch; before, live and peak: bytes of
    storages when counting began, now, and at most; seconds: of all, each at the ceiling that binds
    it."""

    large: int = 1 << 28
    launches: Counter[str] = field(default_factory=Counter)
    products: list[tuple[torch.dtype, torch.dtype, tuple[int, ...]]] = field(default_factory=list)
    passes: list[tuple[str, int]] = field(default_factory=list)
    waits: list[str] = field(default_factory=list)
    triton: list[dict[str, Any]] = field(default_factory=list)
    live: int = 0
    peak: int = 0
    before: int = 0
    seconds: float = 0.0

    @property
    def launched(self) -> int:
        return self.launches.total()

    @property
    def extra(self) -> int:
        """Bytes held at once beyond those from before."""
        return self.peak - self.before

    def launch(self, name: str, tensors: Sequence[Tensor]) -> None:
        self.launches[name] += 1
        moved = sum(one.numel() * one.element_size() for one in tensors)
        if moved >= self.large and name not in PRODUCTS:
            self.passes.append((name, moved))
        self.seconds += moved / BANDWIDTH + LAUNCH

    def product(self, name: str, left: Tensor, right: Tensor, out: Tensor) -> None:
        self.launches[name] += 1
        self.products.append((out.dtype, left.dtype, tuple(out.shape)))
        sum_is_read = 1 + (name == "addmm")
        parts = (left, right, *(out,) * sum_is_read)
        moved = sum(one.numel() * one.element_size() for one in parts)
        work = 2 * left.shape[0] * left.shape[1] * right.shape[1]
        self.seconds += max(work / RATE, moved / BANDWIDTH) + LAUNCH

    def kernel(self, name: str, grid: Any, given: Mapping[str, Any]) -> None:
        self.launches[name] += 1
        self.triton.append({"name": name, "grid": grid, **given})
        tensors = {k: one for k, one in given.items() if isinstance(one, Tensor)}
        # A row's logits are read for the sums and again for the gradient.
        reads = 2 if name == "linear_loss_kernel" else 1
        moved = sum(
            one.numel() * one.element_size() * (reads if k == "logits" else 1)
            for k, one in tensors.items()
            if one.ndim == 2
        )
        self.seconds += moved / BANDWIDTH + LAUNCH


class Counting(TorchDispatchMode):
    """Writes every operation down in `counted`. live: how many rows `nonzero` finds."""

    def __init__(self, counted: Counted, live: int) -> None:
        super().__init__()
        self.counted, self.rows = counted, live
        self.known: set[int] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._schema.name.split("::")[1]
        if name in WAITS:
            self.counted.waits.append(name)
        if name == "nonzero":
            out = args[0].new_empty(self.rows, args[0].ndim, dtype=torch.int64)
        elif name == "_local_scalar_dense":
            out = self.rows
        elif func._overloadname == "dtype_out":
            out = wide_product(args, kwargs["out"])
        else:
            out = func(*args, **(kwargs or {}))
        # What is given as `out` comes back, and is counted then.
        read = {k: one for k, one in (kwargs or {}).items() if k != "out"}
        tensors = [one for one in tree_leaves((args, read)) if isinstance(one, Tensor)]
        made = [one for one in tree_leaves(out) if isinstance(one, Tensor)]
        if name in PRODUCTS:
            at = len(args) - 3 if func._overloadname == "dtype_out" else len(args) - 2
            self.counted.product(name, *args[at : at + 2], made[0])
        elif name not in FREE:
            self.counted.launch(name, [*tensors, *made])
        for one in made:
            self.hold(one.untyped_storage())
        return out

    def hold(self, storage: torch.UntypedStorage) -> None:
        place, size, counted = storage._cdata, storage.nbytes(), self.counted
        if place in self.known:
            return
        self.known.add(place)
        counted.live += size
        counted.peak = max(counted.peak, counted.live)

        def let_go() -> None:
            self.known.discard(place)
            counted.live -= size

        weakref.finalize(storage, let_go).atexit = False


def wide_product(args: Sequence[Any], out: Tensor) -> Tensor:
    """mm and addmm of narrow factors with a wide result, which this torch has no fake for."""
    *_, left, right, dtype = args
    assert out.dtype == dtype and left.dtype == right.dtype and left.shape[1] == right.shape[0]
    assert out.shape == (left.shape[0], right.shape[1])
    assert len(args) == 3 or args[0] is out, "expected a sum in place"
    return out


def indexed(tensor: Tensor, key: Any) -> tuple[Tensor, list[Tensor | None]]:
    """(the view that the other parts of the key make, index tensors by dimension)."""
    at, indices = 0, []
    for one in key if isinstance(key, tuple) else (key,):
        if one is None:
            tensor, at = ATEN.unsqueeze.default(tensor, at), at + 1
        elif isinstance(one, slice):
            if one != slice(None):
                stop = 2**62 if one.stop is None else one.stop
                tensor = ATEN.slice.Tensor(tensor, at, one.start, stop, one.step or 1)
            at += 1
        elif isinstance(one, Tensor):
            indices += [None] * (at - len(indices)) + [one]
            at += 1
        else:
            tensor = ATEN.select.int(tensor, at, one)
    return tensor, indices


OPERATORS = {Tensor.__invert__: ATEN.bitwise_not.default, Tensor.nonzero: ATEN.nonzero.default}
OPERATORS |= dict.fromkeys((Tensor.__int__, Tensor.item), ATEN._local_scalar_dense.default)


class Indexing(TorchFunctionMode):
    """What torch's Python binding does itself, by asking for a real card; here by its operators."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is Tensor.__getitem__:
            tensor, indices = indexed(*args)
            return ATEN.index.Tensor(tensor, indices) if indices else tensor
        if func is Tensor.__setitem__:
            tensor, indices = indexed(*args[:2])
            value = args[2]
            if indices:
                ATEN.index_put_.default(tensor, indices, value)
            elif isinstance(value, Tensor):
                ATEN.copy_.default(tensor, value)
            else:
                ATEN.fill_.Scalar(tensor, value)
            return None
        if func in OPERATORS:
            return OPERATORS[func](*args)
        return func(*args, **(kwargs or {}))


class Launcher:
    """Stands for a Triton kernel: its launches are counted, and its tensors must be on the card."""

    def __init__(self, name: str, counted: Counted) -> None:
        self.name, self.counted = name, counted

    def __getitem__(self, grid):
        def launch(**given: Any) -> None:
            tensors = {k: one for k, one in given.items() if isinstance(one, Tensor)}
            off = [k for k, one in tensors.items() if one.device.type != "cuda"]
            assert not off, f"{self.name}: {off} are not on the card"
            self.counted.kernel(self.name, grid, given)

        return launch


@contextlib.contextmanager
def fake_card(counted: Counted, *, live: int, capturing: bool = False) -> Iterator[None]:
    """Inside, torch makes fake tensors, "cuda" needs no card, and `counted` is filled."""
    with contextlib.ExitStack() as stack:
        for module, name in TRITON:
            stack.enter_context(mock.patch.object(module, name, Launcher(name, counted)))
            stack.enter_context(
                mock.patch.object(module, "on_device", lambda _: contextlib.nullcontext())
            )
        capture = mock.patch.object(
            torch.cuda, "is_current_stream_capturing", return_value=capturing
        )
        stack.enter_context(capture)
        stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        stack.enter_context(Indexing())
        stack.enter_context(Counting(counted, live))
        yield
