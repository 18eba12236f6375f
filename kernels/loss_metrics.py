"""What a loss measures beside itself: one vector on the device, so that nothing waits."""

from __future__ import annotations

import torch
from torch import Tensor

from .loss_config import PolicyLossConfig

METRICS = ("ratio_mean", "ratio_max", "ratio_min", "clip_low", "clip_high", "kl", "entropy", "live")


def loss_metrics(
    *,
    ratio: Tensor,
    kl: Tensor,
    advantages: Tensor,
    entropy: Tensor | None,
    live: Tensor,
    count: Tensor,
    config: PolicyLossConfig,
) -> Tensor:
    """METRICS as a vector. Clip shares are over `count` tokens, means are over `live` ones."""
    size = live.sum().clamp(min=1)
    low = (ratio < 1 - config.clip_low) & (advantages < 0) & live
    high = (ratio > 1 + config.clip_high) & (advantages > 0) & live
    one = torch.ones(1, dtype=ratio.dtype, device=ratio.device)
    none = live.any().logical_not()
    # With one more element there is a largest and a smallest one in an empty batch too.
    largest = torch.cat([ratio.masked_fill(~live, -torch.inf), -torch.inf * one]).amax()
    smallest = torch.cat([ratio.masked_fill(~live, torch.inf), torch.inf * one]).amin()
    values = {
        "ratio_mean": ratio.where(live, 0.0).sum() / size,
        "ratio_max": largest.masked_fill(none, 1),
        "ratio_min": smallest.masked_fill(none, 1),
        "clip_low": low.sum() / count.clamp(min=1),
        "clip_high": high.sum() / count.clamp(min=1),
        "kl": kl.where(live, 0.0).sum() / size,
        "entropy": one[0] * 0 if entropy is None else entropy.where(live, 0.0).sum() / size,
        "live": count,
    }
    return torch.stack([values[name].to(ratio.dtype) for name in METRICS])


def named(metrics: Tensor) -> dict[str, Tensor]:
    return dict(zip(METRICS, metrics.detach().unbind(), strict=True))
