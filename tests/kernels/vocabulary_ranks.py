"""One rank of tests/kernels/test_vocabulary_ranks.py: every function on this rank's shard."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist

sys.path.insert(0, str(Path(__file__).parent))
from kernel_cases import head_case, in_dtype

from sectow_fast.kernels import PolicyLossConfig, linear_logprob, linear_policy_loss

CONFIGS = {
    "clip": {},
    "full": {"kl_coef": 0.3, "entropy_coef": 0.2, "tis_cap": 1.5},
    "sequence": {"ratio": "sequence", "reduction": "seq-mean", "entropy_coef": 0.1},
    "none": {"reduction": "none", "kl_coef": 0.1},
}
OPTIONS = {
    "plain": {},
    "all": {"softcap": 3.0, "logit_scale": 0.7, "chunk": 5},
}


def case_of(options: str) -> dict[str, torch.Tensor]:
    """Logits far apart by shard, so that a maximum of one shard alone overflows; odd N, V = 100."""
    case = head_case()
    case["bias"][:50] += 200.0 if options == "plain" else 1.0
    case["bias"][3] = -torch.inf
    return in_dtype(case, torch.float32)


def play(rank: int, ranks: int, group: dist.ProcessGroup | None) -> dict[str, list[torch.Tensor]]:
    """Results and gradients of this rank's shard by (configuration, options)."""
    found = {}
    for options, given in OPTIONS.items():
        given = dict(given, group=group)
        if options == "all":
            given["temperature"] = torch.linspace(0.5, 2.0, 17)
        for name, config in {**CONFIGS, "logprob": None, "frozen": None}.items():
            case = case_of(options)
            mine = slice(rank * 100 // ranks, (rank + 1) * 100 // ranks)
            for part in ("weight", "bias"):
                trained = name != "frozen"
                case[part] = case[part].detach()[mine].clone().requires_grad_(trained)
            if config is None:
                head = {k: case[k] for k in ("hidden", "weight", "labels", "bias")}
                mode = "frozen" if name == "frozen" else "recompute"
                results = linear_logprob(**head, mode=mode, **given)
                up = torch.linspace(-1, 2, 34).view(2, 17)
                (torch.stack(results) * up).sum().backward()
            else:
                loss, metrics = linear_policy_loss(
                    **case, config=PolicyLossConfig(**config), **given
                )
                (loss * torch.linspace(1, 2, loss.numel()).view(loss.shape)).sum().backward()
                results = loss, metrics["logp"], metrics["entropy"]
            grads = [case[k].grad for k in ("hidden", "weight", "bias")]
            found[f"{name} {options}"] = [one.detach() for one in results] + grads
    return found


def refusals(rank: int, group: dist.ProcessGroup) -> list[str]:
    """What is said of shards of two sizes, and of a label outside of all shards."""
    said = []
    case = in_dtype(head_case(), torch.float32)
    label = torch.zeros(17, dtype=torch.int64)
    for rows, labels in ((10 + rank, label), (10, label + 10 * dist.get_world_size(group))):
        try:
            linear_logprob(case["hidden"], case["weight"][:rows], labels, group=group)
        except ValueError as error:
            said.append(str(error))
    return said


def work(rank: int, ranks: int, folder: str) -> None:
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=ranks
    )
    pairs = [dist.new_group([2 * i, 2 * i + 1]) for i in range(ranks // 2)]
    group = pairs[rank // 2]
    told = {
        2: play(rank % 2, 2, group),
        4: play(rank, 4, dist.group.WORLD),
        "refusals": refusals(rank % 2, group),
    }
    try:
        linear_logprob(
            torch.ones(1, 1), torch.ones(1, 1), torch.zeros(1).long(), group=pairs[1 - rank // 2]
        )
    except ValueError as error:
        told["refusals"].append(str(error))
    torch.save(told, f"{folder}/{rank}.pt")
    dist.destroy_process_group()
