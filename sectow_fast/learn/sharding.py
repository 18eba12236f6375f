"""Where weights live while they are trained: FSDP2, on any number of ranks, on one too.

Masters, gradients and Adam's moments are float32 and sharded; each unit is gathered for its own
forward and backward, in the dtype of the matrix products. With offload they rest in host memory,
the optimizer steps there, and a device holds one unit at a time.
"""

from __future__ import annotations

import atexit
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

import torch
import torch.distributed as dist

from sectow_fast.config import LearnConfig
from sectow_fast.engine.weight_sync import whole
from sectow_fast.learn.lora import merged_state
from sectow_fast.learn.placement import pin
from sectow_fast.types import UserError

if TYPE_CHECKING:
    from sectow_fast.learn.policy import Policy

T = TypeVar("T")


def is_sharded(config: LearnConfig, *, world: int, apart: bool) -> bool:
    """Whether the trainer's weights are FSDP's: they are, but for one case. Where one rank trains
    in float32 the very weights that its engine draws from (`apart` False), the model stays plain.
    """
    return apart or world > 1 or config.dtype != "float32"


def shard(policy: Policy, *, dtype: torch.dtype, replicas: int = 1) -> None:
    """Shard the policy over all ranks, block by block, in place, and move it to its device.

    Each block of decoder and vision tower is gathered for its own forward and backward.
    Embeddings, norms and head are one unit, gathered for the whole of `Policy.forward`, so that the
    head is a plain tensor to the loss. Gradients are summed, not averaged: the loss is divided by
    the token count of all ranks already.

    dtype: of matrix products. replicas: so many groups of ranks hold a whole set of shards each
    (HSDP). With `policy.offload` masters, gradients and optimizer live in host memory, which is
    pinned where a GPU reads it.
    """
    from torch.distributed.fsdp import (
        CPUOffloadPolicy,
        MixedPrecisionPolicy,
        OffloadPolicy,
        fully_shard,
        register_fsdp_forward_method,
    )
    from transformers.modeling_layers import GradientCheckpointingLayer

    low = dtype != torch.float32
    settings = {
        "mesh": mesh_of(policy.device, replicas),
        "mp_policy": MixedPrecisionPolicy(
            param_dtype=dtype if low else None,
            reduce_dtype=torch.float32 if low else None,
            # transformers casts what it has to: positions as cosines must stay float32.
            cast_forward_inputs=False,
        ),
        # Not pinned by torch, which rounds each tensor up to a power of two: by `pin`, as it is.
        "offload_policy": CPUOffloadPolicy(pin_memory=False) if policy.offload else OffloadPolicy(),
        # The root too, or its weights would stay whole after a forward without a backward.
        "reshard_after_forward": True,
    }
    blocks = [m for m in policy.modules() if isinstance(m, GradientCheckpointingLayer)]
    for unit in [*dict.fromkeys([*policy.model.get_decoder().layers, *blocks]), policy]:
        fully_shard(unit, **settings)
        unit.set_gradient_divide_factor(1.0)
        unit.set_force_sum_reduction_for_comms(True)  # gloo has no scaled sum
    register_fsdp_forward_method(policy, "own_logprobs")
    if policy.offload and policy.device.type == "cuda":
        pin(p.to_local() for p in policy.parameters())


def check_replicas(replicas: int, world: int) -> None:
    """UserError where the ranks cannot be cut into so many equal groups."""
    if world % replicas:
        raise UserError(
            f"learn.replicas: found {replicas} on {world} ranks, expected a divisor of their"
            " number: each group of ranks holds a whole set of shards"
        )


def mesh_of(device: torch.device, replicas: int = 1) -> dist.DeviceMesh:
    """All ranks: [world], or [replicas, world / replicas]. One process alone is a world of one."""
    if not dist.is_initialized():
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
        atexit.register(_leave)
    world = dist.get_world_size()
    if replicas == 1:
        return dist.device_mesh.init_device_mesh(device.type, (world,))
    names = ("replicate", "shard")
    shape = (replicas, world // replicas)
    return dist.device_mesh.init_device_mesh(device.type, shape, mesh_dim_names=names)


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def sync_gradients(policy: Policy, rows: Iterator[T]) -> Iterator[T]:
    """`rows`, with the gradients of a sharded policy reduced over ranks at the last one only.

    With offload they are reduced at each, since the device has no room to keep them whole.
    """
    if not hasattr(policy, "set_requires_gradient_sync"):
        yield from rows
        return
    waiting = next(rows)
    for row in rows:
        policy.set_requires_gradient_sync(policy.offload)
        yield waiting
        waiting = row
    policy.set_requires_gradient_sync(True)
    yield waiting


@torch.no_grad()
def whole_weights(model: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """(name, whole tensor) of every weight, one at a time, with adapters added into it; the tensors
    themselves where nothing is sharded or adapted. All ranks must take all of them."""
    for name, value in merged_state(model).items():
        yield name, whole(value)


@torch.no_grad()
def on_host(named: Iterable[tuple[str, Any]], *, keep: bool) -> dict[str, torch.Tensor]:
    """Whole weights in host memory where `keep`, nothing elsewhere. All ranks must call this.

    A tensor is gathered, copied and let go before the next one, so that beside its shards a device
    holds one whole tensor at a time. Tied weights, which are one parameter, stay one tensor.
    """
    out: dict[str, torch.Tensor] = {}
    first: dict[int, str] = {}  # of each parameter, the first name
    for name, value in named:
        if isinstance(value, torch.nn.Parameter):
            # Not by address: where a rank's share is empty it has none, and ranks would part.
            tied = first.setdefault(id(value), name)
            if tied != name:
                out[name] = out[tied]
                continue
        one = whole(value)
        out[name] = one.detach().cpu() if keep else torch.empty(0)
        del one  # before the next one is gathered
    return out if keep else {}
