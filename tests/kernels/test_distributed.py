"""The operators where trainers use them: under DDP, autocast and FSDP2's sharded head."""

from __future__ import annotations

import os
import socket

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from sectow_fast.kernels import linear_policy_loss

N, H, V = 12, 8, 30


class Model(torch.nn.Module):
    """A body and a head; the forward is the loss, as DDP wants it."""

    def __init__(self) -> None:
        super().__init__()
        self.body = torch.nn.Linear(H, H)
        self.head = torch.nn.Linear(H, V, bias=False)

    def forward(self, states, labels, advantages, mask, normalizer):
        return linear_policy_loss(
            self.body(states),
            self.head.weight,
            labels,
            advantages,
            mask=mask,
            normalizer=normalizer,
        )[0]


def scene() -> tuple[Model, tuple[torch.Tensor, ...]]:
    torch.manual_seed(0)
    model = Model()
    states, advantages = torch.randn(N, H), torch.randn(N)
    mask = torch.zeros(N, dtype=torch.bool)
    mask[: N // 2 - 1] = True  # the second half, rank 1's share, has no live row
    return model, (states, torch.randint(0, V, (N,)), advantages, mask)


def work(rank: int, port: int, out: str) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    dist.init_process_group("gloo", rank=rank, world_size=2)
    model, batch = scene()
    parallel = torch.nn.parallel.DistributedDataParallel(model)
    half = slice(rank * N // 2, (rank + 1) * N // 2)
    # DDP averages over ranks, so the global count is divided by their number.
    loss = parallel(*(one[half] for one in batch), batch[3].sum() / 2)
    loss.backward()
    torch.save({n: p.grad for n, p in model.named_parameters()}, f"{out}/{rank}.pt")
    dist.destroy_process_group()


def test_two_ranks_under_ddp_make_the_gradients_of_one(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(work, (port, str(tmp_path)), nprocs=2)
    model, batch = scene()
    model(*batch, None).backward()
    for rank in (0, 1):
        found = torch.load(tmp_path / f"{rank}.pt")
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(found[name], parameter.grad)


def test_autocast_casts_the_head_as_a_product_would():
    model, batch = scene()
    model(*batch, None).backward()
    wanted = model.head.weight.grad.clone()
    model.zero_grad()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = model(*batch, None)
    loss.backward()
    assert loss.dtype == torch.float32 and model.head.weight.grad.dtype == torch.float32
    torch.testing.assert_close(model.head.weight.grad, wanted, rtol=0.1, atol=0.02)


def test_a_sharded_head_is_refused_by_name(tmp_path):
    from torch.distributed.tensor import Shard, distribute_tensor, init_device_mesh

    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        model, (states, labels, advantages, _) = scene()
        mesh = init_device_mesh("cpu", (1,))
        weight = distribute_tensor(model.head.weight.detach(), mesh, [Shard(0)])
        with pytest.raises(ValueError, match="weight"):
            linear_policy_loss(states, weight, labels, advantages)
    finally:
        dist.destroy_process_group()
