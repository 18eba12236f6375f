"""A KL estimate of one's own: k2 near 0 and linear beyond a width, so that no token dominates.

With d = ref_logp - logp: d^2 / 2 where |d| <= w, and w (|d| - w / 2) elsewhere.

    python -m sectow_fast.train --plugins kl_estimate.py \\
        --attack.loss.kl huber --attack.loss.huber_width 0.5
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sectow_fast.kernels import KLEstimate, TokenKL, TritonForm, register_kl_estimate

if TYPE_CHECKING:
    import triton.language as tl


def huber(ref_log_ratio: Tensor, huber_width: float) -> TokenKL:
    """The estimate and its derivative by logp (not by ref_log_ratio: the sign differs)."""
    inside = ref_log_ratio.clamp(-huber_width, huber_width)
    return TokenKL(inside * (ref_log_ratio - inside / 2), -inside)


@TritonForm
def huber_triton(ref_log_ratio, huber_width):
    """The same for a GPU: a tuple in the order of TokenKL."""
    inside = tl.where(ref_log_ratio > huber_width, huber_width, ref_log_ratio)
    inside = tl.where(inside < -huber_width, -huber_width, inside)
    return inside * (ref_log_ratio - inside / 2.0), -inside


def huber_oracle(ref_log_ratio: Tensor, huber_width: float) -> Tensor:
    """The estimate alone: tests take its gradient by autograd."""
    size = ref_log_ratio.abs()
    near, far = ref_log_ratio.square() / 2, huber_width * (size - huber_width / 2)
    return torch.where(size <= huber_width, near, far)


register_kl_estimate(
    KLEstimate(
        name="huber",
        torch=huber,
        triton=huber_triton,
        oracle=huber_oracle,
        numbers={"huber_width": 1.0},
    )
)
