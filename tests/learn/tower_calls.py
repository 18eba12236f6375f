"""Calls of a row of four pictures of 1,024 tokens, by transformers' tower and by ours.

    python tests/learn/tower_calls.py

A Qwen2.5-VL with a tower of 32 blocks and a decoder of two layers, forward and recompute. Calls are
counted by functions in the place of torch's; what attention returns does not matter to the count.
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import Any
from unittest import mock

import torch

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).parents[2])]

from families import IMAGE, ROPE, SPECIAL, TEXT, completion

from sectow_fast.config import LearnConfig
from sectow_fast.learn import attention, attention_sdpa
from sectow_fast.learn.policy import Policy, make_policy
from sectow_fast.types import Prompt

TOKENS = 1024


class Large:
    """The codec of pictures of 1,024 tokens."""

    pad_id, end_ids, image_id, banned_ids = 0, (1,), IMAGE, (0, IMAGE)

    def pixel_inputs(self, prompts: Any) -> dict[str, torch.Tensor]:
        draw = torch.Generator().manual_seed(3)
        count = len(prompts)
        return {
            "pixel_values": torch.randn(count * 64 * 64, 3 * 2 * 14 * 14, generator=draw),
            "image_grid_thw": torch.tensor([[1, 64, 64]] * count),
        }

    def prefetch(self, prompts: Any) -> None:
        pass


def policy_of() -> Policy:
    import transformers

    torch.manual_seed(0)
    vision = dict(depth=32, num_heads=1, patch_size=14, spatial_merge_size=2)
    vision |= dict(temporal_patch_size=2, hidden_size=8, out_hidden_size=32, intermediate_size=16)
    vision |= dict(window_size=112, fullatt_block_indexes=[7, 15, 23, 31])
    config = transformers.Qwen2_5_VLConfig(
        text_config=TEXT | dict(rope_parameters=ROPE, max_position_embeddings=8192),
        vision_config=vision,
        image_token_id=IMAGE,
        **SPECIAL,
    )
    model = transformers.Qwen2_5_VLForConditionalGeneration(config)
    policy = make_policy(model, Large(), LearnConfig(gradient_checkpointing=True))
    policy.train()
    return policy


def with_their_tower(policy: Policy) -> None:
    """Let the tower compute as transformers does it, from pixels and grids alone."""
    model = policy.model
    own = attention.implementations(model) | {"vision_config": "sdpa"}
    attention.put(model, own)

    def compute(pixels: Any, device: torch.device) -> Any:
        return model.model.get_image_features(**pixels, return_dict=True)

    policy.tower.compute = compute  # type: ignore[method-assign]


def counted(policy: Policy) -> tuple[int, int]:
    """(calls of scaled_dot_product_attention, `.tolist()` and `.item()`) of the row."""
    prompts = [Prompt(case_id=k, ids=(5, *[IMAGE] * TOKENS, 6), images=(k,)) for k in "abcd"]
    ((row, _),) = policy.rows([(p, [completion(3, 1)]) for p in prompts], 8192)
    found: Counter[str] = Counter()

    def counts(name: str, function: Any) -> Any:
        def call(*given: Any, **named: Any) -> Any:
            found[name] += 1
            return function(*given, **named)

        return call

    attend = counts("calls", lambda query, key, value, **_: query + key.mean() + value.mean())
    name = "scaled_dot_product_attention"
    with (
        mock.patch.object(torch.nn.functional, name, attend),
        mock.patch.object(attention_sdpa, name, attend),
        mock.patch.object(torch.Tensor, "tolist", counts("reads", torch.Tensor.tolist)),
        mock.patch.object(torch.Tensor, "item", counts("reads", torch.Tensor.item)),
    ):
        policy(row)[0].sum().backward()
    return found["calls"], found["reads"]


def main() -> None:
    for who in ("transformers", "ours"):
        policy = policy_of()
        if who == "transformers":
            with_their_tower(policy)
        calls, reads = counted(policy)
        print(f"{who}: {calls:,} calls of attention, {reads:,} reads")


if __name__ == "__main__":
    main()
