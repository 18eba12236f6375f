"""What bad arguments get: a ValueError that names the argument, what was found, what is wanted.

Nothing here reads a tensor's content, except `check_labels`, on a CPU only: on CUDA that would wait
for the device, and the kernels answer NaN instead.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection

import torch
from torch import Tensor

FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


def check_rows(
    name: str,
    tensor: Tensor | None,
    count: int,
    device: torch.device,
    *,
    kind: str = "float",
    gradient: bool = False,
) -> None:
    """tensor [count] on `device`; kind "float", "int" or "mask". None passes."""
    if tensor is None:
        return
    if not isinstance(tensor, Tensor):
        raise ValueError(f"{name}: found {type(tensor).__name__}, expected a tensor [{count}]")
    if tensor.shape != (count,):
        raise ValueError(f"{name}: found shape {tuple(tensor.shape)}, expected ({count},)")
    if tensor.device != device:
        raise ValueError(f"{name}: found device {tensor.device}, expected {device}")
    wanted = {
        "float": tensor.dtype in FLOATS,
        "int": tensor.dtype in (torch.int64, torch.int32),
        "mask": not tensor.dtype.is_floating_point and not tensor.dtype.is_complex,
    }
    if not wanted[kind]:
        expected = {"float": "a float dtype", "int": "int64 or int32", "mask": "bool"}[kind]
        raise ValueError(f"{name}: found {tensor.dtype}, expected {expected}")
    if not gradient and tensor.requires_grad and torch.is_grad_enabled():
        raise ValueError(
            f"{name}: found requires_grad=True, expected a constant"
            f" (no gradient goes there: pass {name}.detach())"
        )


def check_matrix(name: str, tensor: Tensor, shape: tuple[int | None, int | None]) -> None:
    """tensor of two dimensions, of float dtype; None in `shape` is any size."""
    if hasattr(tensor, "full_tensor"):
        raise ValueError(
            f"{name}: found a DTensor, expected a plain tensor; gather it once, for FSDP2 with"
            f" {name}.full_tensor(grad_placements=[Partial('avg')])"
        )
    if not isinstance(tensor, Tensor) or tensor.ndim != 2:
        found = tuple(tensor.shape) if isinstance(tensor, Tensor) else type(tensor).__name__
        raise ValueError(f"{name}: found {found}, expected a tensor of two dimensions")
    for size, wanted in zip(tensor.shape, shape, strict=True):
        if wanted is not None and size != wanted:
            letters = tuple("any" if one is None else one for one in shape)
            raise ValueError(f"{name}: found shape {tuple(tensor.shape)}, expected {letters}")
    if tensor.dtype not in FLOATS or (tensor.is_cuda and tensor.dtype == torch.float64):
        expected = "float32, float16 or bfloat16 (float64 on a CPU only)"
        raise ValueError(f"{name}: found {tensor.dtype}, expected {expected}")


def check_positive(name: str, value: float) -> None:
    if not 0 < value < float("inf"):
        raise ValueError(f"{name}: found {value}, expected a finite number > 0")


def check_choice(name: str, value: str, choices: Collection[str]) -> None:
    """ValueError names the choices, and the nearest one if one is near."""
    if value in choices:
        return
    near = difflib.get_close_matches(str(value), choices, n=1, cutoff=0.4)
    hint = f"; did you mean {near[0]}?" if near else ""
    expected = f"one of {', '.join(choices)}" if choices else "none"
    raise ValueError(f"{name}: found {value!r}, expected {expected}{hint}")


def check_labels(labels: Tensor, live: Tensor, vocabulary: int, ignore_index: int) -> None:
    """Raises where a live label is outside the vocabulary; on CUDA the kernels give NaN there."""
    if labels.is_cuda:
        return
    wrong = live & ((labels < 0) | (labels >= vocabulary))
    if wrong.any():
        row = int(wrong.nonzero()[0])
        raise ValueError(
            f"labels[{row}]: found {int(labels[row])}, expected 0..{vocabulary - 1}"
            f" or {ignore_index}"
        )
