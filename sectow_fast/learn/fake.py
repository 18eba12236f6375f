"""Tensors of real shapes with no numbers in them, and a count of the bytes that live.

Floats are only shapes (FakeTensorMode). Integers and booleans (ids, positions, picture grids,
masks) are computed, since the code asks them how to go on. The bytes are counted by torch's
MemTracker. Kernels for a GPU alone stand as what they keep and return.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.distributed._tools.mem_tracker import MemTracker
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from sectow_fast.kernels.dispatch import CUDA_ROWS
from sectow_fast.learn.segments import Segments

aten = torch.ops.aten
# Operators of a fused head that make its scratch inside: where their states, weight and labels are.
FUSED_HEADS = {"linear_policy_loss": (0, 1, 3), "linear_logprob_backward": (2, 3, 5)}


class FusedAttention(torch.autograd.Function):
    """The memory of a flash or flex kernel: it keeps q, k, v, its output and one float32 a row."""

    @staticmethod
    def forward(ctx, query, key, value):
        out = torch.empty_like(query)
        ctx.save_for_backward(query, key, value, out, query.new_empty(query.shape[:-1]).float())
        return out

    @staticmethod
    def backward(ctx, upstream):
        query, key, value, *_ = ctx.saved_tensors
        return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)


def attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    segments: Segments,
    **settings: Any,
) -> torch.Tensor:
    """A backend of `learn/attention.py` without numbers: [T, H, D] each -> [T, H, D]."""
    return FusedAttention.apply(query, key, value)


class _RealIntegers(TorchDispatchMode):
    """Runs for real what has only real tensors, or makes integers from nothing."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if any(issubclass(t, DTensor) for t in types):
            return NotImplemented
        leaves = [t for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
        fake = any(isinstance(t, FakeTensor) for t in leaves)
        if fake and func is aten._local_scalar_dense.default:
            return 1.0 if leaves[0].is_floating_point() else 1
        if fake and func is aten.nonzero.default:  # a mask that is not known keeps everything
            return torch.zeros(leaves[0].numel(), leaves[0].dim(), dtype=torch.long)
        if not leaves:
            made = func(*args, **kwargs)
            if not isinstance(made, torch.Tensor) or made.is_floating_point():
                return made
        if not fake and "c10d" not in str(func):
            with unset_fake_temporarily():
                return func(*args, **kwargs)
        if func in (aten.index.Tensor, aten.index_put.default, aten.index_put_.default):
            args = (args[0], _places(args[1]), *args[2:])
        return func(*args, **kwargs)


def _places(indices: Any) -> list[torch.Tensor | None]:
    """Boolean indices as the integers that they stand for."""
    out: list[torch.Tensor | None] = []
    for one in indices:
        if one is None or one.dtype != torch.bool:
            out.append(one)
        elif isinstance(one, FakeTensor):
            out += [torch.zeros(one.numel(), dtype=torch.long) for _ in range(one.dim())]
        else:
            with unset_fake_temporarily():
                out += one.nonzero(as_tuple=True)
    return out


@contextlib.contextmanager
def only_shapes() -> Iterator[None]:
    """Inside, floats that are made have a shape and no numbers."""
    with FakeTensorMode(allow_non_fake_inputs=True), _RealIntegers():
        yield


class Tracker(MemTracker):
    """MemTracker with what a fused head needs inside, and without a report for each module."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        scratch = None
        for name, places in FUSED_HEADS.items():
            if name not in str(func):
                continue
            states, weight, labels = (args[place] for place in places)
            # The sum of dW is float32; logits are of a chunk of rows (kernels/head_chunks.py).
            chunk = min(CUDA_ROWS, len(labels)) * len(weight)
            numbers = weight.numel() + chunk * states.itemsize // 4
            scratch = super().__torch_dispatch__(
                aten.empty.memory_format, (), ([numbers],), {"dtype": torch.float32}
            )
        out = super().__torch_dispatch__(func, types, args, kwargs)
        del scratch
        return out

    def _update_peak_stats(self, peak_state: Any) -> None:
        for device, now in self._curr_mem_snap.items():
            if self._peak_mem.get(device, 0) < now["Total"]:
                self._peak_mem[device] = now["Total"]
                self._peak_mem_snap[device] = dict(now)

    def _no_report(self, *_: Any) -> None:
        """Which module it was does not matter here."""

    _pre_fw_hook = _post_fw_hook = _pre_bw_hook = _post_bw_hook = _no_report
