"""The policy's forward: hidden states of completion tokens, and the head they go through."""

from __future__ import annotations

from typing import Any

import torch

from sectow_fast.learn.packing import PackedRows


def completion_hidden(model: Any, batch: PackedRows, codec: Any) -> torch.Tensor:
    """[N, H]: the states that predict each completion token. Images go in once a group."""
    device = batch.input_ids.device
    hidden = model.model(
        input_ids=batch.input_ids,
        attention_mask=batch.mask,
        position_ids=batch.position_ids,
        use_cache=False,
        **{name: v.to(device) for name, v in codec.pixel_inputs(batch.prompts).items()},
    ).last_hidden_state
    return hidden[batch.row, batch.column]


def banned_bias(model: Any, codec: Any) -> torch.Tensor:
    """[V] float32: -inf at tokens that rollout never samples, so both see one distribution."""
    weight = model.lm_head.weight
    bias = torch.zeros(weight.shape[0], dtype=torch.float32, device=weight.device)
    bias[list(codec.banned_ids)] = -torch.inf
    return bias
