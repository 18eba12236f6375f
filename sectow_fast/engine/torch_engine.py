"""Rollout by transformers itself: one prefill per prompt, its cache shared by n completions."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from sectow_fast import native
from sectow_fast.engine.in_process import InProcessEngine
from sectow_fast.engine.protocol import EngineCodec
from sectow_fast.families import family_of, reply_ends
from sectow_fast.types import Completion, Prompt, Sampling


def row_seeds(seed: str, numbers: Sequence[int], n: int) -> np.ndarray:
    """uint64 [prompts, n]: one seed per completion, from (seed, prompt number, sample number)."""
    base = int.from_bytes(hashlib.blake2b(seed.encode(), digest_size=8).digest(), "little")
    number = np.asarray(numbers, dtype=np.uint64)[:, None] * np.uint64(1 << 20)
    mixed = number + np.arange(n, dtype=np.uint64)[None]
    # Philox decorrelates neighbouring keys, so an odd multiplier is mixing enough.
    return np.uint64(base) ^ (mixed * np.uint64(0x9E3779B97F4A7C15))


class TorchEngine(InProcessEngine):
    """Samples with the model's own forward and our C++ sampler.

    batch: rows (prompts x n) per forward. Results do not depend on it.
    """

    def __init__(self, model: Any, codec: EngineCodec, *, batch: int = 1536) -> None:
        super().__init__(model, codec)
        self.batch, self.family = batch, family_of(model)

    def generate(
        self,
        prompts: Sequence[Prompt],
        *,
        n: int,
        sampling: Sampling,
        seed: str,
        numbers: Sequence[int] | None = None,
    ) -> list[list[Completion]]:
        """Completions [prompts][n]; see `Engine`. Shorter prompts are padded on the left."""
        training = self.model.training
        self.model.eval()
        # Neighbours in length share a batch, so little is padded.
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i].ids))
        size = max(1, self.batch // n)
        out: list[list[Completion]] = [[] for _ in prompts]
        seeds = row_seeds(seed, range(len(prompts)) if numbers is None else numbers, n)
        with torch.inference_mode():
            for at in range(0, len(order), size):
                picked = order[at : at + size]
                groups = self._batch([prompts[i] for i in picked], n, sampling, seeds[picked])
                for i, group in zip(picked, groups, strict=True):
                    out[i] = group
        self.model.train(training)
        return out

    def _batch(
        self, prompts: list[Prompt], n: int, sampling: Sampling, seeds: np.ndarray
    ) -> list[list[Completion]]:
        from transformers import DynamicCache

        model, codec = self.model, self.codec
        device = next(model.parameters()).device
        longest = max(len(prompt.ids) for prompt in prompts)
        ids = torch.full((len(prompts), longest), codec.pad_id)
        mask = torch.zeros_like(ids)
        for i, prompt in enumerate(prompts):
            ids[i, longest - len(prompt.ids) :] = torch.tensor(prompt.ids)
            mask[i, longest - len(prompt.ids) :] = 1
        pixels = codec.pixel_inputs(prompts)
        places, begins = self._positions(prompts, longest, pixels)
        ids, mask = ids.to(device), mask.to(device)
        cache = DynamicCache(config=model.config.get_text_config())
        hidden = model.model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=places.to(device),
            past_key_values=cache,
            use_cache=True,
            **self.family.own_inputs(ids),
            **{name: value.to(device) for name, value in pixels.items()},
        ).last_hidden_state[:, -1]
        position = begins.to(device).repeat_interleave(n, 0)
        if n > 1:
            cache.batch_repeat_interleave(n)
            hidden, mask = hidden.repeat_interleave(n, 0), mask.repeat_interleave(n, 0)
        rows = np.arange(len(prompts) * n)  # which completion each row of the batch is
        flat = np.ascontiguousarray(seeds.reshape(-1))
        tokens: list[list[int]] = [[] for _ in rows]
        logps: list[list[float]] = [[] for _ in rows]
        banned = list(codec.banned_ids)
        ends = reply_ends(codec.end_ids, model)
        for step in range(sampling.max_new_tokens):
            logits = model.lm_head(hidden).float()
            if (cap := self.family.softcap) is not None:
                logits = cap * torch.tanh(logits / cap)
            logits[:, banned] = -torch.inf
            picked, logp = native.sample_tokens(
                logits.cpu().numpy(),
                temperature=sampling.temperature,
                top_k=sampling.top_k,
                top_p=sampling.top_p,
                min_p=sampling.min_p,
                seed=flat[rows],
                step=step,
            )
            for row, token, value in zip(rows, picked.tolist(), logp.tolist(), strict=True):
                tokens[row].append(token)
                logps[row].append(value)
            going = np.flatnonzero(~np.isin(picked, ends))
            if not len(going) or step + 1 == sampling.max_new_tokens:
                break
            if len(going) < len(rows):
                # Finished rows leave the batch: they would cost as much as living ones.
                keep = torch.from_numpy(going).to(device)
                cache.batch_select_indices(keep)
                mask, position = mask[keep], position[keep]
                rows, picked = rows[going], picked[going]
            mask = torch.cat([mask, mask.new_ones(len(rows), 1)], 1)
            hidden = model.model(
                input_ids=torch.from_numpy(picked.astype(np.int64))[:, None].to(device),
                attention_mask=mask,
                position_ids=self._shaped((position + step)[None].expand(self.family.axes, -1, 1)),
                past_key_values=cache,
                use_cache=True,
            ).last_hidden_state[:, -1]
        done = [
            Completion(
                ids=tuple(ids),
                logprobs=tuple(values),
                finish_reason="stop" if ids[-1] in ends else "length",
                weight_version=self.weight_version,
            )
            for ids, values in zip(tokens, logps, strict=True)
        ]
        return [done[i * n : (i + 1) * n] for i in range(len(prompts))]

    def _positions(
        self, prompts: Sequence[Prompt], longest: int, pixels: Mapping[str, torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(position_ids of prompts padded on the left, [B, 1] where their completions begin)."""
        grids = iter(pixels.get("image_grid_thw", ()))
        places = torch.zeros(self.family.axes, len(prompts), longest, dtype=torch.long)
        begins = torch.zeros(len(prompts), 1, dtype=torch.long)
        for i, prompt in enumerate(prompts):
            places[:, i, longest - len(prompt.ids) :], begins[i] = self.family.positions(
                prompt.ids, list(itertools.islice(grids, len(prompt.images)))
            )
        return self._shaped(places), begins

    def _shaped(self, places: torch.Tensor) -> torch.Tensor:
        """[axes, B, L] as the model wants it: without the axes where there is one."""
        return places[0] if self.family.axes == 1 else places
