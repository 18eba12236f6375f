"""The clipped loss of PPO and GRPO, with a range that is not symmetric (DAPO).

    loss = -min(r A, clip(r, 1 - clip_low, 1 + clip_high) A)

With a dual clip the loss is at most -dual_clip A where A < 0 (arXiv 1912.09729); 0 is "no dual
clip". "token" takes each token's ratio, "sequence" the geometric mean over the sequence (GSPO).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .loss_forms import PolicyLoss, TokenLoss
from .triton_form import TritonForm

if TYPE_CHECKING:
    import triton.language as tl


def clip_loss(
    logp: Tensor,
    advantages: Tensor,
    ratio: Tensor,
    clip_low: float,
    clip_high: float,
    dual_clip: float,
) -> TokenLoss:
    """Of two equal terms the one with the gradient counts, so it passes at the range's edge."""
    clipped = ratio.clamp(1 - clip_low, 1 + clip_high)
    free = ratio * advantages <= clipped * advantages
    loss = -torch.where(free, ratio * advantages, clipped * advantages)
    d_log_ratio = torch.where(free, -ratio * advantages, 0.0)
    if dual_clip:
        ceiling = -dual_clip * advantages
        over = (advantages < 0) & (loss > ceiling)
        loss = torch.where(over, ceiling, loss)
        d_log_ratio = d_log_ratio.masked_fill(over, 0.0)
    return TokenLoss(loss, d_log_ratio, torch.zeros_like(logp))


def clip_oracle(
    logp: Tensor,
    advantages: Tensor,
    ratio: Tensor,
    clip_low: float,
    clip_high: float,
    dual_clip: float,
) -> Tensor:
    clipped = ratio.clamp(1 - clip_low, 1 + clip_high)
    loss = -torch.where(
        ratio * advantages <= clipped * advantages, ratio * advantages, clipped * advantages
    )
    if dual_clip:
        ceiling = -dual_clip * advantages
        loss = torch.where((advantages < 0) & (loss > ceiling), ceiling, loss)
    return loss


@TritonForm
def bounded(x, low, high):
    """A clamp that keeps NaN, which tl.minimum and tl.maximum drop."""
    return tl.where(x < low, low, tl.where(x > high, high, x))


@TritonForm
def clip_triton(logp, advantages, ratio, clip_low, clip_high, dual_clip):
    clipped = bounded(ratio, 1.0 - clip_low, 1.0 + clip_high)
    free = ratio * advantages <= clipped * advantages
    loss = -tl.where(free, ratio * advantages, clipped * advantages)
    d_log_ratio = tl.where(free, -ratio * advantages, 0.0)
    ceiling = -dual_clip * advantages
    over = (dual_clip > 0.0) & (advantages < 0.0) & (loss > ceiling)
    loss = tl.where(over, ceiling, loss)
    d_log_ratio = tl.where(over, 0.0, d_log_ratio)
    return loss, d_log_ratio, tl.zeros_like(d_log_ratio)


NUMBERS = {"clip_low": 0.2, "clip_high": 0.28, "dual_clip": 0.0}
TOKEN = PolicyLoss(
    name="token", torch=clip_loss, oracle=clip_oracle, triton=clip_triton, numbers=NUMBERS
)
SEQUENCE = PolicyLoss(
    name="sequence",
    torch=clip_loss,
    oracle=clip_oracle,
    triton=clip_triton,
    numbers=NUMBERS,
    over="sequence",
)
