"""One supervised step: the loss over reply tokens only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from sectow_fast.kernels import linear_logprob
from sectow_fast.types import Prompt


def sft_step(
    model: Any,
    optimizer: torch.optim.Optimizer,
    examples: Sequence[tuple[Prompt, tuple[int, ...]]],
    *,
    codec: Any,
    max_grad_norm: float = 1.0,
) -> dict[str, float]:
    """Update `model` once on (prompt, reply ids) pairs; the head sees reply tokens only.

    A non-finite loss or gradient skips the step (`skipped` 1).
    """
    model.train()
    longest = max(len(prompt.ids) + len(reply) for prompt, reply in examples)
    ids = torch.full((len(examples), longest), codec.pad_id)
    mask = torch.zeros_like(ids)
    rows: list[int] = []
    columns: list[int] = []
    labels: list[int] = []
    for i, (prompt, reply) in enumerate(examples):
        start, end = len(prompt.ids), len(prompt.ids) + len(reply)
        ids[i, :end] = torch.tensor([*prompt.ids, *reply])
        mask[i, :end] = 1
        rows += [i] * len(reply)
        columns += range(start - 1, end - 1)
        labels += reply
    hidden = model.model(
        input_ids=ids,
        attention_mask=mask,
        use_cache=False,
        **codec.pixel_inputs([prompt for prompt, _ in examples]),
    ).last_hidden_state[torch.tensor(rows), torch.tensor(columns)]
    logp, _ = linear_logprob(hidden, model.lm_head.weight, torch.tensor(labels))
    loss = -logp.mean()
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), max_grad_norm)
    finite = bool(torch.isfinite(norm) and torch.isfinite(loss))
    if finite:
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return {
        "loss": float(loss.detach()),
        "grad_norm": float(norm),
        "skipped": float(not finite),
    }
