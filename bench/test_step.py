"""Tokens a second of one GRPO step on the sandbox, by phase. `pytest bench/`.

48 groups of 8 on the default tiny LLaVA, untrained: replies run to the length limit, which is more
work than a trained model makes.
"""

from __future__ import annotations

import pytest

from sectow_fast.config import Config, DefendConfig
from sectow_fast.data.sandbox.stage import SandboxStage
from sectow_fast.engine.torch_engine import TorchEngine
from sectow_fast.learn.grpo import grpo_step
from sectow_fast.learn.optim import make_optimizer
from sectow_fast.types import Group, Reward, Sampling

CONFIG = DefendConfig()


@pytest.fixture(scope="module")
def scene():
    stage = SandboxStage(Config())
    model = stage.defender()
    prompts = stage.codec.encode(stage.world.train_cases("harmless")[: CONFIG.prompts])
    return stage, model, TorchEngine(model, stage.codec), prompts


def rollout(scene):
    _, _, engine, prompts = scene
    sampling = Sampling(max_new_tokens=CONFIG.max_new_tokens)
    return engine.generate(prompts, n=CONFIG.group_size, sampling=sampling, seed="bench")


def grouped(scene, replies, live: float):
    """Groups of which a share `live` has a signal."""
    _, _, _, prompts = scene
    return [
        Group(
            prompt=prompt,
            completions=tuple(row),
            rewards=tuple(
                Reward(total=float(j % 2) if i < live * len(prompts) else 1.0)
                for j in range(len(row))
            ),
        )
        for i, (prompt, row) in enumerate(zip(prompts, replies, strict=True))
    ]


def test_rollout(benchmark, scene):
    replies = benchmark(rollout, scene)
    tokens = sum(len(one.ids) for row in replies for one in row)
    benchmark.extra_info["tokens_per_second"] = tokens / benchmark.stats["median"]


@pytest.mark.parametrize("live", [1.0, 0.25])
def test_train(benchmark, scene, live):
    stage, model, _, _ = scene
    groups = grouped(scene, rollout(scene), live)
    optimizer = make_optimizer(model, 0.0, betas=(0.9, 0.95), weight_decay=0.0)
    benchmark(grpo_step, model, optimizer, groups, codec=stage.codec, config=CONFIG)
    tokens = sum(len(one.ids) for group in groups for one in group.completions)
    benchmark.extra_info["tokens_per_second"] = tokens / benchmark.stats["median"]
