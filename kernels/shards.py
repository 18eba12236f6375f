"""A head whose vocabulary is cut over the ranks of a process group, in rank order."""

from __future__ import annotations

from dataclasses import dataclass

import torch.distributed as dist
from torch import Tensor

from .head_form import HeadForm


@dataclass(frozen=True, kw_only=True)
class Shard:
    """This rank's part: `ranks` parts of equal size, of which it holds the one numbered `rank`."""

    group: dist.ProcessGroup | None
    rank: int
    ranks: int

    def form(self, weight: Tensor, **given) -> HeadForm:
        """`HeadForm` of weight [V / ranks, H]."""
        mine = weight.shape[0]
        return HeadForm(first=self.rank * mine, whole=self.ranks * mine, **given)


ALONE = Shard(group=None, rank=0, ranks=1)


def group_name(group: dist.ProcessGroup | None) -> str | None:
    """What an operator takes in place of the group. ValueError where this process is not of it."""
    if group is None:
        return None
    if not isinstance(group, dist.ProcessGroup):
        raise ValueError(f"group: found {type(group).__name__}, expected a ProcessGroup or None")
    if dist.get_rank(group) < 0:
        raise ValueError("group: found a process group without this rank, expected one with it")
    return group.group_name


def shard_named(name: str | None) -> Shard:
    if name is None:
        return ALONE
    group = dist.distributed_c10d._resolve_process_group(name)
    return Shard(group=group, rank=dist.get_rank(group), ranks=dist.get_world_size(group))
