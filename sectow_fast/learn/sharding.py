"""FSDP2: each rank holds a share of the weights, and all gather them for every forward."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from sectow_fast.learn.policy import Policy
from sectow_fast.types import UserError


def shard(policy: Policy) -> None:
    """Shard the policy over all ranks, layer by layer, in place.

    Each decoder layer is gathered for its own forward and backward; embeddings, vision tower, norm
    and head are one unit, gathered once for the whole of `Policy.forward`, so that the head is a
    plain tensor to the loss. Gradients are summed, not averaged: the loss is divided by the token
    count of all ranks already.
    """
    import torch.distributed as dist
    from torch.distributed.fsdp import fully_shard

    model = policy.model
    if any("lora_" in name for name, _ in model.named_parameters()):
        raise UserError(
            "learn.lora_rank on several ranks: found adapters, expected none; train all weights,"
            " or use one rank"
        )
    kind = "cuda" if policy.device.type == "cuda" else "cpu"
    mesh = dist.device_mesh.init_device_mesh(kind, (dist.get_world_size(),))
    units = [*model.get_decoder().layers, policy]
    for unit in units:
        fully_shard(unit, mesh=mesh)
        unit.set_gradient_divide_factor(1.0)
        unit.set_force_sum_reduction_for_comms(True)  # gloo has no scaled sum


@torch.no_grad()
def whole_weights(model: Any) -> dict[str, torch.Tensor]:
    """Every weight whole, on every rank; the tensors themselves where nothing is sharded."""
    return {
        name: value.full_tensor() if hasattr(value, "full_tensor") else value
        for name, value in model.state_dict().items()
    }


@torch.no_grad()
def on_host(named: Iterable[tuple[str, torch.Tensor]], *, keep: bool) -> dict[str, torch.Tensor]:
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
        whole = value.full_tensor() if hasattr(value, "full_tensor") else value
        out[name] = whole.detach().cpu() if keep else torch.empty(0)
        del whole  # before the next one is gathered
    return out if keep else {}
