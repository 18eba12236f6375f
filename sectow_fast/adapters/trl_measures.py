"""What TRL logs of a loss, under TRL's names, from what the fused loss knows."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from trl.trainer.utils import nanmax, nanmin


def log_measures(
    trainer: Any,
    measured: dict[str, Tensor],
    mask: Tensor,
    advantages: Tensor,
    log_ratio: Tensor,
    logp: Tensor,
    ref: Tensor | None,
) -> None:
    """Write them where TRL logs from. mask, log_ratio, logp, ref: [B, T]; advantages: or [B, 1]."""
    metrics = trainer._metrics["train" if trainer.model.training else "eval"]
    counts = mask.sum(1).clamp(min=1)
    by_sequence = trainer.importance_sampling_level == "sequence"
    if by_sequence:
        log_ratio = ((log_ratio * mask).sum(1) / counts)[:, None]

    def over_all(value: Tensor) -> float:
        own = value.shape[1] == 1
        parts = (value.sum(), len(value)) if own else ((value * mask).sum(), mask.sum())
        sums = torch.stack([torch.as_tensor(p, device=value.device).float() for p in parts])
        total, count = trainer.accelerator.reduce(sums, reduction="sum")
        return (total / count.clamp(min=1.0)).item()

    def by_row(value: Tensor) -> Tensor:
        own = value.shape[1] == 1
        return value[:, 0] if own else (value * mask).sum(1) / mask.sum(1)

    if trainer.beta:
        drift = ref - logp
        kl = drift.exp() - drift - 1
        kl = kl * log_ratio.exp() if trainer.args.use_bias_correction_kl else kl
        metrics["kl"].append(over_all(kl.where(mask, 0.0)))
    # A rank's mean weighs as much as the rank has rows.
    scored = measured["scored"].sum().float()
    sums = torch.stack([measured["entropy"].detach().float() * scored, scored])
    total, rows = trainer.accelerator.reduce(sums, reduction="sum")
    metrics["entropy"].append((total / rows.clamp(min=1.0)).item())
    if trainer.loss_type == "sapo":
        return
    ratio = log_ratio.exp()
    if trainer.loss_type == "cispo":
        over = (ratio > trainer.epsilon_high) & (advantages > 0)
        metrics["cispo_clip_ratio"].append(over_all(over.float()))
        return
    low = ((ratio < 1 - trainer.epsilon_low) & (advantages < 0)).float()
    high = ((ratio > 1 + trainer.epsilon_high) & (advantages > 0)).float()
    metrics["clip_ratio/low_mean"].append(over_all(low))
    metrics["clip_ratio/high_mean"].append(over_all(high))
    metrics["clip_ratio/region_mean"].append(over_all(low + high))
    every = trainer.accelerator.gather
    # The share of a row without a live token is 0 / 0, and TRL leaves such rows out too.
    metrics["clip_ratio/low_min"].append(nanmin(every(by_row(low))).item())
    metrics["clip_ratio/high_max"].append(nanmax(every(by_row(high))).item())
