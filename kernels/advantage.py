"""Group-relative advantages, in plain torch. Forward only: rewards carry no gradient."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor


def group_advantage(
    rewards: Tensor,
    group_ids: Tensor | None = None,
    *,
    group_size: int | None = None,
    baseline: Literal["mean", "loo"] = "mean",
    scale: Literal["std", "none", "batch"] = "std",
    ddof: int = 1,
    eps: float = 1e-4,
) -> tuple[Tensor, Tensor]:
    """(advantages [N], has_signal [N] bool) of rewards [N], grouped by `group_ids` or `group_size`.

    a = (r - b) / (s + eps): b is the group's mean ("mean") or the mean of the others ("loo", 0 for
    a group of one); s the group's std ("std"), the batch's ("batch"), or a is not scaled ("none").
    group_ids: int64 [N], any ids >= 0, groups may be ragged and interleaved.
    has_signal is max != min of the group: a std of float noise is no signal, and such a group's
    advantages are exactly 0. (DeepSeekMath's GRPO; leave-one-out: RLOO; eps as TRL.)

    Raises ValueError for a reward that is not finite, and for sizes that do not fit.
    """
    if rewards.ndim != 1:
        raise ValueError(f"rewards: found shape {tuple(rewards.shape)}, expected [N]")
    if (group_ids is None) == (group_size is None):
        raise ValueError("give exactly one of group_ids and group_size")
    values = rewards.detach().to(torch.promote_types(rewards.dtype, torch.float32))
    bad = ~values.isfinite()
    if bad.any():
        row = int(bad.nonzero()[0])
        raise ValueError(f"rewards[{row}]: found {values[row].item()}, expected a finite number")
    count = len(values)
    if group_size is not None:
        if group_size < 1 or count % group_size:
            raise ValueError(f"group_size: found {group_size}, expected a divisor of {count}")
        ids = torch.arange(count, device=values.device) // group_size
    else:
        if group_ids.shape != values.shape:
            raise ValueError(
                f"group_ids: found shape {tuple(group_ids.shape)}, expected {tuple(values.shape)}"
            )
        ids = torch.unique(group_ids, return_inverse=True)[1]
    if count == 0:
        return values, torch.zeros(0, dtype=torch.bool, device=values.device)

    groups = int(ids.max()) + 1
    size = values.new_zeros(groups).index_add_(0, ids, torch.ones_like(values))
    total = values.new_zeros(groups).index_add_(0, ids, values)
    mean = (total / size)[ids]
    low = values.new_zeros(groups).scatter_reduce(0, ids, values, "amin", include_self=False)
    high = values.new_zeros(groups).scatter_reduce(0, ids, values, "amax", include_self=False)
    signal = (high != low)[ids]
    centred = values - mean
    if scale == "std":
        squares = values.new_zeros(groups).index_add_(0, ids, centred.square())
        spread = (squares / (size - ddof).clamp(min=1)).sqrt()[ids] + eps
    elif scale == "batch":
        overall = (values - values.mean()).square().sum() / max(count - ddof, 1)
        spread = overall.sqrt() + eps
    else:
        spread = 1.0
    if baseline == "loo":
        centred = centred * (size / (size - 1).clamp(min=1))[ids]
    return torch.where(signal, centred / spread, 0.0), signal
