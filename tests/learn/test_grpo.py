from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from sectow_fast.config import GRPOConfig
from sectow_fast.engine.torch_engine import TorchEngine
from sectow_fast.learn.grpo import grpo_step
from sectow_fast.learn.optim import make_optimizer
from sectow_fast.learn.policy import Policy
from sectow_fast.learn.ranks import Ranks
from sectow_fast.types import Group, Reward, Sampling, UserError

CONFIG = GRPOConfig(group_size=4, lr=1e-3)


def rolled(stage, model, count=6, n=4, reward=lambda i, j: float((i + j) % 2)):
    cases = stage.world.train_cases("harmless")[:count]
    prompts = stage.codec.encode(cases)
    assert {not p.images for p in prompts} == {True, False}
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


def test_a_run_whose_rollout_log_probs_are_wrong_is_stopped(stage, model):
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


# ---- what is measured


def shifted(groups, by):
    return [
        dataclasses.replace(
            g,
            completions=tuple(
                dataclasses.replace(c, logprobs=tuple(x + by for x in c.logprobs))
                for c in g.completions
            ),
        )
        for g in groups
    ]


@pytest.mark.parametrize("by", [0.1, -0.2])
@pytest.mark.parametrize("budget", [64, 16384])
def test_the_mismatch_is_the_mean_estimate_per_token_and_its_largest_difference(
    stage, model, by, budget
):
    groups = shifted(rolled(stage, model), by)
    expected = math.exp(-by) - 1 + by
    policy, optimizer = Policy(model, stage.codec), torch.optim.SGD(model.parameters(), lr=0.0)

    def step(bound):
        config = CONFIG.model_copy(update={"mismatch_max": bound, "tokens_per_batch": budget})
        return grpo_step(policy, optimizer, groups, config=config)

    found = step(expected * 1.001)
    assert found["mismatch_kl"] == pytest.approx(expected, rel=1e-4)
    assert found["mismatch_max"] == pytest.approx(abs(by), rel=1e-4)
    with pytest.raises(UserError, match=r"found a mismatch of .* expected <= "):
        step(expected * 0.999)


def test_a_step_of_finite_loss_and_infinite_gradient_is_skipped(stage, model):
    class Overflowing(Ranks):
        def grad_norm(self, model, bound):
            super().grad_norm(model, bound)
            return math.inf

    groups = rolled(stage, model)
    before = {n: p.clone() for n, p in model.state_dict().items()}
    policy = Policy(model, stage.codec, ranks=Overflowing())
    metrics = grpo_step(policy, torch.optim.SGD(model.parameters(), lr=1.0), groups, config=CONFIG)
    assert math.isfinite(metrics["loss"]) and metrics["skipped"] == 1
    assert all(torch.equal(before[n], p) for n, p in model.state_dict().items())


@pytest.mark.parametrize("groups_per_row", [1, 2])
def test_tokens_and_dead_groups_are_counted(stage, model, groups_per_row):
    groups = rolled(stage, model, reward=lambda i, j: float(j % 2) if i < 2 else 0.0)
    policy, optimizer = Policy(model, stage.codec), torch.optim.SGD(model.parameters(), lr=0.0)
    sizes = [sum(len(one.ids) for one in group.completions) for group in groups]
    whole = [size + len(g.prompt.ids) for size, g in zip(sizes, groups, strict=True)]
    config = CONFIG.model_copy(update={"tokens_per_batch": groups_per_row * max(whole[:2])})
    found = grpo_step(policy, optimizer, groups, config=config)
    assert found["tokens"] == sum(sizes)
    assert found["tokens_trained"] == sum(whole[:2])
    assert found["dead_groups"] == pytest.approx(4 / 6) and found["skipped"] == 0.0
    dead = grpo_step(policy, optimizer, groups[2:], config=CONFIG)
    assert dead == {
        "tokens": float(sum(sizes[2:])),
        "tokens_trained": 0.0,
        "dead_groups": 1.0,
        "cut_replies": dead["cut_replies"],
        "loss": 0.0,
        "grad_norm": 0.0,
        "skipped": 0.0,
    }


def test_gradients_are_clipped_and_leave_nothing_behind(stage, model):
    groups = rolled(stage, model)
    policy = Policy(model, stage.codec)
    moved = {}
    for bound in (1e-3, 2e-3):
        before = {n: p.detach().clone() for n, p in model.named_parameters()}
        optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
        config = CONFIG.model_copy(update={"max_grad_norm": bound})
        metrics = grpo_step(policy, optimizer, groups, config=config)
        assert metrics["grad_norm"] > 1  # the norm before it was clipped
        squares = [(p.detach() - before[n]).square().sum() for n, p in model.named_parameters()]
        moved[bound] = float(torch.stack(squares).sum().sqrt())
        model.load_state_dict(before, strict=False)
        assert all(p.grad is None for p in model.parameters())
    assert moved[1e-3] == pytest.approx(1e-3, rel=1e-3)
    assert moved[2e-3] == pytest.approx(2e-3, rel=1e-3)


def test_gradients_left_by_others_do_not_count(stage, model):
    groups = rolled(stage, model)
    policy, optimizer = Policy(model, stage.codec), torch.optim.SGD(model.parameters(), lr=0.0)
    clean = grpo_step(policy, optimizer, groups, config=CONFIG)["grad_norm"]
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 7.0)
    assert grpo_step(policy, optimizer, groups, config=CONFIG)["grad_norm"] == clean


def test_a_step_trains_in_training_mode(stage, model):
    policy = Policy(model, stage.codec)
    policy.eval()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    grpo_step(policy, optimizer, rolled(stage, model), config=CONFIG)
    assert policy.training and model.training
