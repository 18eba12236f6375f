"""A plain forward by transformers: what an engine's log-probs are held against."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch

from sectow_fast.types import Prompt

LogProbs = Callable[[Any, Any, Prompt, Sequence[int], float], torch.Tensor]


@torch.no_grad()
def plain_logprobs(
    model: Any, codec: Any, prompt: Prompt, ids: Sequence[int], temperature: float
) -> torch.Tensor:
    """float32 [C] on the CPU: log-probs of a completion, banned tokens left out, one sequence."""
    training = model.training
    model.eval()
    device = next(model.parameters()).device
    whole = torch.tensor([[*prompt.ids, *ids]], device=device)
    inputs = {name: value.to(device) for name, value in codec.pixel_inputs([prompt]).items()}
    if "mm_token_type_ids" in inspect.signature(model.forward).parameters:
        # M-RoPE: transformers >= 5.3 silently gives wrong positions without it.
        inputs["mm_token_type_ids"] = (whole == codec.image_id).int()
    logits = model(input_ids=whole, **inputs).logits[0, len(prompt.ids) - 1 : -1].float()
    model.train(training)
    logits[:, list(codec.banned_ids)] = -torch.inf
    rows = torch.arange(len(ids), device=device)
    return torch.log_softmax(logits / temperature, -1)[rows, whole[0, len(prompt.ids) :]].cpu()
