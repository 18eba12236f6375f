"""One supervised step: the loss over reply tokens only."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from sectow_fast.learn.policy import Policy
from sectow_fast.types import Completion, Prompt


def sft_step(
    policy: Policy,
    optimizer: torch.optim.Optimizer,
    examples: Sequence[tuple[Prompt, tuple[int, ...]]],
    *,
    tokens_per_batch: int = 16384,
    max_grad_norm: float = 1.0,
) -> dict[str, float]:
    """Update `policy` once on (prompt, reply ids) pairs: the mean over all reply tokens.

    Rows are packed as in GRPO, with one group of one completion per example. A non-finite loss or
    gradient skips the step (`skipped` 1).
    """
    policy.train()
    optimizer.zero_grad(set_to_none=True)
    groups = [
        (
            prompt,
            (Completion(ids=tuple(reply), logprobs=(0.0,) * len(reply), finish_reason="stop"),),
        )
        for prompt, reply in examples
    ]
    tokens = sum(len(reply) for _, reply in examples)
    total = torch.zeros((), dtype=torch.float64, device=policy.device)  # read once, at the end
    for row, _ in policy.rows(groups, tokens_per_batch):
        logp, _ = policy(row, ban=False)
        loss = -logp.sum() / tokens
        loss.backward()
        total += loss.detach()
    loss = policy.ranks.summed({"loss": float(total)})["loss"]
    policy.forget_dummy(groups)
    norm = policy.ranks.grad_norm(policy, max_grad_norm)
    finite = bool(torch.isfinite(torch.tensor([norm, loss])).all())
    if finite:
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return {"loss": loss, "grad_norm": norm, "skipped": float(not finite)}
