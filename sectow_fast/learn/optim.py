"""The optimizer with its moments, and learning rates, which depend on the step alone."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch


def make_optimizer(
    model: torch.nn.Module, lr: float, *, betas: tuple[float, float], weight_decay: float
) -> torch.optim.AdamW:
    """AdamW over the trainable parameters, one fused kernel per step."""
    trainable = [p for p in model.parameters() if p.requires_grad]
    return torch.optim.AdamW(trainable, lr=lr, betas=betas, weight_decay=weight_decay, fused=True)


def moments_of(optimizer: torch.optim.Optimizer, model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """AdamW's state by parameter name: `NAME/exp_avg`, `NAME/exp_avg_sq`, `NAME/step`."""
    return {
        f"{name}/{key}": value
        for name, parameter in model.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
    }


def put_moments(
    optimizer: torch.optim.Optimizer, model: torch.nn.Module, moments: Mapping[str, torch.Tensor]
) -> None:
    """`moments_of` an earlier optimizer of this model into a new one, where the parameters are."""
    parameters = dict(model.named_parameters())
    for path, value in moments.items():
        name, key = path.rsplit("/", 1)
        parameter = parameters[name]
        optimizer.state[parameter][key] = value.to(parameter.device)


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = lr


def lr_at(step: int, steps: int, lr: float, warmup: int, decay_from: float) -> float:
    """RL: linear warm-up, constant, then linear down to a tenth from `decay_from` of the phase.

    >>> round(lr_at(0, 100, 1.0, 10, 0.6), 3), lr_at(30, 100, 1.0, 10, 0.6)
    (0.1, 1.0)
    """
    rate = min(1.0, (step + 1) / warmup) if warmup else 1.0
    knee = steps * decay_from
    if step >= knee and steps > knee:
        rate *= max(0.1, (steps - step) / (steps - knee))
    return lr * rate


def cosine_lr_at(step: int, steps: int, lr: float, warmup: int = 40, floor: float = 0.03) -> float:
    """SFT: linear warm-up over `warmup` steps, or a quarter of a short phase; constant to its half;
    then a cosine down to `floor`.

    >>> cosine_lr_at(2, 12, 1.0), cosine_lr_at(9, 160, 1.0)
    (1.0, 0.25)
    """
    rate = min(1.0, (step + 1) / max(1, min(warmup, steps // 4)))
    x = step / max(steps, 1)
    if x >= 0.5:
        rate *= floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * (x - 0.5) / 0.5))
    return lr * rate
