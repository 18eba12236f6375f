from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from sectow_fast.kernels.loss_oracle import policy_loss_oracle

from sectow_fast.config import GRPOConfig, LossConfig
from sectow_fast.engine.torch_engine import TorchEngine
from sectow_fast.kernels import PolicyLossConfig
from sectow_fast.learn.grpo import advantages_of, grpo_step, loss_config, normalizer_of
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


# ---- what goes into the loss


def by_hand(policy, groups, config, advantages, reference=None):
    """(loss, gradient norm) by the oracle over one row of all groups with a signal."""
    policy.train()
    policy.zero_grad()
    live = [i for i, row in enumerate(advantages) if any(row)]
    pairs = [(groups[i].prompt, groups[i].completions) for i in live]
    ((row, pieces),) = policy.rows(pairs, 10**6)
    order = [advantages[live[piece.group]][j] for piece in pieces for j in piece.picked]
    logp, entropy = policy(row, temperature=config.temperature)
    ref_logp = None
    if reference is not None:
        ref_logp = reference(row, temperature=config.temperature)[0].detach()
    loss = policy_loss_oracle(
        logp,
        torch.tensor(order)[row.owner],
        ref_logp=ref_logp,
        rollout_logp=row.rollout_logp,
        sequence_ids=row.owner,
        entropy=entropy,
        normalizer=float(normalizer_of(groups, config)),
        config=loss_config(config.loss),
    )
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(policy.parameters(), 1e9)
    policy.zero_grad()
    return float(loss.detach()), float(norm), float(entropy.detach().mean()), len(logp)


