"""Group-relative advantages. Forward only: rewards carry no gradient.

    a = (r - b) / (s + eps)

b the mean of the group or of the others in it, s the group's or the batch's std; a group whose
rewards are all equal (max == min) has no signal, and a of exactly 0.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from . import checks
from .dispatch import use_triton, wide
from .loss_weights import sequence_index, sum_by

BASELINES = ("mean", "loo")
SCALES = ("std", "none", "batch")


def group_advantage_oracle(
    values: Tensor, index: Tensor, *, baseline: str, scale: str, ddof: int, eps: float
) -> tuple[Tensor, Tensor]:
    """What the operator means; index [N] in 0..N-1. On a CPU it is also what runs."""
    size = sum_by(torch.ones_like(values), index)
    low = torch.zeros_like(values).scatter_reduce_(0, index, values, "amin", include_self=False)
    high = torch.zeros_like(values).scatter_reduce_(0, index, values, "amax", include_self=False)
    mean = (sum_by(values, index) / size)[index]
    broken = ~mean.isfinite()  # a reward that is not finite spoils its group
    signal = (high != low)[index] | broken
    centred = values - mean
    if scale == "std":
        squares = sum_by(centred.square(), index)
        std = (squares / (size - ddof).clamp(min=1)).sqrt()[index] + eps
    elif scale == "batch":
        std = std_of(values, ddof) + eps
    else:
        std = 1.0
    if baseline == "loo":
        centred = centred * (size / (size - 1).clamp(min=1))[index]
    return torch.where(signal, centred / std, 0.0).masked_fill(broken, torch.nan), signal


def std_of(values: Tensor, ddof: int) -> Tensor:
    return ((values - values.mean()).square().sum() / max(len(values) - ddof, 1)).sqrt()


@torch.library.custom_op("sectow::group_advantage", mutates_args=())
def group_advantage_op(
    rewards: Tensor,
    group_ids: Tensor | None,
    group_size: int,
    baseline: str,
    scale: str,
    ddof: int,
    eps: float,
) -> tuple[Tensor, Tensor]:
    values = rewards.to(wide(rewards.dtype), copy=True)
    if not values.is_cuda:
        _check_finite(values, group_ids)
    if len(values) == 0:
        return values, torch.zeros_like(values, dtype=torch.bool)
    if use_triton(values):
        from .advantage_triton import group_advantage_triton

        overall = std_of(values, ddof) if scale == "batch" else values
        return group_advantage_triton(
            values,
            group_ids,
            group_size=group_size,
            baseline=baseline,
            scale=scale,
            ddof=ddof,
            eps=eps,
            batch_std=overall,
        )
    if group_ids is None:
        index = torch.arange(len(values), device=values.device) // group_size
    else:
        index = sequence_index(group_ids)
    return group_advantage_oracle(values, index, baseline=baseline, scale=scale, ddof=ddof, eps=eps)


def _check_finite(values: Tensor, group_ids: Tensor | None) -> None:
    bad = ~values.isfinite()
    if bad.any():
        row = int(bad.nonzero()[0])
        raise ValueError(f"rewards[{row}]: found {values[row].item()}, expected a finite number")
    if group_ids is not None and (group_ids < 0).any():
        row = int((group_ids < 0).nonzero()[0])
        raise ValueError(f"group_ids[{row}]: found {int(group_ids[row])}, expected >= 0")


@group_advantage_op.register_fake
def _(rewards, group_ids, group_size, baseline, scale, ddof, eps):
    values = rewards.new_empty(rewards.shape, dtype=wide(rewards.dtype))
    return values, torch.empty_like(values, dtype=torch.bool)


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

    Raises ValueError for sizes that do not fit and, on a CPU, for a reward that is not finite. On
    CUDA, where looking would wait for the device, such a reward makes its whole group NaN.
    """
    if not isinstance(rewards, Tensor) or rewards.ndim != 1:
        found = f"shape {tuple(rewards.shape)}" if isinstance(rewards, Tensor) else type(rewards)
        raise ValueError(f"rewards: found {found}, expected [N]")
    count, device = len(rewards), rewards.device
    checks.check_rows("rewards", rewards, count, device)
    checks.check_rows("group_ids", group_ids, count, device, kind="int")
    if (group_ids is None) == (group_size is None):
        given = "neither" if group_ids is None else "both"
        raise ValueError(f"group_ids, group_size: found {given}, expected exactly one of them")
    if group_size is not None and (group_size < 1 or count % group_size):
        raise ValueError(f"group_size: found {group_size}, expected a divisor of {count}")
    checks.check_choice("baseline", baseline, BASELINES)
    checks.check_choice("scale", scale, SCALES)
    if ddof not in (0, 1):
        raise ValueError(f"ddof: found {ddof}, expected 0 or 1")
    if not 0 <= eps < float("inf"):
        raise ValueError(f"eps: found {eps}, expected a finite number >= 0")
    return group_advantage_op(
        rewards=rewards,
        group_ids=group_ids,
        group_size=group_size or 0,
        baseline=baseline,
        scale=scale,
        ddof=ddof,
        eps=float(eps),
    )
