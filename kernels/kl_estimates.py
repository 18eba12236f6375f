"""Schulman's estimates of KL(policy || reference) from one sampled token.

With d = ref_logp - logp: k1 = -d, k2 = d^2 / 2, k3 = exp(d) - 1 - d.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .loss_forms import KLEstimate, TokenKL
from .triton_form import TritonForm

if TYPE_CHECKING:
    import triton.language as tl


def k1(ref_log_ratio: Tensor) -> TokenKL:
    return TokenKL(-ref_log_ratio, torch.ones_like(ref_log_ratio))


def k1_oracle(ref_log_ratio: Tensor) -> Tensor:
    return -ref_log_ratio


@TritonForm
def k1_triton(ref_log_ratio):
    return -ref_log_ratio, tl.zeros_like(ref_log_ratio) + 1.0


def k2(ref_log_ratio: Tensor) -> TokenKL:
    return TokenKL(ref_log_ratio.square() / 2, -ref_log_ratio)


def k2_oracle(ref_log_ratio: Tensor) -> Tensor:
    return ref_log_ratio.square() / 2


@TritonForm
def k2_triton(ref_log_ratio):
    return ref_log_ratio * ref_log_ratio * 0.5, -ref_log_ratio


def k3(ref_log_ratio: Tensor) -> TokenKL:
    return TokenKL(ref_log_ratio.expm1() - ref_log_ratio, -ref_log_ratio.expm1())


def k3_oracle(ref_log_ratio: Tensor) -> Tensor:
    return ref_log_ratio.exp() - ref_log_ratio - 1


@TritonForm
def k3_triton(ref_log_ratio):
    d = ref_log_ratio
    # exp(d) - 1 and exp(d) - 1 - d cancel near 0. Their series stand in for them there, because
    # expm1 would need libdevice.
    expm1_series = d * (1.0 + d * (0.5 + d * (1.0 / 6.0 + d / 24.0)))
    expm1 = tl.where(tl.abs(d) < 0.05, expm1_series, tl.exp(d) - 1.0)
    kl_series = d * d * (0.5 + d * (1.0 / 6.0 + d * (1.0 / 24.0 + d / 120.0)))
    return tl.where(tl.abs(d) < 0.05, kl_series, expm1 - d), -expm1


K1 = KLEstimate(name="k1", torch=k1, oracle=k1_oracle, triton=k1_triton)
K2 = KLEstimate(name="k2", torch=k2, oracle=k2_oracle, triton=k2_triton)
K3 = KLEstimate(name="k3", torch=k3, oracle=k3_oracle, triton=k3_triton)
