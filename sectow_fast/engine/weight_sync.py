"""A model's weights as an engine takes them: checkpoint names, flat buckets, nothing left out.

Names are those of the checkpoint, not of the modules: transformers 5 renames modules on loading,
and SGLang's loaders raise on some module names and silently skip others.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from sectow_fast.model_folder import auto_class

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

    def on(self, device: torch.device) -> Bucket:
        """The same on another device; itself where it is there."""
        return replace(self, data=self.data.to(device))


def config_shapes(folder: Path, *, trust_remote_code: bool = False) -> dict[str, tuple[int, ...]]:
    """name -> shape of every tensor in the checkpoint of the model that `folder`/config.json
    describes, without a weight of it: the model is made on torch's meta device. A tied tensor has
    the one name that a checkpoint gives it."""
    import transformers

    trust = {"trust_remote_code": trust_remote_code}
    config = transformers.AutoConfig.from_pretrained(folder, **trust)
    with torch.device("meta"):
        model = getattr(transformers, auto_class(config)).from_config(config, **trust)
    model.tie_weights()
    weights = checkpoint_weights(model, without=model.all_tied_weights_keys)
    return {name: tuple(tensor.shape) for name, tensor in weights.items()}


def checkpoint_weights(
    model: Any, state: Mapping[str, Any] | None = None, *, without: Collection[str] = frozenset()
) -> dict[str, Any]:
    """name in the checkpoint -> tensor, tied ones under every name they have. state: what stands
    for `model.state_dict()`, where the model has more than its checkpoint (adapters). without:
    names of the model's own that are left out."""
    from transformers.core_model_loading import revert_weight_conversion

    if state is None:
        state = {name: value.detach() for name, value in model.state_dict().items()}
    kept = {name: value for name, value in state.items() if name not in without}
    return dict(revert_weight_conversion(model, kept))


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


def needs_peers(model: Any) -> bool:
    """Whether other processes hold shares of the weights, so that all must come to gather them."""
    meshes = (getattr(p, "device_mesh", None) for p in model.parameters())
    return any(mesh is not None and mesh.size() > 1 for mesh in meshes)


def buckets(
    named: Iterable[tuple[str, torch.Tensor]],
    limit: int,
    device: torch.device,
    dtype: torch.dtype | None = None,
) -> Iterator[Bucket]:
    """Buckets of at most `limit` bytes (a larger tensor has one of its own), made one at a time on
    the engine's device, wherever the weights are.

    dtype: the engine's, to which weights are rounded as they are laid in; None: as they are.
    Sharded (FSDP2) tensors are gathered here, and adapters added, one at a time.
    """
    waiting: list[tuple[str, torch.Tensor, torch.dtype]] = []
    size = 0
    for name, tensor in named:
        laid = dtype if dtype and tensor.is_floating_point() else tensor.dtype
        need = tensor.numel() * laid.itemsize
        if waiting and size + need > limit:
            yield _bucket(waiting, device)
            waiting, size = [], 0
        waiting.append((name, tensor, laid))
        size += need
    if waiting:
        yield _bucket(waiting, device)


def _bucket(named: list[tuple[str, torch.Tensor, torch.dtype]], device: torch.device) -> Bucket:
    pieces, at = [], 0
    for name, tensor, laid in named:
        end = at + tensor.numel() * laid.itemsize
        dtype = str(laid).removeprefix("torch.")
        pieces.append(Piece(name=name, shape=tuple(tensor.shape), dtype=dtype, start=at, end=end))
        at = -(-end // ALIGN) * ALIGN
    # In shared memory from the start: another process reads it, and a second copy costs as much.
    data = torch.empty(at, dtype=torch.uint8, device=device)
    if device.type == "cpu":
        data.share_memory_()
    for piece, (_, tensor, laid) in zip(pieces, named, strict=True):
        # A view of the place in the engine's dtype: one copy rounds and moves.
        data[piece.start : piece.end].view(laid).view(piece.shape).copy_(whole(tensor, laid))
    return Bucket(pieces=tuple(pieces), data=data)


def whole(tensor: Any, dtype: torch.dtype | None = None) -> torch.Tensor:
    """A weight without shards and adapters; itself where it has none. All ranks must call this.

    dtype: a sharded weight is rounded to it before it travels: half the bytes in bfloat16. One with
    an adapter is not, since the sum is what is rounded.
    """
    if hasattr(tensor, "merged"):
        return tensor.merged(whole)
    if not hasattr(tensor, "full_tensor"):
        return tensor
    # Gathered where the mesh is, since NCCL gathers nothing that rests in host memory.
    return tensor.to(tensor.device_mesh.device_type, dtype).full_tensor()


def in_host_memory(made: Iterable[Bucket], old: Sequence[Bucket] = ()) -> list[Bucket]:
    """The buckets' bytes on the host, pinned where they come from a GPU. old: of an earlier version
    of the same weights, whose memory is used again."""
    kept = []
    for number, bucket in enumerate(made):
        if bucket.data.is_cuda:
            if number < len(old) and old[number].pieces == bucket.pieces:
                host = old[number].data
            else:
                host = torch.empty_like(bucket.data, device="cpu", pin_memory=True)
            bucket = replace(bucket, data=host.copy_(bucket.data))
        kept.append(bucket)
    return kept
