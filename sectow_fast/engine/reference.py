"""What an engine's log-probs are held against: a forward of the trainer's, and how near is near."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch

from sectow_fast.families import family_of
from sectow_fast.types import Completion, Prompt, UserError

# (rows, temperature) -> |the trainer's log-prob - the engine's| of every token of the rows' ends.
Gaps = Callable[[Sequence[tuple[Prompt, Completion]], float], torch.Tensor]

# The largest 99th percentile of a sound engine, by the lowest precision in use. float32: sums in
# another order; no token of any model leaves a ratio of [0.9, 1.1] (verl#6280). bfloat16: there,
# another shape of the batch alone takes 6.9 % of the tokens of Qwen2.5-3B out of that range, 5.6 %
# with 7B. A normal error that does so has a mean of 0.04 and a 99th percentile of 0.14. We allow
# 0.1 and 0.5. A parameter that no push reached is over both.
TOLERANCE = {"float32": 1e-3, "bfloat16": 0.5}
MEAN_SHARE = 0.2  # of that bound, for the mean


def plain_gaps(model: Any, codec: Any) -> Gaps:
    """By `plain_logprobs`, for a model that is whole on this process."""

    def gaps(rows: Sequence[tuple[Prompt, Completion]], temperature: float) -> torch.Tensor:
        return torch.cat(
            [
                plain_logprobs(model, codec, prompt, one.ids, temperature)
                - torch.tensor(one.logprobs)
                for prompt, one in rows
            ]
        ).abs()

    return gaps


def check_gaps(gaps: torch.Tensor, *, tolerance: float, name: str) -> None:
    """UserError where the 99th percentile of `gaps` is over `tolerance`, or their mean over a fifth
    of it. Single tokens may be further apart, which rounding makes of them in sound engines too."""
    mean, tail = gaps.mean().item(), torch.quantile(gaps, 0.99).item()
    if mean <= MEAN_SHARE * tolerance and tail <= tolerance:
        return
    raise UserError(
        f"engine {name}: log-probs of the first rollout are {mean:.3g} from the trainer's in the"
        f" mean and {tail:.3g} at the 99th percentile, expected <= {MEAN_SHARE * tolerance:.3g} and"
        f" <= {tolerance:.3g} (engine.logprob_tolerance); look at weight names, image features,"
        " precision and temperature"
    )


@torch.no_grad()
def plain_logprobs(
    model: Any, codec: Any, prompt: Prompt, ids: Sequence[int], temperature: float
) -> torch.Tensor:
    """float32 [C] on the CPU: log-probs of a completion, banned tokens left out, one sequence."""
    training = model.training
    model.eval()
    device = next(model.parameters()).device
    whole = torch.tensor([[*prompt.ids, *ids]], device=device)
    pixels = family_of(model).model_inputs(codec.pixel_inputs([prompt]))
    inputs = {name: value.to(device) for name, value in pixels.items()}
    known = inspect.signature(model.forward).parameters
    # Which tokens are a picture's: without it transformers >= 5.3 silently gives a Qwen-VL wrong
    # positions, and Gemma 3 pictures whose tokens do not see each other.
    marked = [name for name in ("mm_token_type_ids", "token_type_ids") if name in known]
    inputs |= {name: (whole == codec.image_id).long() for name in marked}
    logits = model(input_ids=whole, **inputs).logits[0, len(prompt.ids) - 1 : -1].float()
    model.train(training)
    logits[:, list(codec.banned_ids)] = -torch.inf
    rows = torch.arange(len(ids), device=device)
    return torch.log_softmax(logits / temperature, -1)[rows, whole[0, len(prompt.ids) :]].cpu()
