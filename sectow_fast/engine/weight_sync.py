"""A model's weights as an engine takes them: checkpoint names, flat buckets, nothing left out.

Names are those of the checkpoint, not of the modules: transformers 5 renames modules on loading,
and SGLang's loaders raise on some module names and silently skip others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sectow_fast.types import UserError

Weights = Callable[[Any], Mapping[str, torch.Tensor]]  # a model's tensors by checkpoint name
ALIGN = 16  # bytes; a view as any dtype must start on a multiple of its size


@dataclass(frozen=True, kw_only=True)
class Piece:
    """One tensor's place in a bucket's bytes."""

    name: str
    shape: tuple[int, ...]
    dtype: str  # "float32", as torch names it
    start: int
    end: int


@dataclass(frozen=True, kw_only=True)
class Bucket:
    """Tensors laid end to end. data: uint8 [bytes]."""

    pieces: tuple[Piece, ...]
    data: torch.Tensor


def folder_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """name -> shape of every tensor in a model folder's safetensors files; reads headers only."""
    from safetensors import safe_open

    shapes: dict[str, tuple[int, ...]] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - a file, not a dict
                shapes[name] = tuple(file.get_slice(name).get_shape())
    if not shapes:
        raise UserError(
            f"engine: found no *.safetensors in {folder}, expected a model's folder;"
            " give one that save_pretrained wrote"
        )
    return shapes


def checkpoint_weights(model: Any, state: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """name in the checkpoint -> tensor, tied ones under every name they have. state: what stands
    for `model.state_dict()`, where the model has more than its checkpoint (adapters)."""
    from transformers.core_model_loading import revert_weight_conversion

    if state is None:
        state = {name: value.detach() for name, value in model.state_dict().items()}
    return dict(revert_weight_conversion(model, dict(state)))


def covered(
    weights: Mapping[str, torch.Tensor], expected: Mapping[str, tuple[int, ...]]
) -> list[tuple[str, torch.Tensor]]:
    """`weights` as (name, tensor), each expected name once. RuntimeError says what is amiss.

    A tied tensor's second name, which a checkpoint leaves out, is left out here too.
    """
    missing = sorted(expected.keys() - weights.keys())
    known = {_place(weights[name]) for name in expected.keys() & weights.keys()}
    unknown = sorted(
        name for name in weights.keys() - expected.keys() if _place(weights[name]) not in known
    )
    shapes = sorted(
        name
        for name in expected.keys() & weights.keys()
        if tuple(weights[name].shape) != tuple(expected[name])
    )
    for what, names in (("missing", missing), ("unknown", unknown), ("of another shape", shapes)):
        if names:
            raise RuntimeError(
                f"weight sync: found {len(names)} parameters {what} ({', '.join(names[:3])}),"
                " expected each parameter of the engine's checkpoint once; was the engine started"
                " from this model's folder?"
            )
    return [(name, weights[name]) for name in sorted(expected)]


def _place(tensor: torch.Tensor) -> tuple[Any, ...]:
    """Where a tensor lies, the same for two names of one; a sharded one is not gathered for it."""
    local = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return local.data_ptr(), tuple(local.shape), local.stride()


def buckets(
    named: Iterable[tuple[str, torch.Tensor]], limit: int, device: torch.device
) -> Iterator[Bucket]:
    """Buckets of at most `limit` bytes (a larger tensor has one of its own), made one at a time on
    the engine's device, wherever the weights are.

    Sharded (FSDP2) tensors are gathered here, and adapters added, a bucket's worth at once.
    """
    waiting: list[tuple[str, torch.Tensor]] = []
    size = 0
    for name, tensor in named:
        need = tensor.numel() * tensor.element_size()
        if waiting and size + need > limit:
            yield _bucket(waiting, device)
            waiting, size = [], 0
        waiting.append((name, tensor))
        size += need
    if waiting:
        yield _bucket(waiting, device)


def _bucket(named: list[tuple[str, torch.Tensor]], device: torch.device) -> Bucket:
    pieces, at = [], 0
    whole = [
        # Moved first, a share at a time: a GPU's collective does not read host memory.
        (name, value.to(device).full_tensor() if hasattr(value, "full_tensor") else value)
        for name, value in named
    ]
    for name, tensor in whole:
        end = at + tensor.numel() * tensor.element_size()
        dtype = str(tensor.dtype).removeprefix("torch.")
        pieces.append(Piece(name=name, shape=tuple(tensor.shape), dtype=dtype, start=at, end=end))
        at = -(-end // ALIGN) * ALIGN
    # In shared memory from the start: another process reads it, and a second copy costs as much.
    data = torch.empty(at, dtype=torch.uint8, device=device)
    if device.type == "cpu":
        data.share_memory_()
    for piece, (_, tensor) in zip(pieces, whole, strict=True):
        data[piece.start : piece.end].copy_(tensor.contiguous().flatten().view(torch.uint8))
    return Bucket(pieces=tuple(pieces), data=data)
