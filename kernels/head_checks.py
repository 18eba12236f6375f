"""What bad arguments of a head get (checks.py)."""

from __future__ import annotations

import torch
from torch import Tensor

from .checks import check_matrix, check_positive, check_rows
from .dispatch import BUFFER_ELEMENTS, wide


def check_head(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    labels: Tensor,
    temperature: float | Tensor,
    softcap: float | None,
) -> None:
    """hidden [N, H], weight [V, H], bias [V], labels [N] of one device, hidden and weight of one
    dtype (unless autocast makes them so); temperature (a number or [N]) and softcap > 0."""
    check_matrix("hidden", hidden, (None, None))
    check_matrix("weight", weight, (None, hidden.shape[1]))
    if weight.dtype != hidden.dtype and not autocast_dtype(hidden.device.type):
        raise ValueError(f"weight: found {weight.dtype}, expected hidden's {hidden.dtype}")
    if weight.device != hidden.device:
        raise ValueError(f"weight: found device {weight.device}, expected {hidden.device}")
    if weight.shape[0] == 0:
        raise ValueError("weight: found an empty vocabulary, expected V >= 1")
    check_rows("bias", bias, weight.shape[0], hidden.device, gradient=True)
    check_rows("labels", labels, hidden.shape[0], hidden.device, kind="int")
    if isinstance(temperature, Tensor):
        check_rows("temperature", temperature, hidden.shape[0], hidden.device)
    else:
        check_positive("temperature", temperature)
    if softcap is not None:
        check_positive("softcap", softcap)


def check_head_options(
    *,
    hidden: Tensor,
    weight: Tensor,
    logits_dtype: torch.dtype | None,
    logit_scale: float,
    chunk: int | None,
    live_rows: Tensor | int | None,
    main_grad: Tensor | None,
) -> None:
    """hidden and weight as autocast made them."""
    if logits_dtype not in (None, hidden.dtype, wide(hidden.dtype)):
        raise ValueError(
            f"logits_dtype: found {logits_dtype}, expected None, {hidden.dtype} as hidden, or"
            f" {wide(hidden.dtype)}"
        )
    check_positive("logit_scale", logit_scale)
    if chunk is not None:
        if isinstance(chunk, bool) or not isinstance(chunk, int) or chunk < 1:
            raise ValueError(f"chunk: found {chunk!r}, expected a whole number >= 1, or None")
        most = BUFFER_ELEMENTS // weight.shape[0]
        if chunk > most:
            raise ValueError(
                f"chunk: found {chunk} rows of {weight.shape[0]} logits, expected at most"
                f" {max(most, 1)}: a buffer holds {BUFFER_ELEMENTS} logits"
            )
    check_live_rows(live_rows, hidden)
    if main_grad is not None:
        check_matrix("main_grad", main_grad, tuple(weight.shape))
        if main_grad.dtype != wide(weight.dtype) or main_grad.device != weight.device:
            raise ValueError(
                f"main_grad: found {main_grad.dtype} on {main_grad.device}, expected"
                f" {wide(weight.dtype)} on {weight.device}"
            )
        if main_grad.requires_grad:
            raise ValueError("main_grad: found requires_grad=True, expected a plain buffer")
        if not weight.requires_grad and torch.is_grad_enabled():
            raise ValueError("main_grad: found a weight without gradient, expected one with it")


def check_live_rows(live_rows: Tensor | int | None, hidden: Tensor) -> None:
    count = hidden.shape[0]
    if live_rows is None:
        return
    if isinstance(live_rows, Tensor):
        if live_rows.ndim != 1 or live_rows.dtype != torch.int64:
            found = f"{live_rows.dtype} of shape {tuple(live_rows.shape)}"
            raise ValueError(f"live_rows: found {found}, expected int64 positions [n]")
        if live_rows.device != hidden.device:
            raise ValueError(
                f"live_rows: found device {live_rows.device}, expected {hidden.device}"
            )
        if len(live_rows) > count:
            raise ValueError(f"live_rows: found {len(live_rows)} rows, expected at most {count}")
        outside = (live_rows < 0) | (live_rows >= count) if live_rows.device.type == "cpu" else None
        if outside is not None and outside.any():
            found = int(live_rows[outside][0])
            raise ValueError(f"live_rows: found row {found}, expected 0..{count - 1}")
    elif isinstance(live_rows, bool) or not isinstance(live_rows, int) or live_rows < 0:
        raise ValueError(
            f"live_rows: found {live_rows!r}, expected positions [n], or a number >= 0"
        )


def check_temperatures(temperature: float | Tensor, live: Tensor) -> None:
    """Raises where a live row's temperature is not above 0; on CUDA the kernels give NaN there."""
    if not isinstance(temperature, Tensor) or temperature.device.type != "cpu":
        return
    wrong = live & ~((temperature > 0) & temperature.isfinite())
    if wrong.any():
        row = int(wrong.nonzero()[0])
        found = float(temperature[row])
        raise ValueError(f"temperature[{row}]: found {found}, expected a finite number > 0")


def autocast_dtype(kind: str) -> torch.dtype | None:
    """What a product would be cast to on this kind of device; None without autocast."""
    if not torch.amp.is_autocast_available(kind) or not torch.is_autocast_enabled(kind):
        return None
    return torch.get_autocast_dtype(kind)
