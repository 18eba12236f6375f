"""Every row kernel once, forward and backward, at a size that compute-sanitizer can bear."""

from __future__ import annotations

import sys

import torch

from sectow_fast.kernels import (
    group_advantage,
    linear_logprob,
    linear_policy_loss,
    policy_loss,
    selective_logprob,
)

ROWS, HIDDEN, VOCABULARIES = 33, 64, (1000, 1003)  # aligned rows and others


def main(device: str) -> None:
    for vocabulary in VOCABULARIES:
        weight = torch.randn(vocabulary, HIDDEN, device=device, requires_grad=True)
        hidden = torch.randn(ROWS, HIDDEN, device=device, requires_grad=True)
        labels = torch.randint(0, vocabulary, (ROWS,), device=device)
        advantages, _ = group_advantage(torch.rand(ROWS, device=device), labels.new_zeros(ROWS))
        linear_policy_loss(hidden, weight, labels, advantages)[0].backward()
        logp, entropy = linear_logprob(hidden, weight, labels)
        (policy_loss(logp, advantages)[0] + entropy.sum()).backward()
        logits = torch.randn(ROWS, vocabulary, device=device, requires_grad=True)
        selective_logprob(logits, labels)[0].sum().backward()
        print(f"V = {vocabulary}: done, {float(hidden.grad.norm()):.3g}")


if __name__ == "__main__":
    main(sys.argv[1])
