"""An engine from outside: transformers' own `model.generate`, one sequence at a time.

It stands for a file outside the package: `--plugins engine.py --engine.kind generate`.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch

from sectow_fast.engine.in_process import InProcessEngine
from sectow_fast.engine.registry import register_engine
from sectow_fast.families import reply_ends
from sectow_fast.types import Completion, Prompt, Sampling


class GenerateEngine(InProcessEngine):
    """Slow and plain: each sample is one call, with a seed of its own."""

    def generate(
        self,
        prompts: Sequence[Prompt],
        *,
        n: int,
        sampling: Sampling,
        seed: str,
        numbers: Sequence[int] | None = None,
    ) -> list[list[Completion]]:
        numbers = range(len(prompts)) if numbers is None else numbers
        training = self.model.training
        self.model.eval()
        # The trainer's own random numbers go on as if nothing had been drawn here.
        with torch.random.fork_rng(), torch.no_grad():
            drawn = [
                [self._one(prompt, sampling, f"{seed}/{number}/{j}") for j in range(n)]
                for prompt, number in zip(prompts, numbers, strict=True)
            ]
        self.model.train(training)
        return drawn

    def _one(self, prompt: Prompt, sampling: Sampling, seed: str) -> Completion:
        codec, device = self.codec, self.model.device
        ends = reply_ends(codec.end_ids, self.model)
        torch.manual_seed(random.Random(seed).getrandbits(63))
        ids = torch.tensor([prompt.ids], device=device)
        pixels = codec.pixel_inputs([prompt])
        drawing = {"do_sample": False}
        if sampling.temperature:
            drawing = {
                "do_sample": True,
                "temperature": sampling.temperature,
                "top_k": sampling.top_k,
                "top_p": sampling.top_p,
                "min_p": sampling.min_p or None,
            }
        done = self.model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            **{name: value.to(device) for name, value in pixels.items()},
            **drawing,
            max_new_tokens=sampling.max_new_tokens,
            suppress_tokens=list(codec.banned_ids),
            eos_token_id=list(ends),
            pad_token_id=codec.pad_id,
            return_dict_in_generate=True,
            output_logits=True,
        )
        new = done.sequences[0, len(prompt.ids) :]
        # Log-probs are of the full vocabulary at this temperature, before any truncation.
        logits = torch.cat(done.logits).float() / (sampling.temperature or 1.0)
        logits[:, list(codec.banned_ids)] = -torch.inf
        logprobs = logits.log_softmax(-1).gather(1, new[:, None])[:, 0]
        return Completion(
            ids=tuple(new.tolist()),
            logprobs=tuple(logprobs.tolist()),
            finish_reason="stop" if int(new[-1]) in ends else "length",
            weight_version=self.weight_version,
        )


register_engine("generate", GenerateEngine)
