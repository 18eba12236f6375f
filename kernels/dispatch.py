"""The one place that picks Triton or plain torch, and how much of the logits is held at once.

CUDA tensors go to Triton, unless `plain()` asks for plain torch. CPU tensors go to the plain path,
and only inside `interpreted()` through Triton's interpreter. Nothing else falls back: a launch that
fails raises.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

# Rows of logits held at once on a CPU, in elements: 36 MiB in float32, just more than glibc ever
# puts on its heap, where such buffers would fragment. Each chunk reads and writes dW, so there are
# some rows in one even where V is large. On CUDA the accumulation of dW in float32 costs about
# 245 / chunk of the products' time, hence 4096 rows.
CPU_ELEMENTS = 9 << 20
CPU_ROWS = 192
CUDA_ROWS = 4096
# A caller's chunk may not ask for a larger buffer of logits: 4 GiB of bfloat16.
BUFFER_ELEMENTS = 2**31 - 1
# Row arithmetic on a CPU works through pieces that stay in the cache.
TILE_ELEMENTS = 1 << 18

_interpreting = False
_plain = False


def use_triton(tensor: Tensor) -> bool:
    return (tensor.is_cuda and not _plain) or _interpreting


@contextmanager
def plain() -> Iterator[None]:
    """CUDA tensors go through plain torch too, to find a kernel's error or where Triton cannot run.

    It holds for all threads of the process.
    """
    global _plain
    before, _plain = _plain, True
    try:
        yield
    finally:
        _plain = before


@contextmanager
def interpreted() -> Iterator[None]:
    """CPU tensors go through Triton's interpreter, for tests without a GPU.

    TRITON_INTERPRET=1 must be set before Triton is imported.
    """
    global _interpreting
    if os.environ.get("TRITON_INTERPRET") != "1":
        raise RuntimeError("TRITON_INTERPRET: found unset, expected 1 before Triton is imported")
    before, _interpreting = _interpreting, True
    try:
        yield
    finally:
        _interpreting = before


def chunk_rows(tensor: Tensor, vocabulary: int, chunk: int = CUDA_ROWS) -> int:
    """How many rows of logits to hold at once."""
    if tensor.is_cuda:
        return chunk
    return max(1, min(chunk, max(CPU_ROWS, CPU_ELEMENTS // max(vocabulary, 1))))


def tile_rows(vocabulary: int) -> int:
    return max(1, TILE_ELEMENTS // max(vocabulary, 1))


def wide(dtype: torch.dtype) -> torch.dtype:
    """What sums are made in: float32, or float64 for float64."""
    return torch.promote_types(dtype, torch.float32)
