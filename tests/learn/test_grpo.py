from __future__ import annotations

import dataclasses

import pytest
import torch

from sectow_fast.config import GRPOConfig
from sectow_fast.engine.torch_engine import TorchEngine
from sectow_fast.learn.grpo import grpo_step
from sectow_fast.learn.optim import make_optimizer
from sectow_fast.learn.policy import Policy
from sectow_fast.types import Group, Reward, Sampling, UserError

CONFIG = GRPOConfig(group_size=4, lr=1e-3)


def rolled(stage, model, count=6, n=4, reward=lambda i, j: float((i + j) % 2)):
    cases = stage.world.train_cases("harmless")[:count]
    prompts = stage.codec.encode(cases)
    assert {p.image is None for p in prompts} == {True, False}
    replies = TorchEngine(model, stage.codec).generate(
        prompts, n=n, sampling=Sampling(max_new_tokens=6), seed="test"
    )
    return [
        Group(
            prompt=prompt,
            completions=tuple(row),
            rewards=tuple(Reward(total=reward(i, j)) for j in range(n)),
        )
        for i, (prompt, row) in enumerate(zip(prompts, replies, strict=True))
    ]


def test_rollout_and_trainer_log_probs_agree(stage, model):
    metrics = grpo_step(
        Policy(model, stage.codec),
        make_optimizer(model, 0.0, betas=(0.9, 0.95), weight_decay=0.0),
        rolled(stage, model),
        config=CONFIG,
    )
    assert metrics["mismatch_max"] < 1e-4 and metrics["mismatch_kl"] < 1e-8
    assert metrics["clip_low"] == metrics["clip_high"] == 0


def test_the_gate_stops_a_run_whose_rollout_lies(stage, model):
    groups = rolled(stage, model)
    lying = [
        dataclasses.replace(
            g,
            completions=tuple(
                dataclasses.replace(c, logprobs=tuple(x - 2.0 for x in c.logprobs))
                for c in g.completions
            ),
        )
        for g in groups
    ]
    optimizer = make_optimizer(model, 1e-3, betas=(0.9, 0.95), weight_decay=0.0)
    before = {n: p.clone() for n, p in model.state_dict().items()}
    with pytest.raises(UserError, match="mismatch"):
        grpo_step(Policy(model, stage.codec), optimizer, lying, config=CONFIG)
    assert all(torch.equal(before[n], p) for n, p in model.state_dict().items())


def test_dead_groups_change_nothing_but_the_denominator_and_cuts_change_nothing(stage, model):
    dead = rolled(stage, model, reward=lambda i, j: float(j % 2) if i < 3 else 1.0)
    state = {n: p.clone() for n, p in model.state_dict().items()}
    found = []
    for budget in (64, 16384):
        model.load_state_dict(state)
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
        config = CONFIG.model_copy(update={"tokens_per_batch": budget})
        metrics = grpo_step(Policy(model, stage.codec), optimizer, dead, config=config)
        assert metrics["dead_groups"] == 0.5
        found.append((metrics["grad_norm"], {n: p.clone() for n, p in model.state_dict().items()}))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-4)
    for name in state:
        torch.testing.assert_close(found[0][1][name], found[1][1][name], atol=1e-5, rtol=1e-4)


def test_a_batch_without_signal_leaves_the_weights_alone(stage, model):
    groups = rolled(stage, model, reward=lambda i, j: 1.0)
    before = {n: p.clone() for n, p in model.state_dict().items()}
    optimizer = make_optimizer(model, 1.0, betas=(0.9, 0.95), weight_decay=0.1)
    metrics = grpo_step(Policy(model, stage.codec), optimizer, groups, config=CONFIG)
    assert metrics["dead_groups"] == 1 and metrics["tokens_trained"] == 0
    assert all(torch.equal(before[n], p) for n, p in model.state_dict().items())


def test_non_finite_weights_skip_the_step_and_say_so(stage, model):
    groups = rolled(stage, model)
    with torch.no_grad():
        model.model.multi_modal_projector.linear_1.weight[0, 0] = torch.nan
    before = {n: p.clone() for n, p in model.state_dict().items()}
    optimizer = make_optimizer(model, 1.0, betas=(0.9, 0.95), weight_decay=0.1)
    metrics = grpo_step(Policy(model, stage.codec), optimizer, groups, config=CONFIG)
    assert metrics["skipped"] == 1
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0, equal_nan=True)


def test_a_rewarded_token_becomes_likely(stage, model):
    """The whole step learns: reward replies that start with one word, and watch its share."""
    wanted = stage.codec.encode_reply("sorry")[0]
    optimizer = make_optimizer(model, 3e-3, betas=(0.9, 0.95), weight_decay=0.0)
    engine = TorchEngine(model, stage.codec)
    prompts = stage.codec.encode(stage.world.train_cases("harmless")[:8])
    shares = []
    for step in range(30):
        replies = engine.generate(
            prompts, n=16, sampling=Sampling(max_new_tokens=2), seed=f"learn/{step}"
        )
        groups = [
            Group(
                prompt=p,
                completions=tuple(row),
                rewards=tuple(Reward(total=float(wanted in one.ids)) for one in row),
            )
            for p, row in zip(prompts, replies, strict=True)
        ]
        shares.append(sum(r.total for g in groups for r in g.rewards) / (8 * 16))
        grpo_step(Policy(model, stage.codec), optimizer, groups, config=CONFIG)
        engine.sync(model)
    assert sum(shares[-5:]) / 5 > 0.3 + sum(shares[:5]) / 5
