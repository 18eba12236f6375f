"""SAPO (arXiv 2511.20347): a soft gate in place of the clip.

loss = -(4 / tau) sigmoid(tau (r - 1)) A, with tau = sapo_pos where A > 0 and sapo_neg elsewhere
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .loss_forms import PolicyLoss, TokenLoss
from .triton_form import TritonForm

if TYPE_CHECKING:
    import triton.language as tl


def _gates(advantages: Tensor, sapo_pos: float, sapo_neg: float) -> Tensor:
    """tau [N] in the dtype of the advantages; `torch.where` of two floats would be float32."""
    return torch.full_like(advantages, sapo_neg).masked_fill(advantages > 0, sapo_pos)


def sapo_loss(
    logp: Tensor, advantages: Tensor, ratio: Tensor, sapo_pos: float, sapo_neg: float
) -> TokenLoss:
    tau = _gates(advantages, sapo_pos, sapo_neg)
    x = tau * (ratio - 1)
    loss = -(4 / tau) * x.sigmoid() * advantages
    # The sigmoid's derivative as a product of two sigmoids: 1 - sigmoid would cancel far out.
    d_gate = 4 * x.sigmoid() * (-x).sigmoid()
    return TokenLoss(loss, -d_gate * ratio * advantages, torch.zeros_like(logp))


def sapo_oracle(
    logp: Tensor, advantages: Tensor, ratio: Tensor, sapo_pos: float, sapo_neg: float
) -> Tensor:
    tau = _gates(advantages, sapo_pos, sapo_neg)
    return -torch.sigmoid(tau * (ratio - 1)) * 4 / tau * advantages


@TritonForm
def sapo_triton(logp, advantages, ratio, sapo_pos, sapo_neg):
    tau = tl.where(advantages > 0.0, sapo_pos, sapo_neg)
    x = tau * (ratio - 1.0)
    loss = -(4.0 / tau) * tl.sigmoid(x) * advantages
    d_gate = 4.0 * tl.sigmoid(x) * tl.sigmoid(-x)
    d_log_ratio = -d_gate * ratio * advantages
    return loss, d_log_ratio, tl.zeros_like(d_log_ratio)


SAPO = PolicyLoss(
    name="sapo",
    torch=sapo_loss,
    oracle=sapo_oracle,
    triton=sapo_triton,
    numbers={"sapo_pos": 1.0, "sapo_neg": 1.05},
)