SETTINGS = {
    "default": {},
    "sequence": {"ratio": "sequence", "reduction": "seq-mean"},
    "cispo": {"ratio": "cispo"},
    "sapo": {"ratio": "sapo", "sapo_pos": 2.0, "sapo_neg": 0.5},
    "seq-mean": {"reduction": "seq-mean"},
    "seq-sum": {"reduction": "seq-sum"},
    "constant": {"reduction": "constant"},
    "entropy": {"entropy_coef": 0.1},
    "kl": {"kl_coef": 0.5},
    "k1 unbiased": {"kl_coef": 0.5, "kl": "k1", "kl_unbiased": True},
    "truncated": {"tis_cap": 0.9},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_every_loss_setting_reaches_the_update(stage, model, name):
    """Loss and gradient are the oracle's, whichever row a group lies in."""
    config = GRPOConfig(loss=SETTINGS[name], temperature=0.8, max_new_tokens=6, max_grad_norm=1e9)
    groups = rolled(stage, model, reward=lambda i, j: float(j == i % 4) if i else 1.0)
    # Rollout as another temperature saw it, so that importance weights are not all 1.
    policy, reference = Policy(model, stage.codec), None
    if config.loss.kl_coef:
        other = stage.defender()
        with torch.no_grad():
            other.lm_head.weight.mul_(1.3)
        reference = Policy(other, stage.codec)
    advantages, signal = advantages_of(groups, config)
    assert signal == [False] + [True] * 5
    wanted = by_hand(policy, groups, config, advantages, reference)
    for budget in (64, 16384):
        cut = config.model_copy(update={"tokens_per_batch": budget, "mismatch_max": 1e9})
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        found = grpo_step(policy, optimizer, groups, config=cut, reference=reference)
        assert found["loss"] == pytest.approx(wanted[0], rel=1e-4, abs=1e-6)
        assert found["grad_norm"] == pytest.approx(wanted[1], rel=1e-3)
        assert found["entropy"] == pytest.approx(wanted[2], rel=1e-4)
        assert found["kl"] > 0.01 if reference else found["kl"] == 0


def test_settings_differ_in_what_they_learn(stage, model):
    """So that the test above cannot pass with a setting that nothing reads."""
    groups = rolled(stage, model, reward=lambda i, j: float(j == i % 4) if i else 1.0)
    policy, found = Policy(model, stage.codec), {}
    for name, loss in SETTINGS.items():
        if loss.get("kl_coef"):
            continue
        config = GRPOConfig(loss=loss, temperature=0.8, max_new_tokens=6)
        found[name] = by_hand(policy, groups, config, advantages_of(groups, config)[0])[1]
    # On-policy, SAPO's slope at a ratio of 1 is that of the clip, and so is CISPO's.
    assert found["sapo"] == pytest.approx(found["default"]) == pytest.approx(found["cispo"])
    others = [found[n] for n in found if n not in ("sapo", "cispo")]
    assert len({round(x, 6) for x in others}) == len(others)


def test_a_loss_section_has_every_setting_of_the_kernels_with_its_default():
    assert loss_config(LossConfig()) == PolicyLossConfig()
    names = {field.name for field in dataclasses.fields(PolicyLossConfig)} - {"options"}
    assert set(LossConfig.model_fields) == names
    changed = {"clip_low": 0.1, "dual_clip": 3.0, "kl": "k2", "reduction": "seq-sum"}
    assert loss_config(LossConfig(**changed)) == PolicyLossConfig(**changed)
    with pytest.raises(ValueError, match="ratio: found 'tokn'"):
        loss_config(LossConfig(ratio="tokn"))
    with pytest.raises(ValueError, match="softness"):
        loss_config(LossConfig(softness=0.5))


def test_the_normalizer_is_a_count_over_the_whole_batch(stage, model):
    groups = rolled(stage, model)
    tokens = sum(len(one.ids) for group in groups for one in group.completions)

    def normalizer(reduction):
        return normalizer_of(groups, GRPOConfig(loss={"reduction": reduction}, max_new_tokens=6))

    assert normalizer("token-mean") == tokens
    assert normalizer("seq-mean") == normalizer("seq-sum") == 24
    assert normalizer("constant") == 24 * 6


def test_advantages_are_by_group_and_equal_rewards_have_no_signal(stage, model):
    groups = rolled(stage, model, count=3, reward=lambda i, j: (1.0, float(j == 0), float(j))[i])
    ragged = dataclasses.replace(
        groups[1], completions=groups[1].completions[:3], rewards=groups[1].rewards[:3]
    )
    batch = [groups[0], ragged, groups[2]]
    rows, signal = advantages_of(batch, GRPOConfig(scale="none"))
    assert signal == [False, True, True]
    assert rows[0] == [0.0] * 4
    assert rows[1] == pytest.approx([2 / 3, -1 / 3, -1 / 3])
    assert rows[2] == pytest.approx([-1.5, -0.5, 0.5, 1.5])
    loo, _ = advantages_of(batch, GRPOConfig(scale="none", baseline="loo"))
    assert loo[2] == pytest.approx([-2.0, -2 / 3, 2 / 3, 2.0])
    std, _ = advantages_of(batch, GRPOConfig(scale="std"))
    assert std[2][3] == pytest.approx(1.5 / (5 / 3) ** 0.5, rel=1e-3)


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


def test_tokens_and_dead_groups_are_counted(stage, model):
    groups = rolled(stage, model, reward=lambda i, j: float(j % 2) if i < 2 else 0.0)
    policy, optimizer = Policy(model, stage.codec), torch.optim.SGD(model.parameters(), lr=0.0)
    found = grpo_step(policy, optimizer, groups, config=CONFIG)
    sizes = [sum(len(one.ids) for one in group.completions) for group in groups]
    assert found["tokens"] == sum(sizes)
    assert found["tokens_trained"] == sum(sizes[:2]) + sum(len(g.prompt.ids) for g in groups[:2])
    assert found["dead_groups"] == pytest.approx(4 / 6) and found["skipped"] == 0.0
    dead = grpo_step(policy, optimizer, groups[2:], config=CONFIG)
    assert dead == {
        "tokens": float(sum(sizes[2:])),
        "tokens_trained": 0.0,
        "dead_groups": 1.0,
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
