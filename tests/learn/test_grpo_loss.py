"""What goes into the policy loss: every setting, every advantage, every count."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from sectow_fast.kernels.loss_oracle import policy_loss_oracle
from sectow_fast.kernels.loss_registry import policy_loss_named
from test_grpo import rolled

from sectow_fast.config import GRPOConfig, LossConfig
from sectow_fast.kernels import PolicyLossConfig, loss_registry
from sectow_fast.learn.grpo import advantages_of, grpo_step, loss_config, normalizer_of
from sectow_fast.learn.policy import Policy


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
        cut = config.model_copy(
            update={"tokens_per_batch": budget, "mismatch_max": 1e9, "mismatch_token": None}
        )
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        found = grpo_step(policy, optimizer, groups, config=cut, reference=reference)
        assert found["loss"] == pytest.approx(wanted[0], rel=1e-4, abs=1e-6)
        assert found["grad_norm"] == pytest.approx(wanted[1], rel=1e-3)
        assert found["entropy"] == pytest.approx(wanted[2], rel=1e-4)
        assert found["kl"] > 0.01 if reference else found["kl"] == 0


def test_settings_differ_in_what_they_learn(stage, model):
    """So that the test above cannot pass with a setting that nothing reads."""
    groups = rolled(stage, model, reward=lambda i, j: float(j == i % 4) if i else 1.0)
    policy = Policy(model, stage.codec)

    def norm(name):
        config = GRPOConfig(loss=SETTINGS[name], temperature=0.8, max_new_tokens=6)
        return by_hand(policy, groups, config, advantages_of(groups, config)[0])[1]

    default = norm("default")
    for name in ("seq-mean", "seq-sum", "constant", "entropy", "truncated"):
        assert norm(name) != pytest.approx(default, rel=1e-3), name
    # With one update per batch the ratio is 1: there all four losses have one slope.
    assert norm("sapo") == pytest.approx(default) == pytest.approx(norm("cispo"))
    assert norm("sequence") == pytest.approx(norm("seq-mean"))


def test_a_loss_section_has_every_setting_of_the_kernels_with_its_default():
    assert loss_config(LossConfig()) == PolicyLossConfig()
    names = {field.name for field in dataclasses.fields(PolicyLossConfig)} - {"options"}
    assert set(LossConfig.model_fields) == names
    # A number of a loss is either a field of the configuration or one of its options.
    assert set(loss_registry.SHARED) | loss_registry.FIELDS == names | {"options"}
    assert not set(loss_registry.SHARED) & loss_registry.FIELDS
    for name in (*("token", "sequence", "cispo", "sapo"), *("k1", "k2", "k3")):
        known = loss_registry.kl_estimate_named if name[0] == "k" else policy_loss_named
        for number, default in known(name).numbers.items():
            assert default == (getattr(PolicyLossConfig(), number) or 0.0), (name, number)
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
    # A weight outlasts the division by the rewards' spread.
    heavy = [batch[0], ragged, dataclasses.replace(groups[2], weight=2.0)]
    weighed, live = advantages_of(heavy, GRPOConfig(scale="std"))
    assert weighed[2] == [2 * one for one in std[2]] and weighed[:2] == std[:2] and live == signal
