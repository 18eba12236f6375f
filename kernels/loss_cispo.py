"""CISPO (arXiv 2506.13585): the clipped ratio is a constant weight of the log-prob.

loss = -stop_gradient(clip(r, 1 - clip_low, 1 + clip_high)) A logp
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .loss_clip import bounded
from .loss_forms import PolicyLoss, TokenLoss
from .triton_form import TritonForm

if TYPE_CHECKING:
    import triton.language as tl


def cispo_loss(
    logp: Tensor, advantages: Tensor, ratio: Tensor, clip_low: float, clip_high: float
) -> TokenLoss:
    clipped = ratio.clamp(1 - clip_low, 1 + clip_high)
    return TokenLoss(-clipped * advantages * logp, torch.zeros_like(logp), -clipped * advantages)


def cispo_oracle(
    logp: Tensor, advantages: Tensor, ratio: Tensor, clip_low: float, clip_high: float
) -> Tensor:
    clipped = ratio.clamp(1 - clip_low, 1 + clip_high)
    return -(clipped.detach() * advantages * logp)


@TritonForm
def cispo_triton(logp, advantages, ratio, clip_low, clip_high):
    clipped = bounded(ratio, 1.0 - clip_low, 1.0 + clip_high)
    d_logp = -clipped * advantages
    return d_logp * logp, tl.zeros_like(d_logp), d_logp


CISPO = PolicyLoss(
    name="cispo",
    torch=cispo_loss,
    oracle=cispo_oracle,
    triton=cispo_triton,
    numbers={"clip_low": 0.2, "clip_high": 0.28},
)
