"""`linear_logprob(backend="quack")`: the log-prob by QuACK's loss per token."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

NAME = "quack.linear_cross_entropy"


def check_quack(hidden: Tensor, options: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
    """ValueError names an option that QuACK's function does not have, and the first thing that is
    missing on this machine."""
    for name, found in options.items():
        if isinstance(found, Tensor) or found != defaults[name]:
            shown = tuple(found.shape) if isinstance(found, Tensor) else repr(found)
            raise ValueError(
                f"{name}: found {shown} with backend='quack', expected {defaults[name]!r}: only"
                " backend='sectow' has it"
            )
    try:
        importlib.import_module(NAME)
    except ImportError as error:
        raise ValueError(
            f"backend: found 'quack', but {NAME} cannot be imported ({error}); pip install"
            " quack-kernels, or use backend='sectow'"
        ) from error
    if not hidden.is_cuda:
        raise ValueError(f"backend: found 'quack' with {hidden.device}, expected a CUDA card")


def quack_logprob(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor, ignore_index: int
) -> tuple[Tensor, Tensor]:
    """(logp [N], NaN [N]): it knows no entropy. The logits [n, V] of live rows are held at once."""
    per_token = importlib.import_module(NAME).linear_cross_entropy_func
    rows = (labels != ignore_index).nonzero()[:, 0]
    loss = per_token(hidden[rows], weight, bias, labels[rows], reduction="none")
    zeros = torch.zeros(len(labels), dtype=torch.float32, device=labels.device)
    return zeros.index_put((rows,), -loss.float()), torch.full_like(zeros, torch.nan)
