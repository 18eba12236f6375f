"""An update of each GPU preset on the card: its settings, its class, its plan's longest row, tiny.

`tiny` and `settings` are what `test_twin.py` makes the plan for.
"""

from __future__ import annotations

import json
from typing import Any

import torch

from sectow_fast.config import GRPOConfig, LearnConfig
from sectow_fast.learn.memory import KNOWN
from sectow_fast.settings import PRESETS, load_config

MODELS = {"qwen2.5-vl-3b-1gpu": "qwen2.5-vl-3b", "qwen2.5-vl-7b-8gpu": "qwen2.5-vl-7b"}
CONTEXT, IDS = 96, 512
TEXT = dict(
    hidden_size=64,
    intermediate_size=256,
    num_hidden_layers=4,
    num_attention_heads=4,
    num_key_value_heads=2,
    vocab_size=IDS,
    pad_token_id=0,
    bos_token_id=1,
    eos_token_id=1,
)
TOWER = dict(
    depth=3,
    hidden_size=32,
    intermediate_size=64,
    num_heads=2,
    window_size=56,
    fullatt_block_indexes=[1],
    out_hidden_size=64,
)


def tiny(preset: str) -> Any:
    """The configuration of the preset's model with small numbers; what is tied stays tied."""
    from transformers import AutoConfig

    known = json.loads(KNOWN.read_text())[MODELS[preset]]
    rope = known["text_config"]["rope_parameters"] | {"mrope_section": [2, 3, 3]}
    text = known["text_config"] | TEXT | {"rope_parameters": rope}
    special = dict(image_token_id=500, video_token_id=501, vision_start_token_id=502)
    vision = known["vision_config"] | TOWER
    return AutoConfig.for_model(**known | {"text_config": text, "vision_config": vision} | special)


def settings(preset: str, *, adapters: bool) -> tuple[LearnConfig, GRPOConfig]:
    """How the preset trains, with rows of a few hundred tokens."""
    config = load_config(PRESETS / f"{preset}.toml")
    learn = config.learn.model_copy(update={"attention": "sdpa", "lora_rank": 4 if adapters else 0})
    rows = {"max_new_tokens": 16, "tokens_per_batch": 416, "mismatch_max": 1e9}
    rows |= {"mismatch_token": None}
    return learn, config.attack.model_copy(update=rows)


def told(ids: tuple[int, ...], number: int) -> tuple[int, ...]:
    """The reply's ids, different for each reply of a group."""
    return tuple(6 + (7 * number + at) % 400 for at in range(len(ids)))


def played(preset: str, *, adapters: bool, ranks: Any) -> dict[str, Any]:
    """What one update of two rows for each rank met on the card; see `steps.met`."""
    import dataclasses

    import steps
    from tensors import card, to_card
    from transformers import AutoModelForImageTextToText

    from sectow_fast.families import family_of
    from sectow_fast.kernels import dispatch
    from sectow_fast.learn import attention
    from sectow_fast.learn.lora import add_adapters
    from sectow_fast.learn.optim import make_optimizer
    from sectow_fast.learn.policy import make_policy
    from sectow_fast.learn.shapes import ProbeCodec, probe_groups

    torch.manual_seed(0)
    learn, grpo = settings(preset, adapters=adapters)
    model = AutoModelForImageTextToText.from_config(tiny(preset), dtype=torch.float32)
    if adapters:
        add_adapters(model, rank=learn.lora_rank, alpha=learn.lora_alpha)
    to_card(model)
    family = family_of(model)
    prompt = CONTEXT - grpo.max_new_tokens
    codec = ProbeCodec(family, model.config, prompt - 1)
    groups = probe_groups(
        codec, family, prompt=prompt, reply=grpo.max_new_tokens, tokens=grpo.tokens_per_batch
    )
    # Replies that are alike have advantages that cancel, and then there is no gradient.
    groups = [
        (prompt, [dataclasses.replace(one, ids=told(one.ids, j)) for j, one in enumerate(done)])
        for prompt, done in groups
    ]
    groups = [
        (dataclasses.replace(prompt, case_id=str(number)), done)
        for number, (prompt, done) in enumerate(groups * 2 * ranks.world)
    ]
    dummy = groups[0][0]
    with card(), dispatch.plain():
        plain = learn.model_copy(update={"lora_rank": 0, "picture_gib": 0.0})
        policy = make_policy(model, codec, plain, ranks=ranks, dummy=dummy, apart=True)
        attention.install(model, "fused", steps.fused)
        optimizer = make_optimizer(policy, 1e-4, betas=(0.9, 0.95), weight_decay=0.0)

        def step(them: Any) -> dict[str, float]:
            return steps.grpo_step(policy, optimizer, them, grpo)

        step(groups[: ranks.world])  # makes the optimizer's state
        rows = sum(1 for _ in policy.rows(groups, grpo.tokens_per_batch))
        return steps.met(step, groups, rows)
