"""Where weights and optimizer state are: on the training device, or in host memory between updates.

With offload a GPU holds a player's float32 weights and Adam's two moments only while that player is
updated; at other times rollout has that memory. Host buffers are pinned and kept, so a move is one
copy.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch

from sectow_fast.types import UserError


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


class Offload:
    """Moves one model's weights and its optimizer's state between device and host memory.

    Parameters stay the same objects, so optimizers, hooks and version counters are not affected.
    """

    def __init__(self, model: torch.nn.Module, device: torch.device) -> None:
        self.model, self.device = model, device
        self._host: dict[tuple[int, str], torch.Tensor] = {}

    @contextlib.contextmanager
    def at_work(self, optimizer: torch.optim.Optimizer | None = None) -> Iterator[None]:
        """Everything on the device inside the block, in host memory after it."""
        self._move(optimizer, lambda key, value: value.to(self.device, non_blocking=True))
        try:
            yield
        finally:
            self.rest(optimizer)

    def rest(self, optimizer: torch.optim.Optimizer | None = None) -> None:
        """Move everything to host memory, and give the device's memory back."""
        self._move(optimizer, self._to_host)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _move(
        self,
        optimizer: torch.optim.Optimizer | None,
        moved: Callable[[tuple[int, str], torch.Tensor], torch.Tensor],
    ) -> None:
        for tensor in (*self.model.parameters(), *self.model.buffers()):
            tensor.data = moved((id(tensor), ""), tensor.data)
        states = optimizer.state.items() if optimizer else ()
        for parameter, state in states:
            for name, value in state.items():
                state[name] = moved((id(parameter), name), value)
        if self.device.type == "cuda":
            # Copies are asynchronous; a buffer that is read too early holds garbage.
            torch.cuda.synchronize(self.device)

    def _to_host(self, key: tuple[int, str], value: torch.Tensor) -> torch.Tensor:
        buffer = self._host.get(key)
        if buffer is None or buffer.shape != value.shape or buffer.dtype != value.dtype:
            pinned = self.device.type == "cuda"
            buffer = torch.empty_like(value, device="cpu", pin_memory=pinned)
            self._host[key] = buffer
        if buffer.data_ptr() != value.data_ptr():
            buffer.copy_(value, non_blocking=True)
        return buffer


@contextlib.contextmanager
def at_work(policy: Any, optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """`policy` and its optimizer where they train, for the length of the block."""
    with policy.offload.at_work(optimizer) if policy.offload else contextlib.nullcontext():
        yield
