"""One process or many: what the ranks of a run tell each other. One alone sends nothing."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """This process's number among `world`. More than one need torch.distributed to be up.

    >>> ALONE.summed({"loss": 2.0}), ALONE.gathered("mine")
    ({'loss': 2.0}, ['mine'])
    """

    rank: int = 0
    world: int = 1

    @property
    def first(self) -> bool:
        """Whether this one writes the run folder and the console."""
        return self.rank == 0

    def barrier(self) -> None:
        """Wait for all."""
        if self.world > 1:
            import torch.distributed as dist

            dist.barrier()

    def summed(self, values: Mapping[str, float]) -> dict[str, float]:
        """Sums over ranks, key by key."""
        return self._reduced(values, "SUM")

    def largest(self, value: float) -> float:
        return self._reduced({"value": value}, "MAX")["value"]

    def _reduced(self, values: Mapping[str, float], how: str) -> dict[str, float]:
        if self.world == 1:
            return dict(values)
        import torch.distributed as dist

        device = "cuda" if dist.get_backend() == "nccl" else "cpu"
        tensor = torch.tensor(list(values.values()), dtype=torch.float64, device=device)
        dist.all_reduce(tensor, getattr(dist.ReduceOp, how))
        return dict(zip(values, tensor.tolist(), strict=True))

    def gathered(self, mine: Any) -> list[Any]:
        """Every rank's object, in order of rank, on every rank."""
        if self.world == 1:
            return [mine]
        import torch.distributed as dist

        out: list[Any] = [None] * self.world
        dist.all_gather_object(out, mine)
        return out

    def grad_norm(self, model: torch.nn.Module, bound: float) -> float:
        """Clip the gradients of the whole model to `bound`, and return their norm before it."""
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), bound)
        return float(norm.full_tensor() if hasattr(norm, "full_tensor") else norm)


ALONE = Ranks()


@contextlib.contextmanager
def joined() -> Iterator[Ranks]:
    """The ranks that torchrun started, connected inside the block; `ALONE` without torchrun."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        yield ALONE
        return
    import torch.distributed as dist

    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if cuda else "gloo")
    try:
        yield Ranks(rank=dist.get_rank(), world=world)
    finally:
        dist.destroy_process_group()
