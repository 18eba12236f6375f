"""One process or many: what the ranks of a run tell each other. One alone sends nothing."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from sectow_fast.learn.leaving import GRACE, Lines
from sectow_fast.types import UserError

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """This process's number among `world`. More than one need torch.distributed to be up.

    aside: a group of the same ranks for a thread that works beside the training, so that its
    messages do not get among those of the main thread; None where there is one rank.

    >>> ALONE.summed({"loss": 2.0}), ALONE.gathered("mine"), ALONE.told(lambda: "this")
    ({'loss': 2.0}, ['mine'], 'this')
    """

    rank: int = 0
    world: int = 1
    aside: ProcessGroup | None = None

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

        tensor = torch.tensor(list(values.values()), dtype=torch.float64)
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

    def told(self, make: Callable[[], T]) -> T:
        """What the first rank makes, on every rank. The others do not call `make`.

        For everything that a plan depends on and that may differ by process: what an endpoint
        answers, what a clock, a folder or a plugin says.
        """
        if self.world == 1:
            return make()
        import torch.distributed as dist

        out = [make() if self.first else None]
        dist.broadcast_object_list(out, src=0)
        return out[0]  # type: ignore[return-value]

    def agree(self, what: str, mine: object) -> None:
        """UserError on every rank where one has another `mine`: ranks that went on would wait for
        each other in vain."""
        found = self.gathered(mine) if self.world > 1 else []
        odd = [rank for rank, theirs in enumerate(found) if theirs != found[0]]
        if odd:
            raise UserError(
                f"{what}: found another one on rank {odd[0]} than on the first"
                f" ({_apart(found[0], found[odd[0]])}), expected the same on all; look whether all"
                " machines have the same data, models and plugins, and whether a plugin answers by"
                " chance"
            )

    def grad_norm(self, model: torch.nn.Module, bound: float) -> float:
        """Clip the gradients of the whole model to `bound`, and return their norm before it."""
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), bound)
        return float(norm.full_tensor() if hasattr(norm, "full_tensor") else norm)


def _apart(first: object, other: object) -> str:
    """Where a rank's value parts from the first rank's: the first place of two lists, or both."""
    if isinstance(first, list | tuple) and isinstance(other, list | tuple):
        for place, (one, another) in enumerate(zip(first, other, strict=False)):
            if one != another:
                return f"place {place}: {_apart(one, another)}"
        return f"{len(other)} of them there, {len(first)} on the first"
    return f"{other!r} there, {first!r} on the first"


ALONE = Ranks()


@contextlib.contextmanager
def joined(*, timeout: float, grace: float = GRACE) -> Iterator[Ranks]:
    """The ranks that torchrun started, connected inside the block; `ALONE` without torchrun.

    timeout: seconds that ranks wait for one that is alive but does not come. Where a rank fails or
    dies inside the block, all end within `grace` seconds and a little: RankLeft has the exit code.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        yield ALONE
        return
    import torch.distributed as dist

    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    wait = timedelta(seconds=timeout)
    # Objects and numbers go by gloo, so that waiting for an engine or a judge blocks no GPU.
    dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo", timeout=wait)
    aside = dist.new_group(backend="gloo", timeout=wait)
    ranks = Ranks(rank=dist.get_rank(), world=world, aside=aside)
    lines = Lines(ranks, grace=grace)
    try:
        yield ranks
    except BaseException as error:
        # The group is not destroyed: that would wait for ranks that may be gone.
        raise lines.fail(error) from None
    lines.close()
    dist.destroy_process_group()
