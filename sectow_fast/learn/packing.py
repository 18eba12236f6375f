"""Groups laid out as shared-prefix rows: `[prompt | c1 | c2 | ... | cG]`.

The prompt (in a VLM most of the work, image and all) is computed once a group. Positions of each
completion go on from the prompt, and a completion sees the prompt and itself only, so the hidden
states are those of G separate rows: exact, not approximate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from sectow_fast.types import Completion, Prompt


@dataclass(frozen=True, kw_only=True)
class PackedRows:
    """B groups as rows of L tokens, padded on the right.

    input_ids, position_ids [B, L]; mask [B, 1, L, L] additive; per completion token (N in all, in
    order of group, completion, token): row [N] and column [N] of the position that predicts it,
    labels [N], rollout_logp [N], owner [N] (the completion's number).
    """

    prompts: tuple[Prompt, ...]
    input_ids: torch.Tensor
    position_ids: torch.Tensor
    mask: torch.Tensor
    row: torch.Tensor
    column: torch.Tensor
    labels: torch.Tensor
    rollout_logp: torch.Tensor
    owner: torch.Tensor


def row_length(prompt: Prompt, completions: Sequence[Completion]) -> int:
    """Tokens of a group's row."""
    return len(prompt.ids) + sum(len(one.ids) for one in completions)


def micro_batches(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Indices grouped so that rows x longest stays within `budget`; like lengths side by side.

    A row longer than the budget is a batch of its own: it cannot be cut without changing it.
    """
    order = sorted(range(len(lengths)), key=lambda i: (lengths[i], i))
    batches: list[list[int]] = []
    for i in order:
        if batches and (len(batches[-1]) + 1) * lengths[i] <= budget:
            batches[-1].append(i)
        else:
            batches.append([i])
    return batches


def pack(
    groups: Sequence[tuple[Prompt, Sequence[Completion]]], *, pad_id: int, dtype: torch.dtype
) -> PackedRows:
    """Lay groups out as rows. `dtype` is that of the additive mask (the model's)."""
    longest = max(row_length(prompt, completions) for prompt, completions in groups)
    shape = (len(groups), longest)
    ids = torch.full(shape, pad_id)
    positions = torch.zeros(shape, dtype=torch.long)
    # Segment 0 is the prompt, 1..G the completions, -1 padding (which sees itself, never NaN).
    segments = torch.full(shape, -1)
    rows, columns, labels, logps, owners = [], [], [], [], []
    count = 0
    for b, (prompt, completions) in enumerate(groups):
        at = len(prompt.ids)
        ids[b, :at] = torch.tensor(prompt.ids)
        positions[b, :at] = torch.arange(at)
        segments[b, :at] = 0
        for g, one in enumerate(completions):
            size = len(one.ids)
            ids[b, at : at + size] = torch.tensor(one.ids)
            positions[b, at : at + size] = torch.arange(size) + len(prompt.ids)
            segments[b, at : at + size] = g + 1
            rows += [b] * size
            # The first token of every completion is predicted by the prompt's last.
            columns += [len(prompt.ids) - 1, *range(at, at + size - 1)]
            labels += one.ids
            logps += one.logprobs
            owners += [count] * size
            count += 1
            at += size
    index = torch.arange(longest)
    causal = index[:, None] >= index[None]
    query, key = segments[:, :, None], segments[:, None, :]
    seen = causal & ((key == query) | ((key == 0) & (query > 0)))
    mask = torch.zeros(len(groups), 1, longest, longest, dtype=dtype)
    mask.masked_fill_(~seen[:, None], torch.finfo(dtype).min)
    return PackedRows(
        prompts=tuple(prompt for prompt, _ in groups),
        input_ids=ids,
        position_ids=positions,
        mask=mask,
        row=torch.tensor(rows),
        column=torch.tensor(columns),
        labels=torch.tensor(labels),
        rollout_logp=torch.tensor(logps),
        owner=torch.tensor(owners),
    )
