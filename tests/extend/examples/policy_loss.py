"""A policy loss of one's own: the ratio is clipped softly, by a tanh.

    loss = -softness tanh((r - 1) / softness) A

Near r = 1 it is the plain policy gradient. Far from 1 the gradient fades out and never jumps.

    python -m sectow_fast.train --plugins policy_loss.py \\
        --attack.loss.ratio soft_clip --attack.loss.softness 0.5
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sectow_fast.kernels import PolicyLoss, TokenLoss, TritonForm, register_policy_loss

if TYPE_CHECKING:
    import triton.language as tl


def soft_clip(logp: Tensor, advantages: Tensor, ratio: Tensor, softness: float) -> TokenLoss:
    """The loss and its derivative by log-ratio, which is ratio times the one by ratio."""
    squashed = torch.tanh((ratio - 1) / softness)
    d_log_ratio = -(1 - squashed.square()) * ratio * advantages
    return TokenLoss(-softness * squashed * advantages, d_log_ratio, torch.zeros_like(logp))


@TritonForm
def tanh(x):
    return 2.0 * tl.sigmoid(2.0 * x) - 1.0


@TritonForm
def soft_clip_triton(logp, advantages, ratio, softness):
    """The same for a GPU: a tuple in the order of TokenLoss."""
    squashed = tanh((ratio - 1.0) / softness)
    d_log_ratio = -(1.0 - squashed * squashed) * ratio * advantages
    return -softness * squashed * advantages, d_log_ratio, tl.zeros_like(d_log_ratio)


def soft_clip_oracle(logp: Tensor, advantages: Tensor, ratio: Tensor, softness: float) -> Tensor:
    """The loss alone: tests take its gradient by autograd."""
    return -softness * torch.tanh((ratio - 1) / softness) * advantages


register_policy_loss(
    PolicyLoss(
        name="soft_clip",
        torch=soft_clip,
        triton=soft_clip_triton,
        oracle=soft_clip_oracle,
        numbers={"softness": 0.3},
    )
)
